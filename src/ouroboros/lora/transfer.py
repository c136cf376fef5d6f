"""From the processor's memory to where a model is."""

import torch
from torch import Tensor

CPU = torch.device("cpu")


def to_device(part: Tensor, device: torch.device) -> Tensor:
    """What the processor made, on `device`; the processor goes on at once.

    From memory that can be paged out it would first wait for all that the device has still to do (CUDA
    Runtime API, "API synchronization behavior").
    """
    if device == CPU:
        return part
    return part.pin_memory().to(device, non_blocking=True)
