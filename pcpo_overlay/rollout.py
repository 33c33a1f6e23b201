"""What happens while a trainer samples: the steps' std, the tape, and sampling in the precision of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay import losses
from pcpo_overlay.config import PCPOConfig, PCPOError
from pcpo_overlay.flow_grpo import AsSampled
from pcpo_overlay.messages import say
from pcpo_overlay.steps import ShiftedSchedule, Steps, StepTable, dancegrpo_steps, read_scheduler
from pcpo_overlay.tape import INDEX, Tape


class Rollout:
    """The rollouts of a run, one after another.

    Args:
        config: mode and options.
        tape: what the steps are recorded on.
        trained_steps: steps of the schedule that can be trained; None for all.
        windowed: whether the sampler draws noise in a window of steps alone, and stores these alone.
        as_sampled: whether the network in training has to be given what it was given in sampling.
        own_schedule: number of values and shift of a schedule that the trainer makes itself; None for a scheduler's.
        speaks: whether this process is the one that talks to the user.
    """

    def __init__(
        self,
        config: PCPOConfig,
        tape: Tape,
        trained_steps: range | None = None,
        windowed: bool = False,
        as_sampled: bool = False,
        own_schedule: tuple[int, float] | None = None,
        speaks: bool = False,
    ) -> None:
        self.is_open = False
        self._config = config
        self._tape = tape
        self._trained_steps = trained_steps
        self._windowed = windowed
        self._own_schedule = own_schedule
        self._schedule: ShiftedSchedule | None = None
        self._wants_inputs = as_sampled and config.matching
        self._inputs: AsSampled | None = None
        self._still = 0  # steps without noise
        self._speaks = speaks
        self._table: tuple[tuple[Any, ...], Any, StepTable] | None = None
        self._indices: list[Tensor] = []  # places on the tape, until the trainer collects its samples
        self._restore_sampler: Callable[[], None] | None = None
        self._predicted_in: torch.dtype | None = None
        #: Whether the network is sampled under the autocast it is trained under; None before the first rollout.
        self.samples_as_trained: bool | None = None

    def begin(self, accelerator: Any, network: torch.nn.Module | None) -> None:
        """The sampler is about to draw what will be trained on."""
        self.is_open = True
        if self._tape.open_steps:  # the trainer samples in batches and collects them at the end
            self._indices.append(self._tape.close_rollout())
        self.samples_as_trained = self._config.precision == "match" or bool(_why_alike(accelerator, network))
        if self._config.precision == "match":
            if self._restore_sampler is None:
                self._sample_in_training_precision(accelerator, network)
        elif self._config.matching and not self.samples_as_trained:
            self._say_once(
                "this trainer samples outside the autocast that it trains under, so on-policy ratios are not exactly "
                "1; precision=match makes them so"
            )
        if self._wants_inputs and self._inputs is None and network is not None:
            self._inputs = AsSampled(network)
        self.trains(None)

    def end(self, sample: dict[str, Any]) -> None:
        """The rollout is sampled: give its samples their place on the tape.

        Raises:
            PCPOError: it drew no noise at any step.
        """
        self.is_open = False
        if self._restore_sampler:
            self._restore_sampler()
            self._restore_sampler = None
        if self._still and not self._tape.open_steps and self._config.tape != "off":
            raise PCPOError("sample.noise_level is 0: PCPO needs a stochastic sampler; set a positive one")
        if self._config.matching or self._tape.open_steps:
            sample[INDEX] = torch.cat([*self._indices, self._tape.close_rollout()])
            self._indices.clear()
        if self._config.matching:
            # The step function returns log rho itself in these modes, so the reference it is compared with is zero.
            sample["log_probs"] = torch.zeros_like(sample["log_probs"], dtype=torch.float32)

    def std(self, std: Tensor, scheduler: Any, timestep: Tensor, eta: float) -> Tensor:
        """Std of a DDIM step, (B, ...): the mode's in place of upstream's, or upstream's as it is."""
        if not self._config.reshapes_variance:
            return std
        table = self.table(scheduler, eta, std.device)
        return table.std(timestep, std) if table.steps.variance == "paper" else std

    def record(
        self, pred: Tensor, z: Tensor, scheduler: Any, timestep: Tensor, scale: float, sde_type: str = "sde"
    ) -> None:
        """One step was drawn; outside a training rollout it is not recorded.

        Raises:
            PCPOError: a schedule or setting that the mode cannot work with.
        """
        if not self.is_open:
            return
        if self._windowed and scale == 0:
            self._still += 1
            return  # a step outside the window
        if scheduler is None:
            if self._schedule is None and self._own_schedule is not None:
                self._schedule = ShiftedSchedule.of(*self._own_schedule, pred.device)
            scheduler = self._schedule
        table = self.table(scheduler, scale, pred.device, sde_type)
        if self._config.tape == "off":
            if table.steps.clip_scale is not None:
                raise PCPOError(
                    "tape=off leaves nothing to tell the policy's ratio from upstream's under sde_type=cps; drop it"
                )
            return
        if self._trained_steps is not None and self._tape.open_steps == len(self._trained_steps):
            return  # a step that is never trained needs no place on the tape
        timestep = timestep.to(pred.device)
        if self._inputs:
            self._inputs.sampled(table.row(timestep), table.steps.dt.numel())
        self._record(pred, z, z.dtype, table, timestep)

    def trains(self, timestep: Tensor | None) -> None:
        """The steps at (B,) timesteps are about to be trained; with None, no step any more."""
        if self._inputs is None:
            return
        if timestep is None or self._table is None:
            self._inputs.trains(None)
        else:
            self._inputs.trains(self._table[2].row(timestep))

    def record_drawn(
        self, pred: Tensor, sample: Tensor, mean: Tensor, std: float, sigmas: Tensor, index: int, eta: float
    ) -> None:
        """One step was drawn, whose noise the sampler did not keep."""
        if not self.is_open:
            return
        table = self._cached(
            (float(eta), pred.device),
            sigmas,
            lambda: dancegrpo_steps(sigmas, eta, self._config, self._trained_steps),
            pred.device,
        )
        untrained = self._trained_steps is not None and index not in self._trained_steps
        if self._config.tape == "off" or untrained:
            return
        if index == 0 and self._tape.open_steps:  # the trainer samples one by one
            self._indices.append(self._tape.close_rollout())
        z = (sample - mean) / std if self._config.matching else None
        self._record(pred, z, torch.promote_types(sample.dtype, mean.dtype), table, index)

    def _record(
        self, pred: Tensor, z: Tensor | None, drawn_in: torch.dtype, table: StepTable, step: Tensor | int
    ) -> None:
        """Put a step on the tape; the noise, drawn in some dtype, only where the objective needs it."""
        batch = pred.shape[0]
        self._predicted_in = pred.dtype
        if not self._config.matching:
            self._tape.left_out += pred.numel() * drawn_in.itemsize
        clip_scale = table.clip_scale(step, batch)
        self._tape.record(
            pred,
            z if self._config.matching else None,
            table.weight(step, batch),
            table.policy_weight(step, batch),
            *(() if clip_scale is None else (clip_scale,)),
        )

    def precision(self, sample: dict[str, Any]) -> dict[str, Any]:
        """What the network's prediction, and the latents and log probabilities of a rollout's samples, are kept in; and
        whether the network is sampled as it is trained.
        """
        kept: dict[str, torch.dtype] = {
            name: sample[name].dtype for name in ("latents", "next_latents", "log_probs") if name in sample
        }
        kept |= {} if self._predicted_in is None else {"prediction": self._predicted_in}
        names = {name: str(dtype).removeprefix("torch.") for name, dtype in kept.items()}
        return names | {"samples_as_trained": self.samples_as_trained}

    @property
    def steps(self) -> Steps | None:
        """The schedule in use; None before the first step."""
        return self._table[2].steps if self._table else None

    def table(self, scheduler: Any, scale: float, device: torch.device, sde_type: str = "sde") -> StepTable:
        """The schedule of a sampler, resolved once.

        Args:
            scheduler, scale, sde_type: as :func:`~pcpo_overlay.steps.read_scheduler`; its timesteps are set.
            device: where it is looked up.
        """
        # The scheduler's tensors are compared by identity. DDIM's set_timesteps makes the same timesteps for the same
        # number of steps, and alphas_cumprod tells one scheduler from another; a flow scheduler's sigmas are new
        # with every set_timesteps, so its table is read anew for each rollout.
        values = None if sde_type == "linear" else getattr(scheduler, "alphas_cumprod", None)
        return self._cached(
            (scheduler.num_inference_steps, float(scale), device, sde_type),
            scheduler.sigmas if values is None else values,
            lambda: read_scheduler(scheduler, scale, self._config, self._trained_steps, sde_type),
            device,
        )

    def _cached(
        self, key: tuple[Any, ...], values: Any, resolve: Callable[[], Steps], device: torch.device
    ) -> StepTable:
        if self._table is None or self._table[0] != key or self._table[1] is not values:
            self._table = (key, values, StepTable(resolve(), device))
        return self._table[2]

    def _sample_in_training_precision(self, accelerator: Any, network: torch.nn.Module | None) -> None:
        """Run the sampler's network as training runs it: under autocast, with float32 outputs.

        Upstream's LoRA training wraps the network so, its sampling does not; in half precision the two differ.
        """
        reason = _why_alike(accelerator, network)
        if reason or network is None:
            self._say_once(
                f"precision=match changes nothing here: {reason}, so it samples as it trains already"
            )
            return
        forward = network.forward
        overridden = "forward" in vars(network)

        def in_training_precision(*args: Any, **kwargs: Any) -> Any:
            with accelerator.autocast():
                return _to_float32(forward(*args, **kwargs))

        def restore() -> None:
            if overridden:
                network.forward = forward
            else:
                del network.forward

        network.forward = in_training_precision
        self._restore_sampler = restore

    def _say_once(self, text: str) -> None:
        """Once a run, on the main rank."""
        if self._speaks:
            say(text)
        self._speaks = False


def _why_alike(accelerator: Any, network: torch.nn.Module | None) -> str | None:
    """Why a trainer computes its network alike in sampling and training; None where it does not."""
    if network is None:
        return "this trainer samples under the autocast that it trains under"
    if accelerator.mixed_precision == "no":
        return "this run is not in half precision"
    if hasattr(network, "_original_forward"):  # prepared in place, as in full fine-tuning
        return "the sampler calls the network that accelerate prepared for training"
    return None


def _to_float32(output: Any) -> Any:
    """Half-precision tensors of a network's output in float32, as accelerate converts a prepared model's."""
    if isinstance(output, Tensor):
        return losses.at_least_float32(output)
    if isinstance(output, tuple):
        return tuple(_to_float32(o) for o in output)
    for name, value in vars(output).items():  # a diffusers output object
        setattr(output, name, _to_float32(value))
    return output
