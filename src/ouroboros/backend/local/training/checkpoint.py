"""The state of a training between two steps, as bytes: adapter, optimizer, and losses so far."""

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
    """The progress of a training: one loss per step, and the number of tokens read."""

    losses: list[float]
    tokens: int


def pack_state(master: Tensor, optimizer: torch.optim.Optimizer, state: TrainingState) -> bytes:
    """Returns the state as a safetensors file; pickle would run code when it is read."""
    moments = optimizer.state[master]
    tensors = {"master": master, **{name: moments[name] for name in _MOMENTS}}
    tensors["losses"] = torch.tensor(state.losses, dtype=torch.float64)
    tensors["tokens"] = torch.tensor(state.tokens)
    return save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()})


def unpack_state(
    data: bytes, master: Float[Tensor, "P"], optimizer: torch.optim.Optimizer, steps: Sequence[object]
) -> TrainingState:
    """Restore a state into an adapter's master [P] and a new optimizer of the same training, in place.

    Raises `InvalidFile` if `data` is not a state of a training with this many parameters and steps.
    """
    try:
        tensors = load(data)
        losses, tokens = tensors["losses"].tolist(), int(tensors["tokens"])
        moments = {name: tensors[name].to(master.device) for name in _MOMENTS}
        if tensors["master"].shape != master.shape or len(losses) > len(steps):
            raise KeyError("of another training")
    except (SafetensorError, KeyError) as error:
        raise InvalidFile(
            f"The checkpoint cannot be used: {error}.", hint="Start the training again."
        ) from error
    with torch.no_grad():
        master.copy_(tensors["master"])
    step = torch.tensor(float(len(losses)), device=master.device)
    optimizer.state[master] = {"step": step, **moments}
    return TrainingState(losses, tokens)
