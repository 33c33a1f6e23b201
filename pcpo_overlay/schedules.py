"""Timestep and noise schedules of the samplers, in float64 and in rollout order."""

from __future__ import annotations

import torch
from torch import Tensor


def sd_alphas_cumprod(
    beta_start: float = 0.00085, beta_end: float = 0.012, train_timesteps: int = 1000
) -> Tensor:
    """Cumulative alphas ``abar_t`` of Stable Diffusion 1.x ("scaled linear" betas).

    Returns:
        (train_timesteps,) float64.
    """
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, train_timesteps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0)


def ddim_timesteps(steps: int, train_timesteps: int = 1000, offset: int = 1) -> Tensor:
    """Timesteps of a DDIM rollout with "leading" spacing, highest noise first.

    At ``steps == train_timesteps`` the offset would step beyond the trained range; such timesteps are clipped to
    the last trained one, as the sampler clips the previous timestep.

    Returns:
        (steps,) int64.

    Raises:
        ValueError: ``steps`` outside 1..train_timesteps.
    """
    if not 1 <= steps <= train_timesteps:
        raise ValueError(f"steps must be between 1 and {train_timesteps}, got {steps}")
    stride = train_timesteps // steps
    return (torch.arange(steps - 1, -1, -1) * stride + offset).clamp(max=train_timesteps - 1)


def ddim_previous(timestep: Tensor, steps: int, train_timesteps: int = 1000) -> Tensor:
    """The next-lower timestep as DDPO and DanceGRPO take it, clipped into the trained range.

    Because of the clip it is never negative, so ``final_alpha_cumprod`` is never used.

    Args:
        timestep: any shape, integer.
    """
    return (timestep - train_timesteps // steps).clamp(0, train_timesteps - 1)


def shift_sigmas(sigma: Tensor, shift: float) -> Tensor:
    """Resolution shift of flow matching: ``shift*t / (1 + (shift-1)*t)`` (Esser et al., 2024).

    Raises:
        ValueError: ``shift`` not positive.
    """
    if not shift > 0:
        raise ValueError(f"shift must be positive, got {shift}")
    # Written so that sigma = 1 stays exactly 1 for every shift: Flow-GRPO's noise scale divides by 1 - sigma.
    return shift * sigma / ((1 - sigma) + shift * sigma)


def dancegrpo_sigmas(steps: int, shift: float = 3.0) -> Tensor:
    """Sigma schedule of DanceGRPO's flow trainers: ``shift(linspace(1, 0, steps+1))``.

    Returns:
        (steps + 1,) float64 from 1 to 0.
    """
    _check_flow_steps(steps)
    return shift_sigmas(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift)


def sd3_sigmas(steps: int, shift: float = 3.0, train_timesteps: int = 1000) -> Tensor:
    """Sigma schedule that diffusers' FlowMatchEulerDiscreteScheduler gives SD3, used by Flow-GRPO.

    The shift acts twice: once on the training sigmas, whose ends bound the grid, and again on the grid.

    Returns:
        (steps + 1,) float64 from 1 to 0, the last entry being the appended 0.
    """
    _check_flow_steps(steps)
    sigma_min = shift_sigmas(torch.tensor(1 / train_timesteps, dtype=torch.float64), shift)
    grid = torch.linspace(1, float(sigma_min), steps, dtype=torch.float64)
    return torch.cat([shift_sigmas(grid, shift), torch.zeros(1, dtype=torch.float64)])


def wan_sigmas(steps: int, shift: float = 3.0, train_timesteps: int = 1000) -> Tensor:
    """Sigma schedule that diffusers' UniPCMultistepScheduler gives Wan 2.1, used by Flow-GRPO.

    Returns:
        (steps + 1,) float64 from just below 1 to 0.
    """
    _check_flow_steps(steps)
    grid = torch.linspace(1 - 1 / train_timesteps, 0, steps + 1, dtype=torch.float64)
    return shift_sigmas(grid, shift)


def _check_flow_steps(steps: int) -> None:
    if not 1 <= steps <= 1000:
        raise ValueError(f"steps must be between 1 and 1000, got {steps}")
