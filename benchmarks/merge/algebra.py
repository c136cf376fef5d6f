"""Four random adapters of rank 8 on 8 layers of 2048 x 2048, merged to rank 8 by PEFT and by us."""

import time
from typing import Any

from benchmarks.harness import Claim, Spread, fresh, interleave, ratios

PARENTS, RANK, LAYERS, WIDTH = 4, 8, 8, 2048
DENSITY = 0.2
_PAIRS = (
    ("ours, average", "peft svd"),
    ("ours, ties", "peft ties_svd"),
    ("ours, ties in core space", "peft ties_svd"),
)


def run(quick: bool) -> list[Claim]:
    width = 128 if quick else WIDTH
    arms = {
        "ours, average": fresh(ours, strategy="average", width=width),
        "peft svd": fresh(peft, kind="svd", width=width),
        "ours, ties": fresh(ours, strategy="ties", width=width),
        "peft ties_svd": fresh(peft, kind="ties_svd", width=width),
        "ours, ties in core space": fresh(ours, strategy="ties", width=width, space="core"),
        "peft linear": fresh(peft, kind="linear", width=width),
        "peft cat": fresh(peft, kind="cat", width=width),
    }
    times = interleave(arms, repeats=1 if quick else 3)

    # Both sides of a ratio come from the same repeat: the machine's load affects both alike.
    def column(arm: str, name: str) -> list[float]:
        return [r[name] for r in times[arm]]

    def error(arm: str) -> list[float]:
        return column(arm, "error")

    def faster(peer: str, arm: str, clock: str = "wall") -> Spread:
        return Spread.of(ratios(column(peer, clock), column(arm, clock)))

    def excess(arm: str, peer: str) -> Spread:
        pairs = zip(error(arm), error(peer), strict=True)
        return Spread.of(a - b for a, b in pairs)

    return [
        Claim("average: times faster than PEFT svd", faster("peft svd", "ours, average"), at_least=250),
        Claim("average: error over PEFT svd's", excess("ours, average", "peft svd"), at_most=1e-5),
        Claim(
            "TIES: times faster than PEFT ties_svd", faster("peft ties_svd", "ours, ties"), at_least=10
        ),
        Claim("TIES: error over PEFT ties_svd's", excess("ours, ties", "peft ties_svd"), at_most=1e-5),
        *(
            Claim(f"{arm}: times less processor time than {peer}", faster(peer, arm, "processor"))
            for arm, peer in _PAIRS
        ),
        *(Claim(f"{arm}, seconds", Spread.of(column(arm, "wall")), unit=" s") for arm in arms),
        *(
            Claim(f"{arm}, error to the exact merge", Spread.of(100 * e for e in error(arm)), unit=" %")
            for arm in arms
            if "core" not in arm
        ),
    ]


def ours(strategy: str, width: int, space: str = "delta") -> dict[str, float]:
    from ouroboros.domain.merging import MergeRecipe, MergeSpace, MergeStrategy
    from ouroboros.lora.merge import merge

    parents = _parents(width)
    recipe = MergeRecipe(MergeStrategy(strategy), density=DENSITY, space=MergeSpace(space))
    outcome = merge(parents, recipe, RANK)
    rounds = 1 if (strategy, space) == ("ties", "delta") else 10
    started = _clocks()
    for _ in range(rounds):
        outcome = merge(parents, recipe, RANK)
    spent = _spent(started, rounds)
    deltas = {path: low.delta() for path, low in outcome.weights.items()}
    return {**spent, "error": _error(deltas, parents, strategy)}


def peft(kind: str, width: int) -> dict[str, float]:
    """PEFT's merge of the same adapters. Weights as its documentation has them for each kind."""
    parents = _parents(width)
    model = _peft_model(parents, width)
    names = [f"a{i}" for i in range(PARENTS)]
    weights = [1.0 if "ties" in kind else 1 / PARENTS] * PARENTS
    options: dict[str, Any] = {"svd_rank": RANK} if "svd" in kind else {}
    options |= {"density": DENSITY} if "ties" in kind else {}
    started = _clocks()
    model.add_weighted_adapter(names, weights, "merged", combination_type=kind, **options)
    spent = _spent(started)
    layers = {path: model.get_submodule(f"base_model.model.{path}") for path in parents[0]}
    deltas = {path: layer.get_delta_weight("merged").detach() for path, layer in layers.items()}
    error = _error(deltas, parents, "ties" if "ties" in kind else "average")
    return {**spent, "error": error}


def _clocks() -> tuple[float, float]:
    """The wall's clock, and this process's own, which is fine enough for milliseconds."""
    return time.perf_counter(), time.process_time()


def _spent(started: tuple[float, float], rounds: int = 1) -> dict[str, float]:
    """Seconds a round took since `started`, on both clocks."""
    wall, processor = (now - then for now, then in zip(_clocks(), started, strict=True))
    return {"wall": wall / rounds, "processor": processor / rounds}


def _parents(width: int) -> list[dict[str, Any]]:
    import torch

    from ouroboros.lora.weights import LowRank

    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return [
        {f"layer{i}": LowRank(draw(RANK, width), draw(width, RANK), 2.0) for i in range(LAYERS)}
        for _ in range(PARENTS)
    ]


def _peft_model(parents: list[dict[str, Any]], width: int) -> Any:
    from peft import LoraConfig, get_peft_model
    from torch import nn

    model = nn.Module()
    for path in parents[0]:
        model.add_module(path, nn.Linear(width, width, bias=False))
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(parents[0]))
    adapted: Any = get_peft_model(model, config, "a0")  # type: ignore[arg-type]
    for i, parent in enumerate(parents):
        if i:
            adapted.add_adapter(f"a{i}", config)
        for path, low in parent.items():
            layer: Any = adapted.get_submodule(f"base_model.model.{path}")
            layer.lora_A[f"a{i}"].weight.data = low.a
            layer.lora_B[f"a{i}"].weight.data = low.b
    return adapted


def _error(deltas: dict[str, Any], parents: list[dict[str, Any]], strategy: str) -> float:
    """Distance of merged updates to the dense merge without a cut in rank, relative to its norm."""
    import torch

    from ouroboros.domain.merging import MergeStrategy
    from ouroboros.lora.merge_rules import RULES, apply_rule

    rule: Any = RULES[MergeStrategy(strategy)]
    ones = torch.ones(PARENTS)
    off = whole = 0.0
    for path, delta in deltas.items():
        stack = torch.stack([parent[path].delta() for parent in parents])
        exact = apply_rule(rule, stack, ones, DENSITY, torch.Generator())
        off += float((delta - exact).double().norm()) ** 2
        whole += float(exact.double().norm()) ** 2
    return (off / whole) ** 0.5
