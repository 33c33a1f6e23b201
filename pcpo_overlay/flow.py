"""The schedule of a flow sampler in use (Flow-GRPO's SDE), as tables that the hooks look steps up in by timestep."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay.config import PCPOConfig, PCPOError
from pcpo_overlay.variance import flow_grpo_scale
from pcpo_overlay.weights import flow_weight, proportional_weights, uniform_weights


@dataclass(frozen=True)
class FlowSchedule:
    """Weights and standard deviations of every step of a rollout, in rollout order and float64 on the CPU.

    Attributes:
        timestep: (steps,) the scheduler's timesteps, float32.
        sigma: (steps,) schedule value where each step starts.
        dt: (steps,) interval to the next value, positive.
        std: (steps,) std of the step; PCPO never changes a flow sampler.
        weight_native: (steps,) native weights (Eq. 8).
        weight: (steps,) the weights on the velocity that the log ratio uses.
        zeta: ``weight/dt`` of proportional weights (Eq. 9), None where the weights are others.
        trained: number of steps, the first ones, that the trainer trains.
        mean_native: mean of ``weight_native`` over the steps that the weights' mean is taken over.
    """

    timestep: Tensor
    sigma: Tensor
    dt: Tensor
    std: Tensor
    weight_native: Tensor
    weight: Tensor
    zeta: float | None
    trained: int
    mean_native: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``run.json``."""
        return {
            "timestep": self.timestep.tolist(),
            "sigma": self.sigma.tolist(),
            "dt": self.dt.tolist(),
            "weight": self.weight.tolist(),
            "weight_native": self.weight_native.tolist(),
            "std": self.std.tolist(),
            "zeta": self.zeta,
            "trained": self.trained,
            "mean_native": self.mean_native,
        }


def flow_grpo_schedule(
    sigmas: Tensor, timestep: Tensor, noise_level: float, config: PCPOConfig, trained: int | None = None
) -> FlowSchedule:
    """Resolve a configuration on the schedule of Flow-GRPO's sampler.

    Args:
        sigmas: (steps + 1,) the scheduler's schedule, shifted as it shifts, ending in 0.
        timestep: (steps,) the scheduler's timesteps.
        noise_level: upstream's SDE noise level, positive.
        config: mode and options. ``zeta`` says over which steps the mean weight equals the native one: all of the
            ``schedule`` (Proposition 2), or the ``trained`` ones.
        trained: number of steps, the first ones, that the trainer trains; None for all.

    Raises:
        PCPOError: a noise level that leaves nothing to learn from, or a schedule that does not fall to 0.
    """
    if not (math.isfinite(noise_level) and noise_level > 0):
        raise PCPOError(
            f"noise_level is {noise_level}: PCPO needs a stochastic sampler; set a positive sample.noise_level"
        )
    sigmas = sigmas.detach().cpu().double()
    t, dt = sigmas[:-1], sigmas[:-1] - sigmas[1:]
    if not bool((dt > 0).all()):
        raise PCPOError(f"the scheduler's sigmas do not fall from step to step: {sigmas.tolist()}")
    steps = t.numel()
    trained = steps if trained is None else min(trained, steps)
    scale = flow_grpo_scale(sigmas, noise_level)
    native = flow_weight(t, dt, scale)

    over = slice(None) if config.zeta == "schedule" else slice(max(trained, 1))
    zeta = None
    if config.weights == "native":
        weight = native
    elif config.weights == "uniform":
        weight = uniform_weights(native[over])[:1].expand(steps)
    else:
        _, zeta = proportional_weights(native[over], dt[over])
        weight = zeta * dt
    return FlowSchedule(
        timestep=timestep.detach().cpu(),
        sigma=t,
        dt=dt,
        std=scale * torch.sqrt(dt),
        weight_native=native,
        weight=weight,
        zeta=zeta,
        trained=trained,
        mean_native=float(native[over].mean()),
    )


class FlowTable:
    """A :class:`FlowSchedule` on the sampler's device, looked up by timestep without a host sync."""

    def __init__(
        self,
        scheduler: Any,
        noise_level: float,
        config: PCPOConfig,
        device: torch.device,
        trained: int | None = None,
    ) -> None:
        """Read a diffusers FlowMatchEulerDiscreteScheduler whose timesteps are set.

        Raises:
            PCPOError: as :func:`flow_grpo_schedule`.
        """
        self.schedule = flow_grpo_schedule(
            scheduler.sigmas, scheduler.timesteps, float(noise_level), config, trained
        )
        self._timestep = scheduler.timesteps.to(device)
        self._weight = self.schedule.weight.float().to(device)
        self._native = self.schedule.weight_native.float().to(device)

    def weight(self, timestep: Tensor, batch: int) -> Tensor:
        """(batch,) float32 weights of the step at ``timestep``, () or (1,) or (batch,)."""
        return self._lookup(self._weight, timestep).expand(batch)

    def native_weight(self, timestep: Tensor, batch: int) -> Tensor:
        """(batch,) float32 native weights, whatever the mode's weights are."""
        return self._lookup(self._native, timestep).expand(batch)

    def _lookup(self, values: Tensor, timestep: Tensor) -> Tensor:
        here = timestep.reshape(-1, 1) == self._timestep
        # NaN at timesteps that are not of this schedule: a lookup there must not pass for a value.
        return torch.where(here.any(1), values[here.int().argmax(1)], torch.nan)

    def describe(self, config: PCPOConfig) -> str:
        """One line for the banner."""
        schedule = self.schedule
        weight = schedule.weight
        which = "all" if schedule.trained == weight.numel() else f"the first {schedule.trained}"
        zeta = "" if schedule.zeta is None else f", zeta {schedule.zeta:.6g} over the {config.zeta} steps"
        return (
            f"{weight.numel()} steps of which {which} trained, {config.weights} weights "
            f"{weight.min():.6g} to {weight.max():.6g} (native mean {schedule.mean_native:.6g}){zeta}"
        )
