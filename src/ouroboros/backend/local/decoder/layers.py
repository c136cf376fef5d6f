"""A Llama-like layer's frozen parts, each with its derivative: adapted linear layers, and norms."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ouroboros.backend.local.decoder.functional import rms_norm, rms_norm_backward
from ouroboros.lora.bank import BankedLinear, Router
from ouroboros.lora.delta import LayerUpdate
from ouroboros.lora.route import Route


@dataclass(frozen=True)
class SavedForBackward:
    """What a linear layer's adapters want on the way back."""

    x: Tensor
    updates: Sequence[LayerUpdate]
    own: Sequence[Any]


class Linear:
    """A frozen linear layer of the model, and its name in the bank."""

    def __init__(self, path: str, layer: nn.Module) -> None:
        plain: Any = layer.layer if isinstance(layer, BankedLinear) else layer
        self.path, self._weight, self._bias = path, plain.weight, plain.bias
        self.outputs = len(self._weight)

    def __call__(
        self, x: Tensor, route: Route, onto: Tensor | None = None
    ) -> tuple[Tensor, SavedForBackward]:
        """The output with its adapters, added to `onto` where that is given."""
        y = self._base(x, onto)
        updates = route.layer_updates(self.path)
        if updates:
            route.record_input(self.path, x)
        return y, SavedForBackward(x, updates, [u.apply(x, y) for u in updates])

    def read(self, x: Tensor, router: Router, onto: Tensor | None = None) -> Tensor:
        """The same where there is no way back."""
        return router.adapt(self.path, x, self._base(x, onto))

    def _base(self, x: Tensor, onto: Tensor | None) -> Tensor:
        start = self._bias if onto is None else onto
        y = torch.mm(x, self._weight.T) if start is None else torch.addmm(start, x, self._weight.T)
        return y if onto is None or self._bias is None else y.add_(self._bias)

    def back(self, dy: Tensor, kept: SavedForBackward, onto: Tensor | None = None) -> Tensor:
        """The derivative with respect to x, added to `onto` where that is given."""
        dx = torch.mm(dy, self._weight) if onto is None else onto.addmm_(dy, self._weight)
        self.teach(dy, kept, dx)
        return dx

    def teach(self, dy: Tensor, kept: SavedForBackward, dx: Tensor | None = None) -> None:
        """The adapters' part of it alone."""
        for update, own in zip(kept.updates, kept.own, strict=True):
            update.backward(own, kept.x, dy, dx)


class Norm:
    """A frozen RMS norm of the model."""

    def __init__(self, module: Any) -> None:
        self._weight, self._eps = module.weight.detach(), module.variance_epsilon

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return rms_norm(x, self._weight, self._eps)

    def back(self, d: Tensor, x: Tensor, inverse: Tensor) -> Tensor:
        return rms_norm_backward(d, x, self._weight, inverse)
