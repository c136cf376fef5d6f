"""Muon for the matrices (Jordan et al., 2024), AdamW for embeddings and norms."""

import torch
from torch import Tensor, nn


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """[N, rows, cols] -> nearest semi-orthogonal matrices, by Newton-Schulz steps in bfloat16."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.size(1) > matrices.size(2)
    x = matrices.mT.bfloat16() if tall else matrices.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum: every matrix moves by the same spectral norm; equal shapes batched."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in parameters:
            by_shape.setdefault(parameter.shape, []).append(parameter)
        super().__init__(
            [{"params": group} for group in by_shape.values()], {"lr": lr, "momentum": momentum}
        )

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure: it is never given one
        """Move each matrix along its orthogonalised momentum."""
        for group in self.param_groups:
            directions = torch.stack(
                [self.update_direction(parameter, group["momentum"]) for parameter in group["params"]]
            )
            rows, cols = directions.shape[1:]
            rate = group["lr"] * max(1.0, rows / cols) ** 0.5
            for parameter, update in zip(group["params"], orthogonalise(directions), strict=True):
                parameter.add_(update, alpha=-rate)

    def update_direction(self, parameter: nn.Parameter, beta: float) -> Tensor:
        """Update the Nesterov momentum and return the direction."""
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
        momentum.lerp_(gradient, 1 - beta)
        return gradient.lerp(momentum, beta)


def create_optimizers(
    model: nn.Module, matrix_rate: float, other_rate: float
) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices, and AdamW for everything else."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    other_parameters = [p for name, p in model.named_parameters() if p.ndim < 2 or "embed" in name]
    return [
        Muon(matrices, matrix_rate),
        torch.optim.AdamW(other_parameters, other_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
