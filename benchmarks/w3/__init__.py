"""Many adapters, one update each: all at once, one by one, and by PEFT one by one.

Each of N trained adapters (rank 8, every linear layer) takes one optimizer step on one row of its own,
of about 100 prompt and 24 answer tokens. Ours goes from rows to packed, servable files; "at once" is N
concurrent calls, "one by one" the same calls in turn. Answer-only adapters are another function than
ordinary ones and stand in rows of their own: on prompts that the base reads for the first time, and on
prompts that it has read before, for another adapter, whose keys and values it has kept. PEFT holds N
ordinary adapters on one model and switches between them: at its defaults in float32, and tuned, in
bfloat16 with a fused AdamW. Its saving is not counted.

One judge, PEFT in float32, reads what every arm has saved: all factors must have moved, and the losses
of adapters of one kind must be equal within 1%, however they were trained.
"""

import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.harness import Claim, Spread, Times, fresh, interleave, ratios
from benchmarks.w2.job import SHAPES, build_model
from benchmarks.w3.judge import judge
from benchmarks.w3.ours import begin, ours
from benchmarks.w3.peers import peer

PEERS = {"PEFT, tuned": "bfloat16", "PEFT, defaults": "float32"}
TARGETS = {"PEFT, tuned": 6.0, "PEFT, defaults": 15.0}
"""Those of answer-only adapters on kept prompts."""

ORDINARY, COLD, KEPT = "at once", "answer-only, at once", "answer-only on kept prompts, at once"
ALONE = {"one by one": ORDINARY, "answer-only on kept prompts, one by one": KEPT}
KINDS = (
    (ORDINARY, "one by one", *PEERS),
    (COLD, KEPT, "answer-only on kept prompts, one by one"),
)
"""Arms whose adapters end with the same losses."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--adapters", default="8,16,64", help="numbers of adapters, with commas")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of all arms")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="24m", help="of random weights")


def run(options: Namespace) -> list[Claim]:
    counts = [2] if options.quick else [int(n) for n in options.adapters.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        model = f"{folder}/model"
        fresh(build_model, folder=model, small=options.quick, shape=options.shape, chat=True)()
        fresh(begin, model=model, work=folder, count=max(counts))()
        repeats = 1 if options.quick else options.repeats
        return [c for n in counts for c in _claims(model, folder, n, repeats)]


def _claims(model: str, work: str, count: int, repeats: int) -> list[Claim]:
    same: dict[str, Any] = {"model": model, "work": work, "count": count}

    def our_arm(
        name: str, acts_on: str = "all", keep_prefix: bool = False
    ) -> Callable[[], dict[str, Any]]:
        return fresh(
            ours, name=name, acts_on=acts_on, keep_prefix=keep_prefix, at_once=name not in ALONE, **same
        )

    arms = {
        ORDINARY: our_arm(ORDINARY),
        COLD: our_arm(COLD, "answer"),
        KEPT: our_arm(KEPT, "answer", keep_prefix=True),
        "one by one": our_arm("one by one"),
        KINDS[1][-1]: our_arm(KINDS[1][-1], "answer", keep_prefix=True),
        **{name: fresh(peer, name=name, dtype=dtype, **same) for name, dtype in PEERS.items()},
    }
    results = interleave(arms, repeats)
    times = {name: [Times(*run["times"]) for run in runs] for name, runs in results.items()}
    judged = fresh(judge, names=list(arms), **same)()
    return [*_rates(count, times), *_faster(count, times), *_right(count, judged)]


def _rates(count: int, times: Mapping[str, Sequence[Times]]) -> list[Claim]:
    rates = [
        Claim(f"{count} adapters, updates per second, {name}", Spread.of([count / t.wall for t in of]))
        for name, of in times.items()
    ]
    return rates + [
        Claim(
            f"{count} adapters, processor time of an update, {name}",
            Spread.of([1000 * t.processor / count for t in of]),
            unit=" ms",
        )
        for name, of in times.items()
    ]


def _faster(count: int, times: Mapping[str, Sequence[Times]]) -> list[Claim]:
    """Each way of doing all at once, beside the peers and beside its own one by one."""
    pairs = [(ours, theirs) for ours in (ORDINARY, COLD, KEPT) for theirs in PEERS]
    pairs += [(ours, theirs) for theirs, ours in ALONE.items()]
    claims = []
    for mine, other in pairs:
        faster = ratios([t.wall for t in times[other]], [t.wall for t in times[mine]])
        less = ratios([t.processor for t in times[other]], [t.processor for t in times[mine]])
        target = TARGETS.get(other) if mine == KEPT else None
        claims += [
            Claim(f"{count} {mine}: times faster than {other}", Spread.of(faster), at_least=target),
            Claim(f"{count} {mine}: processor time, times less than {other}", Spread.of(less)),
        ]
    return claims


def _right(count: int, judged: Mapping[str, Mapping[str, Any]]) -> list[Claim]:
    claims = [
        Claim(
            f"{count} adapters: factors that did not move",
            Spread.of([arm["unmoved"] for arm in judged.values()]),
            at_most=0.0,
        )
    ]
    for kind in KINDS:
        apart = [
            100 * abs(a / b - 1)
            for name in kind
            for a, b in zip(judged[name]["losses"], judged[kind[1]]["losses"], strict=True)
        ]
        claims.append(
            Claim(
                f"{count} adapters: how far losses are from {kind[1]}",
                Spread.of([max(apart)]),
                at_most=1.0,
                unit="%",
            )
        )
    return claims
