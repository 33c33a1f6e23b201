"""How Flow-GRPO samples to train: a step of either kind, and in which steps of the way noise is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pcpo_overlay.variance import flow_grpo_scale


def sde_step(
    latents: Tensor,
    velocity: Tensor,
    *,
    t: float,
    dt: float,
    scale: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One step of Flow-GRPO's SDE from time `t` to ``t - dt``; with `scale` 0 it is Euler's of the flow.

    Args:
        latents, velocity: (N, ...) of one shape; the velocity points to the noise.
        t, dt: in (0, 1], and positive up to `t`.
        scale: the SDE's noise scale ``s_t``; the step's std is ``s_t * sqrt(dt)``.
        generator: draws the noise; none is drawn when `scale` is 0.
    """
    half = scale**2 / (2 * t)
    mean = latents * (1 - half * dt) - velocity * (1 + half * (1 - t)) * dt
    if scale == 0:
        return mean
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
    return mean + scale * dt**0.5 * noise


def cps_step(
    latents: Tensor,
    velocity: Tensor,
    *,
    t: float,
    after: float,
    noise_level: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One coefficients-preserving step from time `t` to `after` (``sde_type=cps``).

    The step's std is ``s = after*sin(noise_level*pi/2)``; its mean mixes the clean latent and the noise that the
    velocity points to by ``1 - after`` and ``sqrt(after**2 - s**2)``, so that clean and noise keep their shares.

    Args:
        latents, velocity: (N, ...) of one shape; the velocity points to the noise.
        t, after: in (0, 1], and in [0, `t`).
        noise_level: in (0, 1].
        generator: draws the noise.
    """
    std = after * math.sin(noise_level * math.pi / 2)
    clean, noise = latents - t * velocity, latents + (1 - t) * velocity
    mean = (1 - after) * clean + math.sqrt(after**2 - std**2) * noise
    return mean + std * torch.randn(mean.shape, generator=generator, dtype=mean.dtype)


def walk(
    predict: Callable[[Tensor, int], Tensor],
    latents: Tensor,
    sigmas: Tensor,
    *,
    noise_level: float,
    sde_type: str = "sde",
    window: tuple[int, int, int] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The clean latents (N, ...) that a batch of noise ends at.

    Args:
        predict: the velocity of latents at a step's number.
        latents: (N, ...) noise.
        sigmas: (steps + 1,) float64 from 1 to 0.
        noise_level: upstream's; 0 is Euler's method.
        sde_type: of the steps with noise, ``sde`` or ``cps``.
        window: of the fast trainers: noise is drawn in so many steps side by side between the second number and the
            third, where the batch's own draw has them; with 0 in all but the last. None is noise in every step.
        generator: draws the window, then the noise.

    Raises:
        ValueError: a negative noise level, a kind of step that upstream has not, or a window that is out of its range.
    """
    if noise_level < 0:
        raise ValueError(f"noise_level must not be negative, got {noise_level}")
    if sde_type not in ("sde", "cps"):
        raise ValueError(f"sde_type must be sde or cps, got {sde_type!r}")
    steps = len(sigmas) - 1
    noisy = _noisy(window, steps, generator)
    scales = flow_grpo_scale(sigmas, noise_level)
    for i in range(steps):
        velocity, t, after = predict(latents, i), float(sigmas[i]), float(sigmas[i + 1])
        if i in noisy and noise_level and sde_type == "cps":
            latents = cps_step(
                latents, velocity, t=t, after=after, noise_level=noise_level, generator=generator
            )
        else:
            scale = float(scales[i]) if i in noisy else 0.0
            dt = float(sigmas[i] - sigmas[i + 1])
            latents = sde_step(latents, velocity, t=t, dt=dt, scale=scale, generator=generator)
    return latents


def _noisy(window: tuple[int, int, int] | None, steps: int, generator: torch.Generator | None) -> range:
    if window is None:
        return range(steps)
    size, first, end = window
    if not size:
        return range(steps - 1)
    if not 0 <= first <= end - size:
        raise ValueError(f"no window of {size} steps fits between {first} and {end}")
    start = int(torch.randint(first, end - size + 1, (), generator=generator))
    return range(start, start + size)
