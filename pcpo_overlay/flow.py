"""The schedule of a flow sampler in use, as tables that the hooks look steps up in: by timestep, or by index."""

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

    def describe(self, config: PCPOConfig) -> str:
        """One line for the banner."""
        weight = self.weight
        which = "all" if self.trained == weight.numel() else f"the first {self.trained}"
        zeta = "" if self.zeta is None else f", zeta {self.zeta:.6g} over the {config.zeta} steps"
        return (
            f"{weight.numel()} steps of which {which} trained, {config.weights} weights "
            f"{weight.min():.6g} to {weight.max():.6g} (native mean {self.mean_native:.6g}){zeta}"
        )


def flow_schedule(
    sigmas: Tensor, timestep: Tensor, scale: Tensor, config: PCPOConfig, trained: int | None = None
) -> FlowSchedule:
    """Resolve a configuration on the schedule of a flow sampler.

    Args:
        sigmas: (steps + 1,) the sampler's schedule, shifted as it shifts, ending in 0.
        timestep: (steps,) what the network is told of each step.
        scale: (steps,) SDE noise scale ``s_t`` of each step.
        config: mode and options. ``zeta`` says over which steps the mean weight equals the native one: all of the
            ``schedule`` (Proposition 2), or the ``trained`` ones.
        trained: number of steps, the first ones, that the trainer trains; None for all.

    Raises:
        PCPOError: a schedule that does not fall.
    """
    sigmas, scale = sigmas.detach().cpu().double(), scale.detach().cpu().double()
    t, dt = sigmas[:-1], sigmas[:-1] - sigmas[1:]
    if not bool((dt > 0).all()):
        raise PCPOError(f"the sampler's sigmas do not fall from step to step: {sigmas.tolist()}")
    steps = t.numel()
    trained = steps if trained is None else min(trained, steps)
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


def _check_noise(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise PCPOError(f"{name} is {value}: PCPO needs a stochastic sampler; set a positive {name}")


def flow_grpo_schedule(
    sigmas: Tensor, timestep: Tensor, noise_level: float, config: PCPOConfig, trained: int | None = None
) -> FlowSchedule:
    """:func:`flow_schedule` under Flow-GRPO's noise scale, whose ``noise_level`` must be positive."""
    _check_noise("sample.noise_level", noise_level)
    scale = flow_grpo_scale(sigmas.detach().cpu().double(), noise_level)
    return flow_schedule(sigmas, timestep, scale, config, trained)


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


class SigmaTable:
    """A :class:`FlowSchedule` of DanceGRPO's samplers, which share one noise scale and count their steps."""

    def __init__(
        self,
        sigmas: Tensor,
        eta: float,
        config: PCPOConfig,
        device: torch.device,
        trained: int | None = None,
    ) -> None:
        """Read the (steps + 1,) sigmas that the trainer computed.

        Raises:
            PCPOError: ``eta`` not positive, or as :func:`flow_schedule`.
        """
        _check_noise("eta", float(eta))
        # What these trainers tell the network, and file a step under.
        timestep = (sigmas[:-1].detach().cpu() * 1000).int()
        scale = torch.full((sigmas.numel() - 1,), float(eta), dtype=torch.float64)
        self.schedule = flow_schedule(sigmas, timestep, scale, config, trained)
        self._weight = self.schedule.weight.float().to(device)

    def weight(self, index: int, batch: int) -> Tensor:
        """(batch,) float32 weights of the step ``index``."""
        return self._weight[index].expand(batch)
