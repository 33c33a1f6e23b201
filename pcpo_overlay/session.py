"""One training run under PCPO: its configuration, its tape, its metrics. The hooks act on the current one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay import losses
from pcpo_overlay.config import HookError, PCPOConfig
from pcpo_overlay.messages import say
from pcpo_overlay.prompts import UniquePrompts
from pcpo_overlay.ranks import is_sharded, sum_over_ranks
from pcpo_overlay.record import run_folder
from pcpo_overlay.record.metrics import PADDING, GradientMetrics, Samples, StepMetrics, mean
from pcpo_overlay.record.run_folder import RunFolder
from pcpo_overlay.steps import StepTable, dancegrpo_steps, read_scheduler
from pcpo_overlay.tape import INDEX, Matched, Tape
from pcpo_overlay.trainers import TRAINERS, Trainer
from pcpo_overlay.unrounded import UnroundedGuidance, seen_latents


class Session:
    """State of a run between the hooks. Every method is called by one hook of :mod:`pcpo_overlay.hooks`."""

    def __init__(self, config: PCPOConfig) -> None:
        self.config = config
        self.tape = Tape(on_cpu=config.tape == "cpu")
        self.folder: RunFolder | None = None
        self.rolling_out = False
        self._table: tuple[tuple[Any, ...], Any, StepTable] | None = None
        self._rollouts: list[Tensor] = []  # their places on the tape, until the trainer collects its samples
        self._entry: Trainer | None = None
        self._trained_steps: int | None = None
        self._unrounded: UnroundedGuidance | None = None
        self._resolved_written = False
        self._timestep: Tensor | None = None
        self._matched: Matched | None = None
        self._log_rho: Tensor | None = None
        self._restore_sampler: Callable[[], None] | None = None
        self._loss_fired = False
        self._first_epoch = True
        self._epochs_begun = 0
        self._kl_sum, self._kl_count = 0.0, 0
        self._warned = False
        self._told_of_precision = False

    # ------------------------------------------------------------------ run

    def start(
        self,
        upstream: str,
        accelerator: Any,
        trainer: dict[str, Any],
        *,
        clip_range: float | None,
        seed: int | None,
        resume: bool,
    ) -> None:
        """Begin the run: banner and run folder on rank 0, metrics everywhere.

        A trainer that keeps its clip range to itself (``clip_range`` None) gives it with every loss.

        Raises:
            PCPOError: an option that changes nothing on this upstream, or a run folder that cannot be used.
        """
        self.config = self.config.on(upstream)
        self._trainer = trainer
        self._accelerator = accelerator
        self._entry = TRAINERS[upstream]
        self._trained_steps = self._entry.trained_steps(trainer)
        self.clip_range = clip_range
        self._device = accelerator.device
        self._is_main = bool(accelerator.is_main_process)
        self._metrics = StepMetrics(
            clip_range or 0.0, log_objective=self.config.active, on_cpu=self._device.type == "cpu"
        )
        self._steps_taken = 0
        if not self._is_main:
            return
        clone = run_folder.clone_state(Path(sys.argv[0]))
        self.folder = RunFolder(
            run_folder.default_path(upstream, self.config.mode),
            {
                "upstream": upstream,
                "mode": self.config.mode,
                "pcpo": self.config.as_dict(),
                "clone": clone,
                "trainer": trainer,
                "clip_range": self.clip_range,
                "seed": seed,
                "versions": run_folder.versions(),
                "hardware": run_folder.hardware(self._device, int(accelerator.num_processes)),
                "argv": sys.argv,
            },
            resume=resume,
        )
        commit = clone["commit"][:12] if clone else "unknown commit"
        tree = clone["patched_tree"][:12] + (" (edited)" if clone["modified"] else "") if clone else "unknown"
        say(f"{upstream} at {commit}, patched tree {tree}; mode {self.config}")
        if self.config.weights == "uniform" and self._entry.sampler == "ddim":
            say(
                "weights=uniform equals the default on DDIM: equal intervals make proportional credit uniform"
            )
        if self.config.tape == "cpu" and self._device.type == "cpu":
            say("tape=cpu changes nothing here: this run is on the CPU")
        say(f"run folder {self.folder.path}")

    def finish(self) -> None:
        """End the run."""
        if self.folder:
            self.folder.finish()
            say(f"finished; metrics in {self.folder.path}")

    def begin_epoch(self, epoch: int | None) -> None:
        """A new round of rollouts: the tape of the last one is dropped."""
        epoch = self._epochs_begun if epoch is None else epoch
        self._epochs_begun = epoch + 1
        self.tape.clear()
        self._epoch_steps: list[tuple[dict[str, Any], Samples]] = []
        self._rewards: dict[str, Any] = {}
        if self.folder and self._first_epoch:
            self.folder.rewind(epoch)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._first_epoch = False
        self._epoch = epoch
        self._epoch_started = self._sampled = time.perf_counter()

    # -------------------------------------------------------------- rollout

    def begin_rollout(self, accelerator: Any, network: torch.nn.Module | None) -> None:
        """The sampler is about to draw what will be trained on."""
        self.rolling_out = True
        if self.tape.open_steps:  # the trainer samples in batches and collects them at the end
            self._rollouts.append(self.tape.close_rollout())
        if self.config.precision == "match":
            if self._restore_sampler is None:
                self._sample_in_training_precision(accelerator, network)
        elif self.config.matching and not _why_alike(accelerator, network):
            self._say_of_precision(
                "this trainer samples outside the autocast that it trains under, so on-policy ratios are not exactly "
                "1; precision=match makes them so"
            )
        if network is not None and self._rounds_in_sampling and self._trainer["train"]["cfg"]:
            self._unrounded = UnroundedGuidance(network, float(self._trainer["sample"]["guidance_scale"]))

    @property
    def _rounds_in_sampling(self) -> bool:
        """Whether prediction matching has to undo what Flow-GRPO's sampler rounds and its training does not."""
        return (
            self.config.matching
            and self._entry is not None
            and self._entry.rounds_sampling
            and self._accelerator.mixed_precision != "no"
        )

    def end_rollout(self, sample: dict[str, Any]) -> None:
        """The rollout is sampled: give its samples their place on the tape."""
        self.rolling_out = False
        if self._restore_sampler:
            self._restore_sampler()
            self._restore_sampler = None
        if self._unrounded:
            self._unrounded.close()
            self._unrounded = None
        if self._table is not None and self.folder and not self._resolved_written:
            self._resolved_written = True
            schedule = self._table[2].steps
            self.folder.write_run(resolved=schedule.as_dict())
            say(schedule.describe(self.config))
        if self._rounds_in_sampling:
            sample["latents"] = seen_latents(sample)
        if self.config.matching:
            sample[INDEX] = torch.cat([*self._rollouts, self.tape.close_rollout()])
            self._rollouts.clear()
            # The step function returns log rho itself in these modes, so the reference it is compared with is zero.
            sample["log_probs"] = torch.zeros_like(sample["log_probs"], dtype=torch.float32)

    def _sample_in_training_precision(self, accelerator: Any, network: torch.nn.Module | None) -> None:
        """Run the sampler's network as training runs it: under autocast, with float32 outputs.

        Upstream's LoRA training wraps the network so, its sampling does not; in half precision the two differ.
        """
        reason = _why_alike(accelerator, network)
        if reason or network is None:
            self._say_of_precision(
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

    def _say_of_precision(self, text: str) -> None:
        """Once a run, on the main rank."""
        if self._is_main and not self._told_of_precision:
            say(text)
        self._told_of_precision = True

    def record_step(self, pred: Tensor, z: Tensor, scheduler: Any, timestep: Tensor, scale: float) -> None:
        """One step of a training rollout was drawn."""
        if not (self.config.recording and self.rolling_out):
            return
        table = self.table(scheduler, scale, pred.device)
        if not self.config.matching or self.tape.open_steps == self._trained_steps:
            return  # a step that is never trained needs no place on the tape
        timestep, batch = timestep.to(pred.device), pred.shape[0]
        if self._unrounded:
            pred, z = self._unrounded.as_trained(pred, z, table.native_weight(timestep, batch))
        self.tape.record(pred, z, table.weight(timestep, batch))

    def record_drawn_step(
        self, pred: Tensor, sample: Tensor, mean: Tensor, std: float, sigmas: Tensor, index: int, eta: float
    ) -> None:
        """One step of a training rollout was drawn, whose noise the sampler did not keep."""
        if not (self.config.recording and self.rolling_out):
            return
        key = (float(eta), pred.device)
        if self._table is None or self._table[0] != key or self._table[1] is not sigmas:
            made = dancegrpo_steps(sigmas, eta, self.config, self._trained_steps)
            self._table = (key, sigmas, StepTable(made, pred.device))
        table = self._table[2]
        if not self.config.matching or index == self._trained_steps:
            return
        if index == 0 and self.tape.open_steps:  # the trainer samples one by one
            self._rollouts.append(self.tape.close_rollout())
        self.tape.record(pred, (sample - mean) / std, table.weight(index, pred.shape[0]))

    def table(self, scheduler: Any, scale: float, device: torch.device) -> StepTable:
        """The tables of the schedule in use, made once per schedule.

        Args:
            scheduler: diffusers' DDIMScheduler or FlowMatchEulerDiscreteScheduler with its timesteps set.
            scale: of the noise: DDIM's eta, Flow-GRPO's noise level.
            device: where the tables are looked up.
        """
        flow = not hasattr(scheduler, "alphas_cumprod")
        key = (scheduler.num_inference_steps, float(scale), device)
        # The scheduler's tensors are compared by identity. DDIM's set_timesteps makes the same timesteps for the same
        # number of steps, and alphas_cumprod tells one scheduler from another; a flow scheduler's sigmas are new
        # with every set_timesteps, so its table is read anew for each rollout.
        values = scheduler.sigmas if flow else scheduler.alphas_cumprod
        if self._table is None or self._table[0] != key or self._table[1] is not values:
            steps = read_scheduler(scheduler, scale, self.config, self._trained_steps)
            self._table = (key, values, StepTable(steps, device))
        return self._table[2]

    def prompts(self, dataloader: Any, dataset: Any) -> Any:
        """The trainer's batches of prompts: as given, or drawn without repetition within an epoch."""
        if not self.config.unique_prompts:
            return dataloader
        sample = self._trainer["sample"]
        return UniquePrompts(
            dataset,
            rank=int(self._accelerator.process_index),
            ranks=int(self._accelerator.num_processes),
            images_per_prompt=int(sample["num_image_per_prompt"]),
            batches=int(sample["num_batches_per_epoch"]),
            batch_size=int(sample["train_batch_size"]),
            seed=int(self._trainer["seed"]),
        )

    # ------------------------------------------------------------- training

    def begin_step(self, sample: dict[str, Any], step: int, timestep: Tensor) -> None:
        """One step of one batch is about to be trained."""
        self._timestep = timestep
        self._log_rho = None
        if self.config.matching:
            self._matched = self.tape.lookup(sample[INDEX][:, step])

    def match_step(self, pred: Tensor) -> Tensor:
        """Log ratio of the step being trained, from the live prediction."""
        if self._matched is None:
            raise HookError(
                "a step is trained that no begin_step hook named: the training script is not patched"
            )
        matched, self._matched = self._matched, None
        self._log_rho = losses.log_ratio(pred, matched.pred_old, matched.z, matched.weight)
        return self._log_rho

    def loss(
        self,
        loss: Tensor,
        log_prob: Tensor,
        log_prob_old: Tensor,
        advantage: Tensor,
        clip_range: float | None = None,
        divisor: float = 1,
    ) -> Tensor:
        """The objective of the mode, and the metrics of the step."""
        xi = self.clip_range if clip_range is None else clip_range
        assert xi is not None, "the trainer gives its clip range at the start or with the loss"
        if self.clip_range is None:
            self.clip_range = self._metrics.clip_range = xi
            if self.folder:
                self.folder.write_run(clip_range=xi)
        if self.config.matching:
            if self._log_rho is None:
                raise HookError(
                    "the loss is computed, but the patched step function was not run for this step"
                )
            log_rho = self._log_rho
        elif self.config.active:
            log_rho = log_prob - log_prob_old
        else:  # a number for the metrics, not worth a graph
            log_rho = log_prob.detach() - log_prob_old
        assert self._timestep is not None, "begin_step comes before loss"
        if self.config.active:
            loss = losses.log_hinge_loss(log_rho, advantage, xi).mean()
            loss = loss if divisor == 1 else loss / divisor
            self._loss_fired = True
        self._metrics.add(self._timestep, log_rho, advantage, loss, divisor)
        return loss

    def gradients(self, accelerator: Any, model: torch.nn.Module) -> None:
        """Gradient statistics of the optimizer step about to be taken, before clipping."""
        self._gradients: GradientMetrics | None = None
        accelerator = self._accelerator if accelerator is None else accelerator
        sharded = is_sharded(model)
        # Shards have to be added up, and every rank takes part in that.
        if not ((self.folder or sharded) and accelerator.sync_gradients):
            return
        scaler = getattr(accelerator, "scaler", None)
        scale = scaler.get_scale() if scaler is not None else 1.0
        self._gradients = GradientMetrics.of(model, scale, sum_over_ranks if sharded else None)

    # -------------------------------------------------------------- logging

    def log_kl(self, kl_loss: Tensor) -> None:
        """The () KL term of one backward pass, as the trainer computed it."""
        self._metrics.add_kl(kl_loss)

    def log_eval(self, rewards: dict[str, Any], step: int) -> None:
        """The trainer evaluated: (n,) rewards by name, of all ranks, ``avg`` their weighted sum; -10 is no reward."""
        self._synchronize()
        now = time.perf_counter()
        if self.folder:
            values = {name: torch.as_tensor(value).double().flatten() for name, value in rewards.items()}
            means = {name: mean(value[value != -10]) for name, value in values.items()}
            self.folder.append(
                {
                    "kind": "eval",
                    "epoch": self._epoch,
                    "step": step,
                    "reward_mean": means["avg"],
                    "reward_count": int((values["avg"] != -10).sum()),
                    "rewards": means,
                    "seconds": now - self._epoch_started,
                }
            )
        self._epoch_started = now

    def log_rewards(self, rewards: Any) -> None:
        """Rewards of all samples of the epoch, of all ranks."""
        self._synchronize()
        self._sampled = time.perf_counter()
        values = torch.as_tensor(rewards).double()
        self._rewards = {
            "reward_mean": mean(values),
            "reward_std": float(values.std(unbiased=False)),
            "reward_count": values.numel(),
        }

    def log_step(self, epoch: int | None, inner_epoch: int, step: int | None) -> None:
        """An optimizer step was taken; every rank calls this."""
        epoch = self._epoch if epoch is None else epoch
        step = self._steps_taken if step is None else step
        self._steps_taken += 1
        samples = self._metrics.reduce(self._gather_rows)
        if not self.folder:
            return
        record = {
            "kind": "step",
            "epoch": epoch,
            "inner_epoch": inner_epoch,
            "step": step,
            **samples.summary(),
        }
        record.update(vars(self._gradients) if self._gradients else {})
        self._epoch_steps.append((record, samples))
        self.folder.append(record)
        if record["nonfinite"] and not self._warned:
            self._warned = True
            where = samples.timestep[samples.nonfinite]
            at = f" first at timestep {float(where[0]):g}" if where.numel() else ""
            say(
                f"warning: {record['nonfinite']} non-finite log ratios or losses in epoch {epoch}, optimizer step "
                f"{step}{at}; the run goes on, later ones are only counted (`nonfinite` in the metrics)"
            )

    def _gather_rows(self, rows: Tensor) -> Tensor:
        """(n, k) of this rank to those of all ranks; Flow-GRPO may have dropped other numbers of samples elsewhere."""
        if self._accelerator.num_processes == 1:
            return rows
        padded = self._accelerator.pad_across_processes(rows, dim=0, pad_index=PADDING)
        gathered: Tensor = self._accelerator.gather(padded)
        return gathered

    def end_epoch(self, epoch: int | None) -> None:
        """All training of the epoch is done.

        Raises:
            HookError: the loss hook of an active mode never ran, so nothing PCPO promises was done.
        """
        if self.config.active and not self._loss_fired:
            raise HookError(
                f"mode {self.config.mode} was set, but the loss hook never ran: this is a baseline run; "
                "check with `python apply.py check` that the clone is patched"
            )
        self._synchronize()
        now = time.perf_counter()
        if not self.folder:
            return
        record: dict[str, Any] = {
            "kind": "epoch",
            "epoch": self._epoch if epoch is None else epoch,
            **self._rewards,
        }
        record.update(
            seconds_sampling=self._sampled - self._epoch_started,
            seconds_training=now - self._sampled,
            seconds_total=now - self._epoch_started,
            peak_memory_bytes=run_folder.peak_memory(self._device),
            tape_bytes=self.tape.nbytes,
        )
        if self._epoch_steps:
            records = [r for r, _ in self._epoch_steps]
            samples = Samples.concatenate([s for _, s in self._epoch_steps])
            record.update(samples.summary())
            if samples.kl_loss.numel():
                self._kl_sum += float(samples.kl_loss.sum())
                self._kl_count += samples.kl_loss.numel()
                record["kl_running_mean"] = self._kl_sum / self._kl_count
            with_gradients = [r for r in records if "grad_norm" in r]
            if with_gradients:
                for name in ("grad_norm", "grad_abs_mean", "grad_abs_var"):
                    record[name] = sum(r[name] for r in with_gradients) / len(with_gradients)
                record["grad_layer"] = with_gradients[0]["grad_layer"]
        self.folder.append(record)

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


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
