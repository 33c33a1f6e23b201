"""Statistics of the gradient before clipping, without a copy of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pcpo_overlay.losses import as_float64

#: What FSDP and activation checkpointing put into a parameter's name for each wrapped module on the way to it.
WRAPPERS = ("_fsdp_wrapped_module", "_checkpoint_wrapped_module")


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
            add_up: for gradients in shards: adds a (4,) tensor over the ranks, each of which calls this, also one whose
                own shards are empty.
        """
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        named = [(name, p.grad) for name, p in trained if p.grad is not None]
        if not trained or (not named and add_up is None):
            return None
        # Of shards a rank may hold none of the first layer: its name must be the same on all ranks all the same.
        first = named[0][0] if add_up is None else trained[0][0]
        layer = first_layer(first)
        # A parameter of the model itself, in no module, is a layer of its own.
        of_layer = [g for n, g in named if (n.startswith(layer + ".") if layer else n == first)]
        device = named[0][1].device if named else trained[0][1].device
        sums = torch.stack([_square_sum([g for _, g in named], device), *_abs_sums(of_layer, device)])
        sums = torch.cat([sums, sums.new_tensor([sum(g.numel() for g in of_layer)])])
        squares, total, total_squares, n = (sums if add_up is None else add_up(sums)).tolist()
        norm, abs_mean = math.sqrt(squares), total / max(n, 1)
        abs_var = max(total_squares / max(n, 1) - abs_mean**2, 0.0)
        return GradientMetrics(norm / scale, abs_mean / scale, abs_var / scale**2, readable(layer or first))


def _square_sum(gradients: list[Tensor], device: torch.device) -> Tensor:
    """() float64 sum of squares, of norms in float32 or better."""
    if not gradients:
        return as_float64(torch.zeros((), device=device))
    if all(g.dtype == torch.float32 for g in gradients):
        norms = list(torch._foreach_norm(gradients))  # as torch's clipping: many of them in one kernel
    else:
        norms = [
            torch.linalg.vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32)) for g in gradients
        ]
    return as_float64(torch.stack(norms)).square().sum()


def _abs_sums(gradients: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """() float64 sums of ``|grad|`` and of its square.

    By ``sum``, which adds up in a cascade: on a CPU a 1-norm is one running sum, 15% too small at 50 million values.
    """
    total = squares = as_float64(torch.zeros((), device=device))
    for gradient in gradients:
        values = gradient.float().abs()
        total = total + as_float64(values.sum())
        squares = squares + as_float64(values.square_().sum())
    return total, squares


def first_layer(parameter: str) -> str:
    """The layer a parameter belongs to: its module, or for an adapter the attention processor that holds it.

    A LoRA pair is one layer: the gradient of its down projection alone is zero at the start.
    """
    module = parameter.rpartition(".")[0]
    head, lora, _ = module.partition("lora")
    return head.rpartition(".")[0] if lora and "." in head else module


def readable(layer: str) -> str:
    """A layer's name without what wrappers put into it."""
    kept = ".".join(part for part in layer.split(".") if part not in WRAPPERS)
    return kept or "all that is in no FSDP unit of its own"
