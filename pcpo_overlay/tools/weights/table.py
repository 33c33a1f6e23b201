"""The resolved schedule of a sampler, step by step: position, interval, weights and standard deviation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pcpo_overlay.config import PCPOError
from pcpo_overlay.schedules import (
    dancegrpo_sigmas,
    ddim_previous,
    ddim_timesteps,
    sd3_sigmas,
    sd_alphas_cumprod,
)
from pcpo_overlay.variance import ddim_sigma, flow_grpo_scale, paper_sigma, resolve_w_star
from pcpo_overlay.weights import ddim_weight, flow_weight, proportional_weights

_TRAIN_TIMESTEPS = 1000


@dataclass(frozen=True)
class WeightTable:
    """A sampler's schedule under full PCPO. Every tensor is (steps,), float64 and in rollout order.

    Attributes:
        sampler: ``ddim``, ``dancegrpo`` or ``flow-grpo``.
        parameters: what the schedule was computed from, by name.
        scalars: ``w_star`` and ``mean_native`` (ddim) or ``zeta`` (flow).
        position_name: ``timestep`` (ddim) or ``sigma`` (flow).
        position: where each step starts: the timestep (int64), or the sigma-schedule value.
        dt: the interval of the step, as a fraction of the whole range.
        native: native weights (Eq. 4, 8).
        proportional: weights proportional to the interval (Prop. 2), whose mean is the native one.
        std: standard deviation of the step as full PCPO samples it.
        std_native: as upstream samples it; None where PCPO never changes it (flow).
        note: what a reader should know about this schedule, or None.
    """

    sampler: str
    parameters: dict[str, int | float]
    scalars: dict[str, float]
    position_name: str
    position: Tensor
    dt: Tensor
    native: Tensor
    proportional: Tensor
    std: Tensor
    std_native: Tensor | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        """Raise :class:`PCPOError` where extreme parameters leave the range of double precision."""
        finite = all(bool(column.isfinite().all()) for _, column in self.columns())
        if not (finite and all(map(math.isfinite, self.scalars.values())) and bool((self.std > 0).all())):
            raise PCPOError(
                f"{self._echo()} give weights beyond double precision; choose less extreme values"
            )
        if not bool((self.dt > 0).all()):
            raise PCPOError(f"{self._echo()} leave steps without an interval; choose less extreme values")

    def _echo(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.parameters.items())

    def columns(self) -> Iterator[tuple[str, Tensor]]:
        """The columns in reading order, as ``(name, (steps,) tensor)``."""
        yield self.position_name, self.position
        yield "dt", self.dt
        yield "native", self.native
        yield "proportional", self.proportional
        yield "std", self.std
        if self.std_native is not None:
            yield "std_native", self.std_native

    def as_dict(self) -> dict[str, str | int | float | list[int] | list[float]]:
        """Parameters, scalars and columns as plain values, every number finite."""
        return {
            "sampler": self.sampler,
            **self.parameters,
            **self.scalars,
            **{name: column.tolist() for name, column in self.columns()},
        }


def ddim_table(steps: int = 50, eta: float = 1.0, w_star: float | None = None) -> WeightTable:
    """DDIM on the schedule of Stable Diffusion 1.x, as DDPO and DanceGRPO sample it (noise prediction).

    The interval is the stride of the timestep grid, ``1000//steps`` of 1000, the same for every step; so the
    proportional weights are the mean of the native ones.

    Args:
        steps: 1 to 1000.
        eta: in (0, 1]; scales the native and the paper's standard deviation alike.
        w_star: target weight of the paper's variance schedule, judged at eta 1; None as in
            :func:`~pcpo_overlay.variance.resolve_w_star`.

    Raises:
        ValueError: a value outside its range.
        PCPOError: a ``w_star`` with no real root; the message names the smallest that has one.
    """
    _check_positive("eta", eta)
    if eta > 1:
        raise PCPOError(
            f"eta of ddim must be at most 1, got {eta}: no direction is left for the noise beyond"
        )
    if w_star is not None:
        _check_positive("w_star", w_star)
    timestep = ddim_timesteps(steps)
    alphas_cumprod = sd_alphas_cumprod()
    abar_t, abar_prev = alphas_cumprod[timestep], alphas_cumprod[ddim_previous(timestep, steps)]

    resolved = resolve_w_star(abar_t, abar_prev, w_star)
    std_native = eta * ddim_sigma(abar_t, abar_prev)
    native = ddim_weight(abar_t, abar_prev, std_native)
    dt = torch.full_like(native, (_TRAIN_TIMESTEPS // steps) / _TRAIN_TIMESTEPS)
    clipped = steps == _TRAIN_TIMESTEPS
    return WeightTable(
        sampler="ddim",
        parameters={"steps": steps, "eta": eta},
        scalars={"w_star": resolved, "mean_native": float(native.mean())},
        position_name="timestep",
        position=timestep,
        dt=dt,
        native=native,
        proportional=proportional_weights(native, dt)[0],
        std=eta * paper_sigma(abar_t, abar_prev, resolved),
        std_native=std_native,
        note="the timestep offset of 1 leads past the trained range at 1000 steps; "
        "the first timestep is clipped from 1000 to 999"
        if clipped
        else None,
    )


def dancegrpo_table(steps: int = 12, shift: float = 3.0, eta: float = 0.3) -> WeightTable:
    """DanceGRPO's flow SDE: sigmas ``shift(linspace(1, 0, steps + 1))``, noise scale ``eta``.

    Args:
        steps: 1 to 1000.
        shift, eta: positive.

    Raises:
        ValueError: a value outside its range.
    """
    _check_positive("shift", shift)
    _check_positive("eta", eta)
    sigmas = dancegrpo_sigmas(steps, shift)
    scale = torch.full_like(sigmas[:-1], eta)
    return _flow_table("dancegrpo", {"steps": steps, "shift": shift, "eta": eta}, sigmas, scale)


def flow_grpo_table(steps: int = 10, shift: float = 3.0, noise_level: float = 0.7) -> WeightTable:
    """Flow-GRPO's SDE on the sigmas of SD3's scheduler, whose shift acts twice.

    Args:
        steps: 1 to 1000.
        shift, noise_level: positive.

    Raises:
        ValueError: a value outside its range.
    """
    _check_positive("shift", shift)
    _check_positive("noise_level", noise_level)
    sigmas = sd3_sigmas(steps, shift)
    parameters = {"steps": steps, "shift": shift, "noise_level": noise_level}
    return _flow_table("flow-grpo", parameters, sigmas, flow_grpo_scale(sigmas, noise_level))


def _flow_table(
    sampler: str, parameters: dict[str, int | float], sigmas: Tensor, scale: Tensor
) -> WeightTable:
    t, dt = sigmas[:-1], sigmas[:-1] - sigmas[1:]
    native = flow_weight(t, dt, scale)
    proportional, zeta = proportional_weights(native, dt)
    return WeightTable(
        sampler=sampler,
        parameters=parameters,
        scalars={"zeta": zeta},
        position_name="sigma",
        position=t,
        dt=dt,
        native=native,
        proportional=proportional,
        std=scale * torch.sqrt(dt),
    )


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise PCPOError(f"{name} must be a positive number, got {value}")
