"""The schedule of a DDIM sampler in use, as tables that the hooks look steps up in by timestep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay.config import PCPOConfig, PCPOError
from pcpo_overlay.schedules import ddim_previous
from pcpo_overlay.variance import ddim_sigma, paper_sigma, resolve_w_star
from pcpo_overlay.weights import ddim_weight, prediction_scale, uniform_weights

#: Below this share of DDIM's std a user is told: 30 steps have 0.93, 25 have 0.82, 20 have 0.68 and 10 have 0.40.
LITTLE_NOISE = 0.75


@dataclass(frozen=True)
class DDIMSchedule:
    """Weights and standard deviations of every step of a rollout, in rollout order and float64 on the CPU.

    Attributes:
        timestep: (steps,) int64.
        std_native: (steps,) upstream's std, eta included.
        std: (steps,) the std that is sampled with.
        weight_native: (steps,) native weights on the noise estimate, under ``std_native``.
        weight: (steps,) the weights on the network's output that the log ratio uses.
        w_star: target weight of the paper's variance, None where it is not used.
        mean_native: mean of ``weight_native``.
    """

    timestep: Tensor
    std_native: Tensor
    std: Tensor
    weight_native: Tensor
    weight: Tensor
    w_star: float | None
    mean_native: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``run.json``."""
        return {
            "timestep": self.timestep.tolist(),
            "weight": self.weight.tolist(),
            "weight_native": self.weight_native.tolist(),
            "std": self.std.tolist(),
            "std_native": self.std_native.tolist(),
            "w_star": self.w_star,
            "mean_native": self.mean_native,
        }

    def describe(self, config: PCPOConfig) -> str:
        """One line for the banner."""
        weight = self.weight
        variance = f"{config.variance} variance"
        if self.w_star is not None:
            variance += f", w_star {self.w_star:g}, {self.std_share:.2f} of DDIM's std"
            if self.std_share < LITTLE_NOISE:
                variance += ": with so few steps it explores less, which variance=native does not"
        return (
            f"{len(weight)} steps, {config.weights} weights {weight.min():.6g} to {weight.max():.6g} "
            f"(native mean {self.mean_native:.6g}), {variance}"
        )

    @property
    def std_share(self) -> float:
        """What is sampled with in proportion to upstream's std, both as root mean squares over the rollout."""
        return float(self.std.norm() / self.std_native.norm())


def ddim_schedule(
    alphas_cumprod: Tensor,
    timestep: Tensor,
    steps: int,
    eta: float,
    config: PCPOConfig,
    prediction_type: str = "epsilon",
) -> DDIMSchedule:
    """Resolve a configuration on a DDIM schedule.

    Args:
        alphas_cumprod: (train_timesteps,) cumulative alphas of the scheduler.
        timestep: (steps,) timesteps of the rollout, highest noise first.
        steps: number of inference steps the sampler was set to.
        eta: noise scale in (0, 1].
        config: mode and options.
        prediction_type: what the network predicts.

    Raises:
        PCPOError: eta outside (0, 1], or a ``w_star`` with no real root.
    """
    if not 0 < eta <= 1:
        raise PCPOError(f"eta is {eta}: PCPO needs a stochastic DDIM sampler, with eta in (0, 1]")
    abar = alphas_cumprod.detach().cpu().double()
    timestep = timestep.detach().cpu()
    abar_t, abar_prev = abar[timestep], abar[ddim_previous(timestep, steps, abar.numel())]

    std_native = eta * ddim_sigma(abar_t, abar_prev)
    native = ddim_weight(abar_t, abar_prev, std_native)
    w_star, std = None, std_native
    if config.reshapes_variance:
        w_star = resolve_w_star(abar_t, abar_prev, config.w_star)
        std = eta * paper_sigma(abar_t, abar_prev, w_star)
    # The intervals of a DDIM rollout are equal, so proportional credit is the uniform one.
    on_noise = ddim_weight(abar_t, abar_prev, std) if config.weights == "native" else uniform_weights(native)
    return DDIMSchedule(
        timestep=timestep,
        std_native=std_native,
        std=std,
        weight_native=native,
        weight=on_noise * prediction_scale(abar_t, prediction_type),
        w_star=w_star,
        mean_native=float(native.mean()),
    )


class DDIMTable:
    """A :class:`DDIMSchedule` laid out by timestep on the sampler's device, for lookups without a host sync."""

    def __init__(self, scheduler: Any, eta: float, config: PCPOConfig, device: torch.device) -> None:
        """Read a diffusers DDIMScheduler whose timesteps are set.

        Raises:
            PCPOError: a sampler whose mean is not linear in the prediction (clipped or thresholded x0), for which
                the log ratio by prediction matching does not hold.
        """
        settings = scheduler.config
        for name in ("clip_sample", "thresholding"):
            if config.matching and settings.get(name):
                raise PCPOError(
                    f"the scheduler has {name}=true: its step is not linear in the prediction, so prediction "
                    f"matching does not hold; set {name}=false in the model's scheduler config or use PCPO=log"
                )
        self.schedule = ddim_schedule(
            scheduler.alphas_cumprod,
            scheduler.timesteps,
            scheduler.num_inference_steps,
            eta,
            config,
            settings.get("prediction_type", "epsilon"),
        )
        size = scheduler.alphas_cumprod.numel()
        self._std = self._by_timestep(self.schedule.std, size, device)
        self._weight = self._by_timestep(self.schedule.weight, size, device)

    def _by_timestep(self, values: Tensor, size: int, device: torch.device) -> Tensor:
        # NaN at timesteps that are not of this schedule: a lookup there must not pass for a value.
        table = torch.full((size,), float("nan"), dtype=torch.float32)
        table[self.schedule.timestep] = values.float()
        return table.to(device)

    def std(self, timestep: Tensor, like: Tensor) -> Tensor:
        """Std of the step at ``timestep``, () or (B,), in the shape and dtype of ``like``, (B, ...)."""
        std = torch.take(self._std, timestep).to(like.dtype)
        return std.reshape(std.shape + (1,) * (like.ndim - std.ndim)).expand(like.shape)

    def weight(self, timestep: Tensor, batch: int) -> Tensor:
        """(batch,) float32 weights of the step at ``timestep``, () or (batch,)."""
        return torch.take(self._weight, timestep).expand(batch)
