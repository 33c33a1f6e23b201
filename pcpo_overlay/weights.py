"""Timestep weights ``w = c/s`` of the log ratio: native to each sampler, their powers, proportional to the interval."""

from __future__ import annotations

import torch
from torch import Tensor

from pcpo_overlay.variance import ddim_noise_coefficient

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def prediction_scale(abar_t: Tensor, prediction_type: str) -> Tensor:
    """``d eps / d pred``: how the implied noise estimate moves with the network's output.

    1 for ``epsilon``, ``sqrt(abar_t)`` for ``v_prediction``, ``-sqrt(abar_t/(1-abar_t))`` for ``sample`` (x0).
    Proportional credit is measured on the noise estimate whatever the network predicts, so its weights carry this
    factor.

    Raises:
        ValueError: an unknown prediction type.
    """
    if prediction_type == "epsilon":
        return torch.ones_like(abar_t)
    if prediction_type == "v_prediction":
        return torch.sqrt(abar_t)
    if prediction_type == "sample":
        return -torch.sqrt(abar_t / (1 - abar_t))
    raise ValueError(f"prediction type {prediction_type!r} is not one of {', '.join(PREDICTION_TYPES)}")


def ddim_weight(abar_t: Tensor, abar_prev: Tensor, sigma: Tensor, prediction_type: str = "epsilon") -> Tensor:
    """Native weight ``w = c/sigma`` of a DDIM step (Eq. 4), with ``c = -d mean/d pred`` of the network's own output.

    ``c = a - sqrt(1 - abar_prev - sigma**2)`` for noise. For the other prediction types it is derived on the output
    itself and may be negative: through the noise estimate it would be inf*0 at ``abar_t = 0`` (zero terminal SNR).

    Args:
        abar_t, abar_prev: cumulative alphas of this and the next-lower step, same shape.
        sigma: std of the step as it is sampled (eta included), same shape.
        prediction_type: what the network predicts.

    Returns:
        Same shape; 0 where ``sigma`` is 0, since a step that draws nothing carries no credit.

    Raises:
        ValueError: an unknown prediction type.
    """
    direction = torch.sqrt((1 - abar_prev - sigma**2).clamp(min=0))
    if prediction_type == "epsilon":
        c = ddim_noise_coefficient(abar_t, abar_prev) - direction
    elif prediction_type == "v_prediction":
        c = torch.sqrt(abar_prev * (1 - abar_t)) - direction * torch.sqrt(abar_t)
    elif prediction_type == "sample":
        c = direction * torch.sqrt(abar_t / (1 - abar_t)) - torch.sqrt(abar_prev)
    else:
        raise ValueError(f"prediction type {prediction_type!r} is not one of {', '.join(PREDICTION_TYPES)}")
    return torch.where(sigma > 0, c / sigma, torch.zeros_like(sigma))


def flow_weight(t: Tensor, dt: Tensor, scale: Tensor) -> Tensor:
    """Native weight of an Euler-Maruyama step of the flow SDE (Eq. 8): ``sqrt(dt)/s_t * (1 + (1-t)*s_t**2/(2*t))``.

    Args:
        t: (steps,) schedule value of the step.
        dt: (steps,) interval to the next value, positive.
        scale: (steps,) SDE noise scale ``s_t``; the step's std is ``s_t*sqrt(dt)``.
    """
    return torch.sqrt(dt) / scale * (1 + (1 - t) * scale**2 / (2 * t))


def cps_coefficient(t: Tensor, t_next: Tensor, std: Tensor) -> Tensor:
    """``c`` of a coefficients-preserving step (Flow-GRPO): its mean is ``... - c*v`` of the velocity.

    ``c = t*(1 - t_next) - (1 - t)*sqrt(t_next**2 - std**2)``; the native weight is ``c/std``.

    Args:
        t, t_next: (steps,) schedule value of the step and of the next.
        std: (steps,) of the step, at most ``t_next``.
    """
    return t * (1 - t_next) - (1 - t) * torch.sqrt(t_next**2 - std**2)


def proportional_weights(native: Tensor, dt: Tensor) -> tuple[Tensor, float]:
    """Weights proportional to the interval with the mean of the native ones (Proposition 2, Eq. 9).

    ``w_i = zeta*dt_i`` with ``zeta = sum(native)/sum(dt)``; with equal intervals this is the native mean everywhere.

    Args:
        native: (steps,) native weights over the whole schedule.
        dt: (steps,) intervals, positive.

    Returns:
        the weights (steps,) and ``zeta``.
    """
    zeta = float(native.sum() / dt.sum())
    return zeta * dt, zeta


def power_weights(native: Tensor, power: float, over: Tensor | slice = slice(None)) -> Tensor:
    """Native weights to a power, with the mean of the native ones: 1 is native, 0 uniform, below 0 turned around.

    Args:
        native: (steps,) native weights, positive.
        power: any finite number.
        over: the steps whose mean weight is kept; all of them by default.
    """
    mean = native[over].mean()
    shaped = (native / mean) ** power
    return mean / shaped[over].mean() * shaped
