"""What ``pcpo weights`` shows: a sampler's schedule as a mode resolves it, from where the runs take it too."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pcpo_overlay.config import PCPOConfig, PCPOError, parse
from pcpo_overlay.schedules import (
    dancegrpo_sigmas,
    ddim_timesteps,
    sd3_sigmas,
    sd_alphas_cumprod,
    wan_sigmas,
)
from pcpo_overlay.steps import Steps, dancegrpo_steps, ddim_steps, flow_grpo_steps, read_scheduler

_TRAIN_TIMESTEPS = 1000


@dataclass(frozen=True)
class WeightTable:
    """A schedule and where it came from.

    Attributes:
        sampler: ``ddim``, ``dancegrpo``, ``flow-grpo``, ``flow-grpo-wan`` or ``flow-grpo-bagel``.
        parameters: what the schedule was computed from, by name.
        mode: the mode as it was asked for.
        config: the mode and its options as they act.
        steps: the resolved schedule.
        note: what a reader should know about this schedule, or None.
    """

    sampler: str
    parameters: dict[str, str | int | float]
    mode: str
    config: PCPOConfig
    steps: Steps
    note: str | None = None

    def columns(self) -> Iterator[tuple[str, Tensor]]:
        """The columns in reading order, as ``(name, (steps,) tensor)``."""
        steps = self.steps
        yield ("timestep", steps.timestep) if steps.sigma is None else ("sigma", steps.sigma)
        yield "dt", steps.dt
        yield "weight_native", steps.weight_native
        yield "weight", steps.weight
        yield "std", steps.std
        if steps.sigma is None:
            yield "std_native", steps.std_native

    @property
    def scalars(self) -> dict[str, float]:
        """What the columns have in common."""
        values = {"mean_native": self.steps.mean_native, "zeta": self.steps.zeta, "w_star": self.steps.w_star}
        return {name: value for name, value in values.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """Parameters, mode and what ``run.json`` keeps under ``resolved``, as plain values."""
        return {
            "sampler": self.sampler,
            **self.parameters,
            "mode": self.mode,
            "resolved": self.steps.as_dict(),
        }


def ddim_table(
    steps: int = 50,
    eta: float = 1.0,
    mode: str = "full",
    trained: int | None = None,
    scheduler: Path | None = None,
) -> WeightTable:
    """DDIM as DDPO and DanceGRPO sample it, on the schedule of Stable Diffusion 1.x or on a model's own.

    Args:
        steps: 1 to 1000.
        eta: in (0, 1].
        mode: as after ``PCPO=``.
        trained: number of steps, the first ones, that a trainer trains; None for all (``zeta=trained`` needs it).
        scheduler: a model's ``scheduler_config.json``.

    Raises:
        PCPOError: a value outside its range, an option that changes nothing here, or a file that cannot be used.
    """
    _check_positive("eta", eta)
    config = parse(mode, "--mode").on("ddpo" if trained is None else "dancegrpo_sd")
    timestep = ddim_timesteps(steps)
    parameters: dict[str, Any] = {"steps": steps, "eta": eta}
    if scheduler is not None:
        made = _from_file(scheduler, "DDIMScheduler")
        made.set_timesteps(steps)
        parameters["scheduler"] = str(scheduler)
        return WeightTable("ddim", parameters, mode, config, read_scheduler(made, eta, config, trained))
    note = None
    if steps == _TRAIN_TIMESTEPS:
        note = (
            "upstream cannot run 1000 steps: the timestep offset of 1 leads past the trained range; "
            "the first timestep is clipped from 1000 to 999 here"
        )
    resolved = ddim_steps(sd_alphas_cumprod(), timestep, steps, eta, config, trained=trained)
    return WeightTable("ddim", parameters, mode, config, resolved, note)


def dancegrpo_table(
    steps: int = 12, shift: float = 3.0, eta: float = 0.3, mode: str = "full", trained: int | None = None
) -> WeightTable:
    """DanceGRPO's flow SDE: sigmas ``shift(linspace(1, 0, steps + 1))``, noise scale ``eta``.

    Args:
        steps: 1 to 1000.
        shift, eta: positive.
        mode: as after ``PCPO=``.
        trained: number of steps, the first ones, that can be trained; None for all but the last.

    Raises:
        PCPOError, ValueError: as :func:`ddim_table`.
    """
    _check_positive("shift", shift)
    _check_positive("eta", eta)
    config = parse(mode, "--mode").on("dancegrpo_flux")
    resolved = dancegrpo_steps(dancegrpo_sigmas(steps, shift), eta, config, _or_all_but_last(trained, steps))
    return WeightTable("dancegrpo", {"steps": steps, "shift": shift, "eta": eta}, mode, config, resolved)


def flow_grpo_table(
    steps: int = 10,
    shift: float | None = None,
    noise_level: float = 0.7,
    mode: str = "full",
    trained: int | None = None,
    scheduler: Path | None = None,
    mu: float | None = None,
    sde_type: str = "sde",
) -> WeightTable:
    """Flow-GRPO's steps on the sigmas of SD3's scheduler, whose shift acts twice, or on those of a model's own.

    Args:
        steps: 1 to 1000.
        shift: positive; None for SD3's 3.
        noise_level: positive.
        mode: as after ``PCPO=``.
        trained: number of steps, the first ones, that are trained; None for all but the last.
        scheduler: a model's ``scheduler_config.json``.
        mu: what a scheduler with dynamic shifting takes for the picture's size.
        sde_type: ``sde`` or ``cps``, coefficients-preserving steps.

    Raises:
        PCPOError, ValueError: as :func:`ddim_table`.
    """
    _check_positive("noise_level", noise_level)
    config = parse(mode, "--mode").on("flow_grpo")
    trained = _or_all_but_last(trained, steps)
    parameters: dict[str, Any] = {"steps": steps}
    if sde_type != "sde":
        parameters["sde_type"] = sde_type
    if scheduler is not None:
        if shift is not None:
            raise PCPOError("--shift and --scheduler exclude each other: the file has the shift")
        made = _from_file(scheduler, "FlowMatchEulerDiscreteScheduler")
        if made.config.use_dynamic_shifting != (mu is not None):
            needs = (
                "needs --mu, which the trainer computes from the picture's size"
                if mu is None
                else "takes no --mu"
            )
            raise PCPOError(
                f"{scheduler} has use_dynamic_shifting={made.config.use_dynamic_shifting}, so it {needs}"
            )
        made.set_timesteps(steps, **({} if mu is None else {"mu": mu}))
        parameters.update({"noise_level": noise_level, "scheduler": str(scheduler)})
        parameters.update({} if mu is None else {"mu": mu})
        return WeightTable(
            "flow-grpo",
            parameters,
            mode,
            config,
            read_scheduler(made, noise_level, config, trained, sde_type),
        )
    if mu is not None:
        raise PCPOError("--mu is for a --scheduler with dynamic shifting")
    shift = 3.0 if shift is None else shift
    _check_positive("shift", shift)
    sigmas = sd3_sigmas(steps, shift)
    parameters.update({"shift": shift, "noise_level": noise_level})
    resolved = flow_grpo_steps(sigmas, sigmas[:-1] * _TRAIN_TIMESTEPS, noise_level, config, trained, sde_type)
    return WeightTable("flow-grpo", parameters, mode, config, resolved)


def wan_table(
    steps: int = 20,
    shift: float | None = None,
    mode: str = "full",
    trained: int | None = None,
    scheduler: Path | None = None,
) -> WeightTable:
    """Flow-GRPO's steps of Wan 2.1, whose noise scale is ``sigmas[1]*t``, on its sigmas or on those of a model's own.

    Args:
        steps: 2 to 1000.
        shift: positive; None for 3, that of 480 lines.
        mode: as after ``PCPO=``.
        trained: number of steps, the first ones, that are trained; None for all but the last.
        scheduler: a model's ``scheduler_config.json``.

    Raises:
        PCPOError, ValueError: as :func:`ddim_table`.
    """
    config = parse(mode, "--mode").on("flow_grpo_wan2_1")
    parameters: dict[str, Any] = {"steps": steps}
    if scheduler is None:
        shift = 3.0 if shift is None else shift
        _check_positive("shift", shift)
        parameters["shift"] = shift
        sigmas = wan_sigmas(steps, shift)
        timestep = (sigmas[:-1] * _TRAIN_TIMESTEPS).long()
    else:
        if shift is not None:
            raise PCPOError("--shift and --scheduler exclude each other: the file has the shift")
        made = _from_file(scheduler, "UniPCMultistepScheduler")
        if not made.config.use_flow_sigmas:
            raise PCPOError(f"{scheduler} has use_flow_sigmas=False, so it is no flow's")
        made.set_timesteps(steps)
        parameters["scheduler"] = str(scheduler)
        sigmas, timestep = made.sigmas, made.timesteps
    trained = _or_all_but_last(trained, steps)
    resolved = flow_grpo_steps(sigmas, timestep, float(sigmas[1]), config, trained, "linear")
    return WeightTable("flow-grpo-wan", parameters, mode, config, resolved)


def bagel_table(
    steps: int = 14,
    shift: float = 3.0,
    noise_level: float = 1.3,
    mode: str = "full",
    trained: int | None = None,
) -> WeightTable:
    """Flow-GRPO's steps of BAGEL, on the schedule that its model makes itself: ``shift(linspace(1, 0, steps + 1))``.

    Args:
        steps: 1 to 1000, one fewer than the trainer's ``sample.num_steps``.
        shift, noise_level: positive.
        mode: as after ``PCPO=``; as in the trainer the mean weight is by default that of the steps that are trained.
        trained: number of steps, the first ones, that a window reaches; None for all but the last.

    Raises:
        PCPOError, ValueError: as :func:`ddim_table`.
    """
    _check_positive("shift", shift)
    _check_positive("noise_level", noise_level)
    config = parse(mode, "--mode").on("flow_grpo_bagel")
    sigmas = dancegrpo_sigmas(steps, shift)
    trained = _or_all_but_last(trained, steps)
    resolved = flow_grpo_steps(sigmas, sigmas[:-1], noise_level, config, trained)
    parameters: dict[str, Any] = {"steps": steps, "shift": shift, "noise_level": noise_level}
    return WeightTable("flow-grpo-bagel", parameters, mode, config, resolved)


def _or_all_but_last(trained: int | None, steps: int) -> int:
    return steps - 1 if trained is None else trained


def _from_file(path: Path, kind: str) -> Any:
    """The diffusers scheduler of a ``scheduler_config.json``.

    Raises:
        PCPOError: diffusers is missing, the file cannot be read, or it is another scheduler's.
    """
    try:
        import diffusers
    except ImportError:
        raise PCPOError(
            '--scheduler needs diffusers; install it with: pip install "pcpo-overlay[ddpo]"'
        ) from None
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PCPOError(f"{path} cannot be read as a scheduler's JSON: {error}") from None
    named = settings.get("_class_name") if isinstance(settings, dict) else None
    # The trainers make a DDIMScheduler of whatever scheduler of that family a model comes with.
    exact = kind != "DDIMScheduler"
    if not isinstance(named, str) or (named != kind if exact else named.startswith("FlowMatch")):
        raise PCPOError(f"{path} is of {named or 'no scheduler'}, where this sampler needs {kind}")
    try:
        return getattr(diffusers, kind).from_config(settings)
    except Exception as error:  # whatever a value in the file makes diffusers raise
        raise PCPOError(f"diffusers cannot make a {kind} of {path}: {error}") from None


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise PCPOError(f"{name} must be a positive number, got {value}")
