"""Putting the bank into a model: each adapted linear layer is wrapped once."""

from collections.abc import Iterable

from torch import nn
from transformers.pytorch_utils import Conv1D

from ouroboros.domain.base_model import LinearShape
from ouroboros.lora.bank import Bank, BankedLinear


def linear_shapes(model: nn.Module) -> tuple[LinearShape, ...]:
    """Every linear layer of a model but its output head, in the model's order."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    return tuple(
        LinearShape(path, *_in_out(module))
        for path, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    )


def inject(model: nn.Module, paths: Iterable[str], bank: Bank) -> None:
    """Wrap the layers at `paths`; a layer that is wrapped already stays as it is."""
    for path in paths:
        parent_path, _, name = path.rpartition(".")
        parent = model.get_submodule(parent_path)
        layer = getattr(parent, name)
        if not isinstance(layer, BankedLinear):
            setattr(parent, name, BankedLinear(layer, path, bank))


def freeze(model: nn.Module) -> None:
    """No gradient ever reaches the base's own weights, and no dropout disturbs it."""
    model.requires_grad_(False)
    model.eval()


def _in_out(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, Conv1D):
        return layer.weight.shape[0], layer.weight.shape[1]
    assert isinstance(layer, nn.Linear)
    return layer.in_features, layer.out_features
