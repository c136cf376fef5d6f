"""The frozen parts of a Llama-like layer, each with its derivative: adapted linear layers, and norms."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ouroboros.backend.local.decoder.functional import rms_norm, rms_norm_backward
from ouroboros.lora.bank import BankedLinear, Router
from ouroboros.lora.delta import LayerUpdate
from ouroboros.lora.route import Route


class LinearSaved(NamedTuple):
    """What `AdaptedLinear` saves for its derivative: its input, and what each update saved."""

    x: Tensor
    updates: Sequence[LayerUpdate]
    by_update: Sequence[Any]


class AdaptedLinear:
    """A frozen linear layer of the model, with the path under which adapters adapt it."""

    def __init__(self, path: str, layer: nn.Module) -> None:
        plain: Any = layer.layer if isinstance(layer, BankedLinear) else layer
        self.path, self._weight, self._bias = path, plain.weight, plain.bias
        self.outputs = len(self._weight)

    def forward(
        self, x: Tensor, route: Route, residual: Tensor | None = None
    ) -> tuple[Tensor, LinearSaved]:
        """The output [T, O] with its adapters, added to `residual` where that is given."""
        y = self._base_output(x, residual)
        updates = route.layer_updates(self.path)
        if updates:
            route.record_input(self.path, x)
        return y, LinearSaved(x, updates, [update.apply(x, y) for update in updates])

    def infer(self, x: Tensor, router: Router, residual: Tensor | None = None) -> Tensor:
        """The same without a derivative, for routers that have none."""
        return router.adapt(self.path, x, self._base_output(x, residual))

    def backward(self, dy: Tensor, saved: LinearSaved, add_to: Tensor | None = None) -> Tensor:
        """The derivative with respect to x, added to `add_to` in place where that is given."""
        dx = torch.mm(dy, self._weight) if add_to is None else add_to.addmm_(dy, self._weight)
        self.adapters_backward(dy, saved, dx)
        return dx

    def adapters_backward(self, dy: Tensor, saved: LinearSaved, dx: Tensor | None = None) -> None:
        """Add the derivatives to the adapters' gradients, and their part to `dx` where that is given."""
        for update, by_update in zip(saved.updates, saved.by_update, strict=True):
            update.backward(by_update, saved.x, dy, dx)

    def _base_output(self, x: Tensor, residual: Tensor | None) -> Tensor:
        # `addmm` adds the bias or the residual within the product; both need one more operation.
        added = self._bias if residual is None else residual
        y = torch.mm(x, self._weight.T) if added is None else torch.addmm(added, x, self._weight.T)
        return y if residual is None or self._bias is None else y.add_(self._bias)


class Norm:
    """A frozen RMS norm of the model."""

    def __init__(self, module: Any) -> None:
        self._weight, self._eps = module.weight.detach(), module.variance_epsilon

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The norm of x, and 1 / rms(x), which `backward` takes."""
        return rms_norm(x, self._weight, self._eps)

    def backward(self, d: Tensor, x: Tensor, inverse_rms: Tensor) -> Tensor:
        """The derivative with respect to x."""
        return rms_norm_backward(d, x, self._weight, inverse_rms)
