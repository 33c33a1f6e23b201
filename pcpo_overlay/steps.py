"""A sampler's schedule in use, resolved once: what every step is sampled with and what it counts for.

:func:`ddim_steps` and :func:`flow_steps` compute it in float64; the hooks look it up through a :class:`StepTable`,
``run.json`` keeps :meth:`Steps.as_dict`, and ``pcpo weights`` prints the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay.config import PCPOConfig, PCPOError
from pcpo_overlay.schedules import ddim_previous
from pcpo_overlay.variance import (
    NOISE_KEPT,
    cps_std,
    ddim_sigma,
    flow_grpo_scale,
    linear_scale,
    paper_sigma,
    resolve_w_star,
)
from pcpo_overlay.weights import (
    cps_coefficient,
    ddim_weight,
    flow_weight,
    power_weights,
    prediction_scale,
    proportional_weights,
)


@dataclass(frozen=True)
class Steps:
    """Every step of a rollout, in rollout order. Tensors are (steps,), float64 but for the timesteps, on the CPU.

    Attributes:
        timestep: what the network is told of each step, as the scheduler has it.
        sigma: schedule value where each step starts; None for DDIM.
        dt: interval of the step, positive, as a share of the whole range.
        std_native: upstream's std of the step.
        std: the std that is sampled with; only DDIM's is ever another.
        weight_native: native weights (Eq. 4, 8) on the network's output, under ``std_native``: what upstream's own
            objective multiplies ``d*z`` with.
        weight_policy: ``c(std)/std``, the weights of the sampler in use, under which the log ratio is the policy's.
        weight: the weights on the network's output that the objective uses.
        variance: ``paper`` or ``native``, as sampled; None for a flow, which is never changed.
        why: why ``variance=auto`` took that one; None where it was not asked.
        w_star: target weight of the paper's variance, None where it is not used.
        zeta: ``weight/dt`` of proportional weights (Eq. 9) on a flow, None where the weights are others.
        trained: number of steps, the first ones, that can be trained.
        trained_from: how many of these cannot, the first ones: those before any window of the trainer.
        clip_scale: what upstream's ratio is the exponential of, in log ratios of the policy; None where it is just
            that. Coefficients-preserving steps leave out ``1/(2*std**2)``, and their clip range belongs to that scale.
        mean_native: mean of the native weights over the steps that the weights' mean is taken over, of DDIM on the
            noise estimate; None where that has none (zero terminal SNR).
    """

    timestep: Tensor
    sigma: Tensor | None
    dt: Tensor
    std_native: Tensor
    std: Tensor
    weight_native: Tensor
    weight_policy: Tensor
    weight: Tensor
    variance: str | None
    why: str | None
    w_star: float | None
    zeta: float | None
    trained: int
    mean_native: float | None
    trained_from: int = 0
    clip_scale: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse what no step can be sampled or trained with.

        Raises:
            PCPOError: a step without an interval, or a weight or std that is not finite.
        """
        if not bool((self.dt > 0).all()):
            raise PCPOError(f"the schedule leaves steps without an interval: {self.timestep.tolist()}")
        for name in ("std_native", "std", "weight_native", "weight_policy", "weight"):
            finite = getattr(self, name).isfinite()
            if not bool(finite.all()):
                at = self.timestep[~finite][0].item()
                raise PCPOError(f"{name} is not a finite number at timestep {at:g} of this schedule")
        if not bool((self.std > 0).logical_or(self.std_native == 0).all()):
            raise PCPOError("a step's std falls below double precision; choose less extreme values")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for ``run.json`` and ``pcpo weights --json``; what this sampler has nothing of is left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value.tolist() if isinstance(value, Tensor) else value
            for name, value in values.items()
            if not (value is None and name in ("zeta", "sigma") and self.sigma is None)
            and not (name in ("trained_from", "clip_scale") and not isinstance(value, Tensor) and not value)
            and not (name in ("variance", "why", "w_star") and self.sigma is not None)
        }

    @property
    def std_share(self) -> float:
        """What is sampled with in proportion to upstream's std, both as root mean squares over the rollout."""
        return float(self.std.norm() / self.std_native.norm())

    def describe(self, config: PCPOConfig) -> str:
        """One line for the banner."""
        steps, weight = self.weight.numel(), self.weight
        which = "" if self.trained == steps else f" of which the first {self.trained} can be trained"
        if self.trained_from:
            which = f" of which {self.trained_from + 1} to {self.trained} can be trained"
        says = f"{steps} steps{which}, {config.weights} weights {weight.min():.6g} to {weight.max():.6g}"
        if self.mean_native is not None:
            says += f" (native mean {self.mean_native:.6g})"
        if self.zeta is not None:
            says += f", zeta {self.zeta:.6g} over the {config.zeta} steps"
        if self.variance is not None:
            says += f", {self.variance} variance"
        if self.w_star is not None:
            says += f", w_star {self.w_star:g}, {self.std_share:.2f} of DDIM's noise"
        if self.why is not None:
            says += f" ({self.why})"
        elif self.w_star is not None and self.std_share < NOISE_KEPT:
            says += ": it explores less, which variance=native does not"
        return says


