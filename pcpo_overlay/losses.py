"""The log ratio by prediction matching and the objectives on it, per sample: shape (B,), the caller reduces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_HALF = (torch.float16, torch.bfloat16)


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32 if it is of lower precision, else as it is."""
    return x.float() if x.dtype in _HALF else x


def as_float64(x: Tensor) -> Tensor:
    """``x`` in float64: on its device, or on the CPU where the device has none (MPS)."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def expand_to(per_sample: Tensor, like: Tensor) -> Tensor:
    """View (B,) as (B, 1, ..., 1) with as many dimensions as ``like``.

    Raises:
        ValueError: the batch sizes differ.
    """
    if per_sample.ndim != 1 or per_sample.shape[0] != like.shape[0]:
        raise ValueError(
            f"expected one value per sample of a batch of {like.shape[0]}, got shape {tuple(per_sample.shape)}"
        )
    return per_sample.reshape(-1, *(1,) * (like.ndim - 1))


def log_ratio(pred: Tensor, pred_old: Tensor, z: Tensor, w: Tensor) -> Tensor:
    """Log policy ratio of one step by prediction matching (Eq. 4, 8).

    ``log rho = -[ mean(w*d*z) + 0.5*mean((w*d)**2) ]`` with ``d = pred - pred_old``; exactly 0 where ``d`` is 0.

    Args:
        pred: (B, ...) the live prediction, guided if the sampler guides; any float dtype.
        pred_old: same shape, the prediction the rollout sampled with; any float dtype.
        z: same shape, the standard Gaussian noise of the step; any float dtype.
        w: (B,) weights of the steps, float32 or better.

    Returns:
        (B,) float32 or better, differentiable in ``pred`` alone, once.

    Raises:
        ValueError: shapes that do not agree.
    """
    result: Tensor = _Matched.apply(*_checked(pred, pred_old, z, w))[0]
    return result


@dataclass(frozen=True)
class Match:
    """One step by prediction matching; every field is (B,), float32 or better.

    Attributes:
        credit: what the objective is on, ``u = -(w*m1 + 0.5*w**2*m2)`` with ``m1 = mean(d*z)``, ``m2 = mean(d**2)``;
            differentiable in the live prediction.
        log_rho: log ratio of the two policies, the same under the weights of the sampler in use; detached.
        kl: KL divergence of the step, ``0.5*w_policy**2*m2``: exact, and never negative; detached.
    """

    credit: Tensor
    log_rho: Tensor
    kl: Tensor


def match(pred: Tensor, pred_old: Tensor, z: Tensor, w: Tensor, w_policy: Tensor) -> Match:
    """Credit, log ratio and KL divergence of one step from the same two moments.

    Args:
        pred, pred_old, z, w: as :func:`log_ratio`; under other weights than the sampler's its result is no log ratio.
        w_policy: (B,) ``c/s`` of the sampler in use.

    Raises:
        ValueError: shapes that do not agree.
    """
    credit, linear, square = _Matched.apply(*_checked(pred, pred_old, z, w))
    # The moments come scaled, w*m1 and w**2*m2. A step that draws nothing has no weight of either kind.
    scale = torch.where(w == 0, torch.zeros_like(w), w_policy / w)
    kl = 0.5 * scale**2 * square
    return Match(credit, -(scale * linear + kl), kl)


@torch.no_grad()
def kl_divergence(pred: Tensor, pred_old: Tensor, w_policy: Tensor) -> Tensor:
    """(B,) KL divergence of one step, ``0.5*w_policy**2*mean(d**2)``; arguments as :func:`match`."""
    norm = torch.linalg.vector_norm(
        _difference(pred, pred_old).flatten(1), dim=1
    )  # one pass, and nothing kept
    return (0.5 / pred[0].numel()) * (w_policy * norm) ** 2


def _difference(pred: Tensor, pred_old: Tensor) -> Tensor:
    """``pred - pred_old``, taken after the upcast: in half precision it would lose what the ratio is made of."""
    if pred.dtype in _HALF:
        return pred.to(torch.float32, copy=True).sub_(pred_old)  # never in the trainer's own tensor
    return torch.sub(pred, pred_old)


def _checked(pred: Tensor, pred_old: Tensor, z: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if not pred.shape == pred_old.shape == z.shape:
        raise ValueError(
            f"pred {tuple(pred.shape)}, pred_old {tuple(pred_old.shape)} and z {tuple(z.shape)} must agree"
        )
    return pred, pred_old, z, expand_to(w, pred)


class _Matched(torch.autograd.Function):
    """``(u, w*m1, w**2*m2)`` in half the passes over memory that autograd takes: all that PCPO adds to a step.

    The derivative of ``u`` by ``pred`` is ``-w*(z + w*d)`` over the number of values of a sample.
    """

    @staticmethod
    def forward(
        ctx: Any, pred: Tensor, pred_old: Tensor, z: Tensor, w: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        d = _difference(pred, pred_old)
        wd = d.to(torch.promote_types(d.dtype, w.dtype)).mul_(w)
        product = torch.mul(z, wd)
        linear = product.flatten(1).mean(dim=1)
        square = torch.mul(wd, wd, out=product).flatten(1).mean(dim=1)
        ctx.save_for_backward(wd, z, w)
        ctx.dtype = pred.dtype
        ctx.mark_non_differentiable(linear, square)
        return -(linear + 0.5 * square), linear, square

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None]:
        wd, z, w = ctx.saved_tensors
        each = expand_to(grad, wd) * w * (-wd.shape[0] / wd.numel())
        return torch.add(z, wd).mul_(each).to(ctx.dtype), None, None, None


def ppo_clip_loss(log_rho: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """PPO's clipped objective (Eq. 1) as upstream computes it: ``max(-A*rho, -A*clip(rho, 1-xi, 1+xi))``.

    Args:
        log_rho, advantage: (B,).
        clip_range: ``xi``.
    """
    rho = torch.exp(log_rho)
    return torch.maximum(-advantage * rho, -advantage * torch.clamp(rho, 1 - clip_range, 1 + clip_range))


def ppo_hinge_loss(log_rho: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """PPO-clip as a hinge (Eq. 2): ``max(0, xi*|A| - A*(rho-1))``, equal to Eq. 1 up to a constant."""
    return torch.relu(clip_range * advantage.abs() - advantage * torch.expm1(log_rho))


def log_hinge_loss(log_rho: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """The stable objective (Eq. 3): ``max(0, xi*|A| - A*log_rho)``.

    Args:
        log_rho, advantage: (B,), float32 or better.
        clip_range: ``xi``, the trainer's PPO clip range.
    """
    return torch.relu(clip_range * advantage.abs() - advantage * log_rho)


@dataclass(frozen=True)
class ClipStatistics:
    """What clipping did to each sample of a step; every field is (B,), detached.

    Attributes:
        ratio: ``rho``, of the policy.
        outside: ``|rho - 1| > xi`` of the ratio that upstream clips, what it logs as ``clipfrac``; bool.
        masked: no gradient, ``xi*|A| - A*u < 0`` with ``u`` the objective's own; bool.
        approx_kl: ``0.5*log_rho**2``, upstream's estimate per sample.
        log_ratio_error: ``|log rho - (rho-1)| / |rho-1|``, 0 where ``rho`` is 1.
    """

    ratio: Tensor
    outside: Tensor
    masked: Tensor
    approx_kl: Tensor
    log_ratio_error: Tensor


@torch.no_grad()
def clip_statistics(
    log_rho: Tensor,
    credit: Tensor,
    advantages: Tensor,
    clip_range: float,
    clipped: Tensor | None = None,
) -> ClipStatistics:
    """Clip statistics of (B,) samples.

    Args:
        log_rho: (B,) log ratio of the policy.
        credit: (B,) ``u``, what the objective's hinge is on: ``rho-1`` (Eq. 2), ``log rho`` (Eq. 3), or its like under
            other weights.
        advantages: (k, B), of the k losses that are trained on the same ratio; a sample is masked where all mask it.
        clip_range: ``xi``.
        clipped: (B,) what upstream's ratio is the exponential of, where that is not ``log_rho``.
    """
    log_rho, credit = log_rho.detach(), credit.detach()
    clipped = log_rho if clipped is None else clipped.detach()
    change = torch.expm1(log_rho)
    ratio = torch.exp(log_rho)
    hinge = clip_range * advantages.abs() - advantages * credit
    error = torch.where(change == 0, torch.zeros_like(change), (log_rho - change).abs() / change.abs())
    return ClipStatistics(
        ratio=ratio,
        outside=(torch.exp(clipped) - 1).abs() > clip_range,
        masked=(hinge < 0).all(0),
        approx_kl=0.5 * log_rho**2,
        log_ratio_error=error,
    )
