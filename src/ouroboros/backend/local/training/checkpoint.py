"""A training's state between two steps, as bytes: the adapter, its optimizer, and the losses so far."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ouroboros.domain.errors import InvalidFile

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class TrainingState:
    """What a training has come to: its losses, one per step, and the tokens it read."""

    losses: list[float]
    tokens: int


def pack_state(master: Tensor, optimizer: torch.optim.Optimizer, done: TrainingState) -> bytes:
    """The state as a safetensors file: no pickle, here either."""
    kept = optimizer.state[master]
    tensors = {"master": master, **{name: kept[name] for name in _MOMENTS}}
    tensors["losses"] = torch.tensor(done.losses, dtype=torch.float64)
    tensors["tokens"] = torch.tensor(done.tokens)
    return save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()})


def unpack_state(
    state: bytes, master: Float[Tensor, "P"], optimizer: torch.optim.Optimizer, steps: Sequence[object]
) -> TrainingState:
    """Put a state back into an adapter and a fresh optimizer of the same training."""
    try:
        tensors = load(state)
        losses, tokens = tensors["losses"].tolist(), int(tensors["tokens"])
        moments = {name: tensors[name].to(master.device) for name in _MOMENTS}
        if tensors["master"].shape != master.shape or len(losses) > len(steps):
            raise KeyError("of another training")
    except (SafetensorError, KeyError) as error:
        raise InvalidFile(
            f"The checkpoint cannot be used: {error}.", hint="Start the training anew."
        ) from error
    with torch.no_grad():
        master.copy_(tensors["master"])
    step = torch.tensor(float(len(losses)), device=master.device)
    optimizer.state[master] = {"step": step, **moments}
    return TrainingState(losses, tokens)