def ddim_steps(
    alphas_cumprod: Tensor,
    timestep: Tensor,
    steps: int,
    eta: float,
    config: PCPOConfig,
    prediction_type: str = "epsilon",
    trained: int | range | None = None,
) -> Steps:
    """Resolve a configuration on a DDIM schedule.

    Args:
        alphas_cumprod: (train_timesteps,) cumulative alphas of the scheduler.
        timestep: (steps,) timesteps of the rollout, highest noise first.
        steps: number of inference steps the sampler was set to.
        eta: noise scale in (0, 1].
        config: mode and options.
        prediction_type: what the network predicts.
        trained: steps that the trainer can train, or how many, the first ones; None for all.

    Raises:
        PCPOError: eta outside (0, 1], a ``w_star`` with no real root, or a schedule on which the mode's weights are not
            finite.
    """
    if not 0 < eta <= 1:
        raise PCPOError(f"eta is {eta}: PCPO needs a stochastic DDIM sampler, with eta in (0, 1]")
    abar = alphas_cumprod.detach().cpu().double()
    timestep = timestep.detach().cpu()
    abar_t, abar_prev = abar[timestep], abar[ddim_previous(timestep, steps, abar.numel())]
    _check_signal(abar_t, timestep, config, prediction_type)

    std_native = eta * ddim_sigma(abar_t, abar_prev)
    variance, why, w_star, std = "native", None, None, std_native
    if config.reshapes_variance:
        target = resolve_w_star(abar_t, abar_prev, config.w_star)
        # A step that upstream draws nothing in stays so.
        reshaped = torch.where(
            std_native > 0,
            eta * paper_sigma(abar_t, abar_prev, target),
            std_native,
        )
        share = float(reshaped.norm() / std_native.norm())
        if config.variance == "auto":
            keeps = f"leaves {share:.2f} of DDIM's noise" if math.isfinite(share) else "has no value here"
            why = f"auto: the paper's {keeps}, and from {NOISE_KEPT} on it is taken"
        if config.variance == "paper" or share >= NOISE_KEPT:
            variance, w_star, std = "paper", target, reshaped

    on_noise = ddim_weight(abar_t, abar_prev, std_native)
    trained = _trained(trained, timestep.numel())
    over = _mean_over(trained, std_native, config)
    mean_native = float(on_noise[over].mean())
    policy = ddim_weight(abar_t, abar_prev, std, prediction_type)
    if config.weights == "native":
        weight = policy
    else:  # the intervals of a DDIM rollout are equal, so proportional credit is the uniform one
        weight = power_weights(on_noise, config.power or 0.0, over).masked_fill(std == 0, 0)
        weight = weight * prediction_scale(abar_t, prediction_type)
    return Steps(
        timestep=timestep,
        sigma=None,
        dt=torch.full_like(std, (abar.numel() // steps) / abar.numel()),
        std_native=std_native,
        std=std,
        weight_native=ddim_weight(abar_t, abar_prev, std_native, prediction_type),
        weight_policy=policy,
        weight=weight,
        variance=variance,
        why=why,
        w_star=w_star,
        zeta=None,
        trained=trained.stop,
        trained_from=trained.start,
        mean_native=mean_native if math.isfinite(mean_native) else None,
    )


def _check_signal(abar_t: Tensor, timestep: Tensor, config: PCPOConfig, prediction_type: str) -> None:
    """Refuse what has no finite weights at a step without signal (``abar_t = 0``, zero terminal SNR)."""
    silent = timestep[abar_t == 0].tolist()
    if not silent:
        return
    where = f"at timestep {silent[0]} the schedule has no signal (zero terminal SNR)"
    if prediction_type == "epsilon":
        raise PCPOError(f"{where}, and a network that predicts noise cannot be sampled there")
    if config.weights != "native":
        raise PCPOError(
            f"{where}, so native weights have no finite mean on the noise estimate; use PCPO=match, or "
            "weights=native"
        )


def flow_steps(
    sigmas: Tensor, timestep: Tensor, scale: Tensor, config: PCPOConfig, trained: int | range | None = None
) -> Steps:
    """Resolve a configuration on the schedule of a flow sampler's Euler-Maruyama steps.

    Args:
        sigmas: (steps + 1,) the sampler's schedule, shifted as it shifts, ending in 0.
        timestep: (steps,) what the network is told of each step.
        scale: (steps,) SDE noise scale ``s_t`` of each step.
        config: mode and options. ``zeta`` says over which steps the mean weight equals the native one: all of the
            ``schedule`` (Proposition 2), or the ``trained`` ones.
        trained: steps that the trainer can train, or how many, the first ones; None for all.

    Raises:
        PCPOError: a schedule that does not fall.
    """
    sigmas, dt = _falling(sigmas)
    scale = scale.detach().cpu().double()
    native = flow_weight(sigmas[:-1], dt, scale)
    return _flow(sigmas, timestep, scale * torch.sqrt(dt), native, native, config, trained)


def cps_steps(
    sigmas: Tensor,
    timestep: Tensor,
    noise_level: float,
    config: PCPOConfig,
    trained: int | range | None = None,
) -> Steps:
    """Resolve a configuration on the coefficients-preserving steps of Flow-GRPO (``sde_type=cps``).

    Upstream's log probability there is ``2*std**2`` times the Gaussian one, so what it multiplies ``d*z`` with, the
    native weight, is ``2*c*std``; the policy's is ``c/std``. The last step draws nothing and has no weight.

    Args:
        noise_level: in (0, 1]; the others as for :func:`flow_steps`.

    Raises:
        PCPOError: a schedule that does not fall, or a ``noise_level`` out of range.
    """
    _check_noise("sample.noise_level", noise_level)
    if noise_level > 1:
        raise PCPOError(f"sample.noise_level is {noise_level}: with sde_type=cps it has to be in (0, 1]")
    sigmas, _ = _falling(sigmas)
    std = cps_std(sigmas, noise_level)
    c = cps_coefficient(sigmas[:-1], sigmas[1:], std)
    policy = torch.where(std > 0, c / std, torch.zeros_like(std))
    return _flow(sigmas, timestep, std, 2 * c * std, policy, config, trained, clip_scale=2 * std**2)


def _falling(sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """A flow's sigmas in float64 on the CPU, and their intervals, which have to be positive."""
    sigmas = sigmas.detach().cpu().double()
    dt = sigmas[:-1] - sigmas[1:]
    if not bool((dt > 0).all()):
        raise PCPOError(f"the sampler's sigmas do not fall from step to step: {sigmas.tolist()}")
    return sigmas, dt


def _flow(
    sigmas: Tensor,
    timestep: Tensor,
    std: Tensor,
    native: Tensor,
    policy: Tensor,
    config: PCPOConfig,
    trained: int | range | None,
    clip_scale: Tensor | None = None,
) -> Steps:
    """The steps of a flow whose native weights are known."""
    dt = sigmas[:-1] - sigmas[1:]
    trained = _trained(trained, dt.numel())
    over = _mean_over(trained, std, config)
    zeta = None
    if config.weights == "native":
        weight = native
    elif config.weights == "proportional":
        _, zeta = proportional_weights(native[over], dt[over])
        weight = (zeta * dt).masked_fill(std == 0, 0)
    else:
        weight = power_weights(native, config.power or 0.0, over).masked_fill(std == 0, 0)
    return Steps(
        timestep=timestep.detach().cpu(),
        sigma=sigmas[:-1],
        dt=dt,
        std_native=std,
        std=std,
        weight_native=native,
        weight_policy=policy,
        weight=weight,
        variance=None,
        why=None,
        w_star=None,
        zeta=zeta,
        trained=trained.stop,
        mean_native=float(native[over].mean()),
        trained_from=trained.start,
        clip_scale=clip_scale,
    )


def _trained(trained: int | range | None, steps: int) -> range:
    """The steps that can be trained, of those that there are."""
    if isinstance(trained, range):
        return range(min(trained.start, steps), min(trained.stop, steps))
    return range(steps if trained is None else min(trained, steps))


def _mean_over(trained: range, std: Tensor, config: PCPOConfig) -> Tensor:
    """(steps,) bool: those that the mean weight is taken over, all of which draw noise."""
    over = std > 0
    if config.zeta == "trained":
        index = torch.arange(std.numel())
        over = over & (index >= trained.start) & (index < max(trained.stop, 1))
    if not bool(over.any()):
        raise PCPOError("no step of this schedule draws any noise, so there is nothing to give credit to")
    return over


def flow_grpo_steps(
    sigmas: Tensor,
    timestep: Tensor,
    noise_level: float,
    config: PCPOConfig,
    trained: int | range | None = None,
    sde_type: str = "sde",
) -> Steps:
    """:func:`flow_steps` under Flow-GRPO's noise scale, whose ``noise_level`` is positive, or :func:`cps_steps`.

    Under ``linear``, Wan's, the ``noise_level`` is the scale at the schedule value 1.
    """
    if sde_type == "cps":
        return cps_steps(sigmas, timestep, noise_level, config, trained)
    values = sigmas.detach().cpu().double()
    if sde_type == "linear":
        if len(values) < 3:
            raise PCPOError(
                "one step of Wan's draws no noise, whose scale is the second sigma; take 2 or more"
            )
        return flow_steps(sigmas, timestep, linear_scale(values, noise_level), config, trained)
    _check_noise("sample.noise_level", noise_level)
    return flow_steps(sigmas, timestep, flow_grpo_scale(values, noise_level), config, trained)


def dancegrpo_steps(
    sigmas: Tensor, eta: float, config: PCPOConfig, trained: int | range | None = None
) -> Steps:
    """:func:`flow_steps` of DanceGRPO's samplers: one noise scale ``eta``, which must be positive, for all steps."""
    _check_noise("eta", eta)
    # What these trainers tell the network, and file a step under.
    timestep = (sigmas[:-1].detach().cpu() * 1000).int()
    scale = torch.full((sigmas.numel() - 1,), float(eta), dtype=torch.float64)
    return flow_steps(sigmas, timestep, scale, config, trained)


def _check_noise(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise PCPOError(f"{name} is {value}: PCPO needs a stochastic sampler; set a positive {name}")


def read_scheduler(
    scheduler: Any,
    scale: float,
    config: PCPOConfig,
    trained: int | range | None = None,
    sde_type: str = "sde",
) -> Steps:
    """Resolve a configuration on a diffusers scheduler whose timesteps are set.

    Args:
        scheduler: a DDIMScheduler or a FlowMatchEulerDiscreteScheduler; under ``linear`` a UniPCMultistepScheduler of
            a flow, which has what DDIM's has, too.
        scale: of the noise: DDIM's eta, Flow-GRPO's noise level.
        trained: steps that the trainer can train, or how many, the first ones; None for all.
        sde_type: of a flow: ``sde``, ``cps`` or ``linear``.

    Raises:
        PCPOError: a sampler whose mean is not linear in the prediction (clipped or thresholded x0), for which the log
            ratio by prediction matching does not hold; or as :func:`ddim_steps` and :func:`flow_grpo_steps`.
    """
    if sde_type == "linear" or not hasattr(scheduler, "alphas_cumprod"):
        return flow_grpo_steps(scheduler.sigmas, scheduler.timesteps, float(scale), config, trained, sde_type)
    settings = scheduler.config
    for name in ("clip_sample", "thresholding"):
        if config.matching and settings.get(name):
            raise PCPOError(
                f"the scheduler has {name}=true: its step is not linear in the prediction, so prediction "
                f"matching does not hold; set {name}=false in the model's scheduler config or use PCPO=log"
            )
    return ddim_steps(
        scheduler.alphas_cumprod,
        scheduler.timesteps,
        scheduler.num_inference_steps,
        float(scale),
        config,
        settings.get("prediction_type", "epsilon"),
        trained,
    )


@dataclass(frozen=True)
class ShiftedSchedule:
    """Of a trainer that makes its schedule itself, BAGEL's: what a scheduler would have of it.

    Attributes:
        sigmas: (steps + 1,) float32 from 1 to 0.
    """

    sigmas: Tensor

    @classmethod
    def of(cls, values: int, shift: float, device: torch.device) -> ShiftedSchedule:
        """So many values under a shift, computed as the trainer does, so that its timesteps are found here."""
        t = torch.linspace(1, 0, values, device=device)
        return cls(shift * t / (1 + (shift - 1) * t))

    @property
    def timesteps(self) -> Tensor:
        """(steps,) what the network is told of each step."""
        return self.sigmas[:-1]

    @property
    def num_inference_steps(self) -> int:
        return len(self.sigmas) - 1


class StepTable:
    """:class:`Steps` on the sampler's device, in float32 unless asked otherwise, looked up without a host sync.

    A step is named by its timestep or by its index; a timestep that is not of the schedule gives NaN, which must not
    pass for a value.
    """

    def __init__(self, steps: Steps, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.steps = steps
        self._timestep = steps.timestep.to(device)
        columns = [steps.weight, steps.weight_policy, steps.std]
        columns += [] if steps.clip_scale is None else [steps.clip_scale]
        table = torch.cat([torch.stack(columns), steps.std.new_full((len(columns), 1), math.nan)], dim=1)
        self._weight, self._policy, self._std, *self._clip_scale = table.to(device, dtype).unbind()

    def row(self, timestep: Tensor) -> Tensor:
        """(1,) or (B,) index of each step; the number of steps for a timestep that is not of the schedule."""
        here = timestep.reshape(-1, 1) == self._timestep
        return torch.where(here.any(1), here.int().argmax(1), self._timestep.numel())

    def _named(self, step: Tensor | int) -> Tensor | int:
        return step if isinstance(step, int) else self.row(step)

    def weight(self, step: Tensor | int, batch: int) -> Tensor:
        """(batch,) weights of a step: its index, or its timestep () or (1,) or (batch,)."""
        return self._weight[self._named(step)].expand(batch)

    def policy_weight(self, step: Tensor | int, batch: int) -> Tensor:
        """(batch,) weights of the sampler in use, whatever the mode's weights are."""
        return self._policy[self._named(step)].expand(batch)

    def clip_scale(self, step: Tensor | int, batch: int) -> Tensor | None:
        """(batch,) what upstream's ratio is the exponential of, in log ratios of the policy; None where just that."""
        return self._clip_scale[0][self._named(step)].expand(batch) if self._clip_scale else None

    def std(self, timestep: Tensor, like: Tensor) -> Tensor:
        """Std of the step at ``timestep``, () or (B,), in the shape and dtype of ``like``, (B, ...)."""
        std = self._std[self._named(timestep)].to(like.dtype)
        return std.reshape(std.shape + (1,) * (like.ndim - std.ndim)).expand(like.shape)
