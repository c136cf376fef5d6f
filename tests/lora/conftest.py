"""A small base as a value, and random adapters on it: what these files need of a model."""

from collections.abc import Callable

import pytest
import torch

from ouroboros.domain.base_model import BaseModel, Fingerprint, LinearShape
from ouroboros.domain.config import AdapterConfig
from ouroboros.lora.targets import select_layers
from ouroboros.lora.weights import LoraWeights, LowRank

PRINT = Fingerprint("c" * 64, "t" * 64, "p" * 64, "w" * 64, 320)


@pytest.fixture(scope="session")
def base_of() -> Callable[..., BaseModel]:
    """A base of `layers` blocks whose linear layers are `widths`: name -> (in, out)."""

    def make(
        widths: dict[str, tuple[int, int]], layers: int = 2, architecture: str = "llama"
    ) -> BaseModel:
        shapes = [
            LinearShape(f"model.layers.{i}.{name}", *width)
            for i in range(layers)
            for name, width in widths.items()
        ]
        width = next(iter(widths.values()))[0]
        return BaseModel("toy", PRINT, architecture, width, layers, 256, 10_000, tuple(shapes))

    return make


@pytest.fixture(scope="session")
def base(base_of: Callable[..., BaseModel]) -> BaseModel:
    """Two blocks, with keys and values narrower than queries."""
    widths = {
        "self_attn.q_proj": (32, 32),
        "self_attn.k_proj": (32, 16),
        "self_attn.v_proj": (32, 16),
        "self_attn.o_proj": (32, 32),
        "mlp.up_proj": (32, 48),
        "mlp.down_proj": (48, 32),
    }
    return base_of(widths)


@pytest.fixture(scope="session")
def random_weights(base: BaseModel) -> Callable[..., LoraWeights]:
    """Random factors for a config, as a trained adapter would have them."""

    def make(config: AdapterConfig, seed: int = 0, on: BaseModel = base) -> LoraWeights:
        generator = torch.Generator().manual_seed(seed)
        return {
            s.path: LowRank(
                torch.randn(config.rank, s.inputs, generator=generator),
                torch.randn(s.outputs, config.rank, generator=generator),
                config.scale,
            )
            for s in select_layers(on, config)
        }

    return make


@pytest.fixture(scope="session")
def largest_difference() -> Callable[[LoraWeights, LoraWeights], float]:
    """Over all layers, the norm of the difference of two updates relative to the first's."""

    def measure(one: LoraWeights, other: LoraWeights) -> float:
        assert one.keys() == other.keys()
        return max(_relative(one[p].delta(), other[p].delta()) for p in one)

    return measure


def _relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / one.norm())
