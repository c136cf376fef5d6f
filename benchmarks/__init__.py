"""Benchmarks: each file here measures one promise beside a peer, in the same run.

    python -m benchmarks                     the names, a line each
    python -m benchmarks NAME [--quick] [--json FILE]

A benchmark is a module or package in this folder (all but `harness`). The first line of its docstring
is its line in the list; `run(options)` measures, and returns the claims it measured::

    '''Parsing a row: ours against json's.'''

    from argparse import ArgumentParser, Namespace
    from benchmarks.harness import Claim, Spread, fresh, interleave, ratios

    def add_arguments(parser: ArgumentParser) -> None:          # optional
        parser.add_argument("--data", help="folder with the texts")

    def ours(rows: int) -> dict[str, float]:                    # runs in a process of its own
        started = time.perf_counter()
        ...
        return {"seconds": time.perf_counter() - started}

    def run(options: Namespace) -> list[Claim]:
        rows = 10 if options.quick else 100
        arms = {"ours": fresh(ours, rows=rows), "peer": fresh(peer, rows=rows)}
        found = interleave(arms, repeats=1 if options.quick else 5)
        faster = ratios([r["seconds"] for r in found["peer"]], [r["seconds"] for r in found["ours"]])
        return [Claim("times faster than the peer", Spread.of(faster), at_least=2.0)]

The rules: arms take turns (A B A B), a claim about a whole program gives each arm a process of its own,
the median is what must meet the target and its range is shown, and the peer runs at its defaults *and*
as strongly tuned as it goes. Import heavy libraries inside the arms, so that they count where they are
used. The exit code is 1 when a claim fails. `--quick` shows that everything runs: its figures mean
nothing, and it fails only when the benchmark itself does.
"""
