"""Statistics of the gradient before clipping, without a copy of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

#: What FSDP puts into a parameter's name for each wrapped module on the way to it.
FSDP = "_fsdp_wrapped_module"


@dataclass(frozen=True)
class GradientMetrics:
    """Statistics of the gradient before clipping.

    Attributes:
        grad_norm: global 2-norm over the trainable parameters.
        grad_abs_mean, grad_abs_var: mean and variance of ``|grad|`` over the first layer (paper, Figure 11).
        grad_layer: name of that layer; where FSDP keeps the parameters of several in one, of its unit.
    """

    grad_norm: float
    grad_abs_mean: float
    grad_abs_var: float
    grad_layer: str

    @staticmethod
    @torch.no_grad()
    def of(
        model: torch.nn.Module, scale: float = 1.0, add_up: Callable[[Tensor], Tensor] | None = None
    ) -> GradientMetrics | None:
        """Statistics of a model's gradients, divided by the loss scale; None where there is no gradient.

        Args:
            add_up: for gradients in shards: adds a (4,) tensor over the ranks, each of which calls this.
        """
        named = [(n, p.grad) for n, p in model.named_parameters() if p.grad is not None]
        if not named:
            return None
        layer = first_layer(named[0][0])
        # A parameter of the model itself, in no module, is a layer of its own.
        of_layer = [g for n, g in named if (n.startswith(layer + ".") if layer else n == named[0][0])]
        count = sum(g.numel() for g in of_layer)
        sums = torch.stack([_norms([g for _, g in named]).double().square().sum(), *_abs_sums(of_layer)])
        sums = torch.cat([sums, sums.new_tensor([count])])
        squares, total, total_squares, n = (sums if add_up is None else add_up(sums)).tolist()
        norm, abs_mean = math.sqrt(squares), total / max(n, 1)
        abs_var = max(total_squares / max(n, 1) - abs_mean**2, 0.0)
        return GradientMetrics(
            norm / scale, abs_mean / scale, abs_var / scale**2, readable(layer or named[0][0])
        )


def _norms(gradients: list[Tensor]) -> Tensor:
    """(n,) 2-norms, float32 or better."""
    if all(g.dtype == torch.float32 for g in gradients):
        return torch.stack(torch._foreach_norm(gradients))  # as torch's clipping: many of them in one kernel
    return torch.stack([torch.linalg.vector_norm(g.float()) for g in gradients])


def _abs_sums(gradients: list[Tensor]) -> tuple[Tensor, Tensor]:
    """() float64 sums of ``|grad|`` and of its square.

    By ``sum``, which adds up in a cascade: on a CPU a 1-norm is one running sum, 15% too small at 50 million values.
    """
    total = squares = torch.zeros((), dtype=torch.float64, device=gradients[0].device)
    for gradient in gradients:
        values = gradient.float().abs()
        total = total + values.sum()
        squares = squares + values.square_().sum()
    return total, squares


def first_layer(parameter: str) -> str:
    """The layer a parameter belongs to: its module, or for an adapter the attention processor that holds it.

    A LoRA pair is one layer: the gradient of its down projection alone is zero at the start.
    """
    module = parameter.rpartition(".")[0]
    head, lora, _ = module.partition("lora")
    return head.rpartition(".")[0] if lora and "." in head else module


def readable(layer: str) -> str:
    """A layer's name without what FSDP puts into it."""
    kept = ".".join(part for part in layer.split(".") if part != FSDP)
    return kept or "all that is in no FSDP unit of its own"
