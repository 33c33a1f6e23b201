"""What is noted of a run while it trains: metrics of steps and epochs, gradients, rewards, times."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay.messages import say
from pcpo_overlay.objective import Trained
from pcpo_overlay.ranks import Shards
from pcpo_overlay.record import run_folder
from pcpo_overlay.record.alarms import Alarms
from pcpo_overlay.record.gradients import GradientMetrics
from pcpo_overlay.record.metrics import PADDING, Samples, StepMetrics, mean
from pcpo_overlay.record.rewards import NO_REWARD, Rewards
from pcpo_overlay.record.run_folder import RunFolder
from pcpo_overlay.record.tracker import EVERY, Tracker


class Recorder:
    """Takes note on every rank and writes on the main one.

    Args:
        ranks: accelerate's Accelerator or :class:`~pcpo_overlay.ranks.TorchRanks`.
        log_objective: whether the objective is on the log ratio.
        folder: what the main rank writes to; None on the others.
        carries_over: whether what an epoch's last accumulation leaves over is part of the next epoch's first step.
        rewards: what is found in an epoch's rewards; None for no more than their mean and spread.
        tracker: the trainer's own, on the main rank; None where nothing is to go there.
        alarms: what watches the records, on the main rank; None where nothing does.
        first_iteration: what the tracker calls the first iteration; None where its steps are optimizer steps.
    """

    def __init__(
        self,
        ranks: Any,
        log_objective: bool,
        folder: RunFolder | None,
        carries_over: bool = True,
        rewards: Rewards | None = None,
        tracker: Tracker | None = None,
        alarms: Alarms | None = None,
        first_iteration: int | None = None,
    ) -> None:
        self.folder = folder
        self._found_in_rewards = rewards
        self._tracker, self._alarms, self._first_iteration = tracker, alarms, first_iteration
        self._row = self._next_row = 0  # of the tracker: where the epoch is, and where its next step will be
        self.metrics = StepMetrics(log_objective=log_objective, on_cpu=ranks.device.type == "cpu")
        self._ranks = ranks
        self._carries_over = carries_over
        self._device: torch.device = ranks.device
        self._clip_range: float | None = folder.run.get("clip_range") if folder else None
        self._gradients: GradientMetrics | None = None
        self._epochs_begun = self._steps_taken = 0
        self._epoch = 0
        self.epoch_steps: list[tuple[dict[str, Any], Samples]] = []
        self._rewards: dict[str, Any] = {}
        self._kl_sum, self._kl_count = 0.0, 0
        self._told_of_gradients = self._told_of_rewards = False
        self._epoch_started = self._sampled = time.perf_counter()

    # ------------------------------------------------------------- an epoch

    def begin_epoch(self, epoch: int | None) -> None:
        """A new round of sampling and training; counted here where the trainer does not."""
        is_first = self._epochs_begun == 0
        self._epoch = self._epochs_begun if epoch is None else epoch
        self._epochs_begun = self._epoch + 1
        self.epoch_steps.clear()
        if not self._carries_over:
            self.metrics.clear()
        self._rewards = {}
        self._row = self._next_row if self._first_iteration is None else self._epoch + self._first_iteration
        if self._found_in_rewards:
            self._found_in_rewards.clear()
        if self.folder and is_first:
            self.folder.rewind(self._epoch)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._epoch_started = self._sampled = time.perf_counter()

    def end_epoch(self, epoch: int | None, tape_bytes: int, tape_bytes_matching: int) -> None:
        """All training of the epoch is done.

        Args:
            tape_bytes: what the tape held.
            tape_bytes_matching: what it would have held where predictions are matched.
        """
        self._synchronize()
        now = time.perf_counter()
        if not self.folder:
            return
        record: dict[str, Any] = {
            "kind": "epoch",
            "epoch": self._epoch if epoch is None else epoch,
            **self._rewards,
            "seconds_sampling": self._sampled - self._epoch_started,
            "seconds_training": now - self._sampled,
            "seconds_total": now - self._epoch_started,
            "peak_memory_bytes": run_folder.peak_memory(self._device),
            "tape_bytes": tape_bytes,
            "tape_bytes_matching": tape_bytes_matching,
        }
        if self.epoch_steps:
            record.update(self._epoch_summary())
        self.folder.append(record)
        if self._alarms:
            self._raise(self._alarms.of_epoch(record), record)
        if self._tracker:
            self._track_epoch(self._tracker, record)

    def _track_epoch(self, tracker: Tracker, record: dict[str, Any]) -> None:
        """Send what was not sent step by step, in the row that the trainer's tracker is at."""
        told = {} if self._alarms is None else {"alarms": self._alarms.count}
        if self.epoch_steps:
            told["on_policy_fraction_outside"] = self.epoch_steps[0][0]["fraction_outside"]
        sent = () if self._first_iteration is not None or not self.epoch_steps else self.epoch_steps[0][0]
        tracker.log({name: value for name, value in record.items() if name not in sent} | told, self._row)
        if record["epoch"] % EVERY == 0 and "per_timestep" in record:
            tracker.log_timesteps(record["per_timestep"], self._row)

    def _raise(self, alarms: dict[str, str], record: dict[str, Any]) -> None:
        """Say alarms, and write them down."""
        for name, words in alarms.items():
            say(f"warning: {words}")
            if self.folder:
                where: dict[str, Any] = {key: record[key] for key in ("epoch", "step") if key in record}
                self.folder.append({"kind": "alarm", **where, "alarm": name, "message": words})

    def _epoch_summary(self) -> dict[str, Any]:
        """The statistics of an epoch's optimizer steps, as one."""
        samples = Samples.concatenate([s for _, s in self.epoch_steps])
        summary = samples.summary()
        if samples.kl_loss.numel():
            self._kl_sum += float(samples.kl_loss.sum())
            self._kl_count += samples.kl_loss.numel()
            summary["kl_running_mean"] = self._kl_sum / self._kl_count
        with_gradients = [record for record, _ in self.epoch_steps if "grad_norm" in record]
        if with_gradients:
            for name in ("grad_norm", "grad_abs_mean", "grad_abs_var"):
                summary[name] = sum(record[name] for record in with_gradients) / len(with_gradients)
            summary["grad_layer"] = with_gradients[0]["grad_layer"]
        return summary

    # --------------------------------------------------------------- a step

    def add(self, trained: Trained) -> None:
        """One step of one batch was trained."""
        if self._clip_range is None:
            self._clip_range = trained.clip_range
            if self.folder:
                self.folder.write_run(clip_range=trained.clip_range)
        self.metrics.add(trained)

    def gradients(self, accelerator: Any, model: torch.nn.Module) -> None:
        """Gradient statistics of the optimizer step about to be taken, before clipping."""
        self._gradients = None
        accelerator = self._ranks if accelerator is None else accelerator
        shards = Shards.of(model)
        # Shards have to be added up, and every rank takes part in that.
        if not ((self.folder or shards) and accelerator.sync_gradients):
            return
        scaler = getattr(accelerator, "scaler", None)
        scale = scaler.get_scale() if scaler is not None else 1.0
        self._gradients = GradientMetrics.of(model, scale, shards.sum if shards else None)
        if self._gradients is None and self.folder and not self._told_of_gradients:
            self._told_of_gradients = True
            say(
                "no gradient statistics: the model shows no gradients before the optimizer step (DeepSpeed keeps them "
                "to itself)"
            )

    def log_step(self, epoch: int | None, inner_epoch: int, step: int | None) -> None:
        """An optimizer step was taken; every rank calls this."""
        step = self._steps_taken if step is None else step
        self._steps_taken += 1
        if self._first_iteration is None:
            self._row, self._next_row = step, step + 1
        gradients, self._gradients = self._gradients, None
        samples = self.metrics.reduce(self._gather_rows)
        if not self.folder:
            return
        record = {
            "kind": "step",
            "epoch": self._epoch if epoch is None else epoch,
            "inner_epoch": inner_epoch,
            "step": step,
            **samples.summary(),
            **(vars(gradients) if gradients else {}),
        }
        self.epoch_steps.append((record, samples))
        self.folder.append(record)
        if self._alarms:
            where = samples.timestep[samples.nonfinite]
            at = f", first at timestep {float(where[0]):g}" if where.numel() else ""
            self._raise(self._alarms.of_step(record, at), record)
        if self._tracker and self._first_iteration is None:
            self._tracker.log(record, step)

    def _gather_rows(self, rows: Tensor) -> Tensor:
        """(n, k) of this rank to those of all ranks; Flow-GRPO may have dropped other numbers of samples elsewhere."""
        if self._ranks.num_processes == 1:
            return rows
        padded = self._ranks.pad_across_processes(rows, dim=0, pad_index=PADDING)
        gathered: Tensor = self._ranks.gather(padded)
        return gathered

    # -------------------------------------------------------------- rewards

    def log_kl(self, kl_loss: Tensor) -> None:
        """The () KL term of one backward pass, as the trainer computed it."""
        self.metrics.add_kl(kl_loss)

    def log_rewards(self, rewards: Any) -> None:
        """Rewards of all samples of the epoch, of all ranks."""
        self._synchronize()
        self._sampled = time.perf_counter()
        values = torch.as_tensor(rewards).double().cpu().flatten()
        self._rewards = {
            "reward_mean": mean(values),
            "reward_std": float(values.std(unbiased=False)),
            "reward_count": values.numel(),
        }
        if self._found_in_rewards is None:
            return
        try:
            self._rewards |= self._found_in_rewards.summary(values, self._device, self._gather_rows)
        except Exception as error:  # of whatever a reward function returns; alike on every rank
            if self.folder and not self._told_of_rewards:
                say(
                    f"warning: no statistics of groups and of rewards by name: {type(error).__name__}: {error}"
                )
            self._told_of_rewards = True

    def note_samples(self, sample: dict[str, Any]) -> None:
        """A rollout's samples, as the trainer collects them."""
        if self._found_in_rewards:
            self._found_in_rewards.note(sample)

    def log_eval(self, rewards: dict[str, Any], step: int) -> None:
        """The trainer evaluated: (n,) rewards by name, of all ranks, ``avg`` their weighted sum; -10 is no reward."""
        self._synchronize()
        now = time.perf_counter()
        if self.folder:
            values = {
                name: torch.as_tensor(value).cpu().double().flatten() for name, value in rewards.items()
            }
            means = {name: mean(value[value != NO_REWARD]) for name, value in values.items()}
            self.folder.append(
                {
                    "kind": "eval",
                    "epoch": self._epoch,
                    "step": step,
                    "reward_mean": means["avg"],
                    "reward_count": int((values["avg"] != NO_REWARD).sum()),
                    "rewards": means,
                    "seconds": now - self._epoch_started,
                }
            )
        self._epoch_started = now

    def resolved(self, steps: dict[str, Any], precision: dict[str, Any]) -> None:
        """The schedule in use, and the precision of a rollout, for ``run.json``."""
        if self.folder:
            self.folder.write_run(resolved=steps, precision=precision)

    def finish(self) -> None:
        """The trainer is done."""
        if self.folder:
            self.folder.end("finished")
            say(f"finished; metrics in {self.folder.path}")

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
