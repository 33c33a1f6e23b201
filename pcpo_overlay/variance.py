"""Standard deviations of the samplers' steps: DDIM's, the paper's reshaped one, and those of the flow SDEs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pcpo_overlay.config import PCPOError

#: The paper's target weight at 50 steps; raised where a schedule has no real root for it.
PAPER_W_STAR = 4.5
#: Below this share of DDIM's noise the paper's variance is no "minor, non-degrading adjustment": 50 steps have 1.12,
#: 30 have 0.93, 25 have 0.82, 20 have 0.68 and 10 have 0.40. ``variance=auto`` then leaves the sampler alone.
NOISE_KEPT = 0.9


def ddim_sigma(abar_t: Tensor, abar_prev: Tensor) -> Tensor:
    """Standard deviation of a DDIM step at eta = 1 (Song et al., 2021, Eq. 16).

    Args:
        abar_t, abar_prev: cumulative alphas of this and the next-lower step, same shape.
    """
    return torch.sqrt((1 - abar_prev) / (1 - abar_t) * (1 - abar_t / abar_prev))


def ddim_noise_coefficient(abar_t: Tensor, abar_prev: Tensor) -> Tensor:
    """``a = sqrt(abar_prev*(1 - abar_t)/abar_t)``: what the x0 estimate contributes to the mean per unit of noise."""
    return torch.sqrt(abar_prev * (1 - abar_t) / abar_t)


def smallest_w_star(abar_t: Tensor, abar_prev: Tensor) -> float:
    """The smallest target weight with a real root at every step: ``max_t w_native`` at eta = 1."""
    a = ddim_noise_coefficient(abar_t, abar_prev)
    return float(torch.sqrt((a**2 / (1 - abar_prev) - 1).clamp(min=0)).max())


def resolve_w_star(abar_t: Tensor, abar_prev: Tensor, w_star: float | None = None) -> float:
    """The target weight in use: the given one, checked, or ``max(4.5, max_t w_native)``.

    Raises:
        PCPOError: no real root at some step; the message names the smallest value that has one.
    """
    smallest = smallest_w_star(abar_t, abar_prev)
    if w_star is None:
        return max(PAPER_W_STAR, smallest)
    if w_star < smallest:
        # Rounded up, so that the value named is itself accepted.
        named = -(-smallest * 1e6 // 1) / 1e6
        raise PCPOError(
            f"w_star={w_star} has no real root on this schedule of {abar_t.numel()} steps; "
            f"the smallest that has is {named:.6f}"
        )
    return w_star


def paper_sigma(abar_t: Tensor, abar_prev: Tensor, w_star: float) -> Tensor:
    """The paper's reshaped standard deviation: the larger root of ``c(sigma)**2 = (w_star*sigma)**2``, eta = 1.

    The larger root came in by squaring: on it ``a - w_star*sigma`` is negative, so the step's true ``c/sigma`` is
    not ``w_star`` (except at a step with ``w_native <= w_star < sqrt(1 + w_native**2)``, none of which the default
    has at 50 steps). What makes credit uniform is the constant weight in the loss.

    Args:
        abar_t, abar_prev: (steps,) cumulative alphas, float64.
        w_star: a target weight from :func:`resolve_w_star`.
    """
    a = ddim_noise_coefficient(abar_t, abar_prev)
    # Numerator and denominator are divided by sqrt(1 + w_star**2), so that no w_star overflows.
    norm = math.hypot(1, w_star)
    discriminant = (1 - abar_prev) - (a / norm) ** 2
    # At w_star = max_t w_native one step's discriminant is zero up to rounding.
    return (a * (w_star / norm) + torch.sqrt(discriminant.clamp(min=0))) / norm


def cps_std(sigmas: Tensor, noise_level: float) -> Tensor:
    """Std of Flow-GRPO's coefficients-preserving steps: ``t_next*sin(noise_level*pi/2)``, 0 at the last.

    Args:
        sigmas: (steps + 1,) schedule from 1 to 0.
    """
    return sigmas[1:] * math.sin(noise_level * math.pi / 2)


def flow_grpo_scale(sigmas: Tensor, noise_level: float) -> Tensor:
    """Flow-GRPO's SDE noise scale ``s_t = noise_level*sqrt(t/(1-t))``, with ``t = sigmas[1]`` inside ``1-t`` at t = 1.

    Args:
        sigmas: (steps + 1,) schedule from 1 to 0.

    Returns:
        (steps,) float64.
    """
    t = sigmas[:-1]
    # With one step sigmas[1] is 0, and the scale is noise_level itself.
    return noise_level * torch.sqrt(t / (1 - torch.where(t == 1, sigmas[1], t)))


def linear_scale(sigmas: Tensor, largest: float) -> Tensor:
    """SDE noise scale of Flow-GRPO's Wan: ``s_t = sigma_min + (largest - sigma_min)*t``, linear in the schedule value.

    Args:
        sigmas: (steps + 1,) schedule; ``sigma_min`` is its end, 0 for Wan.
        largest: the scale at t = 1; upstream's is ``sigmas[1]``.

    Returns:
        (steps,) float64.
    """
    return sigmas[-1] + (largest - sigmas[-1]) * sigmas[:-1]
