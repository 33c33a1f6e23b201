"""One training run under PCPO: ties what its rollouts record to what its steps are trained on. The hooks act on it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay.config import HookError, PCPOConfig, PCPOError
from pcpo_overlay.flow_grpo import UniquePrompts
from pcpo_overlay.messages import say
from pcpo_overlay.objective import Objective
from pcpo_overlay.record import provenance
from pcpo_overlay.record.alarms import Alarms
from pcpo_overlay.record.recorder import Recorder
from pcpo_overlay.record.rewards import Rewards
from pcpo_overlay.record.run_folder import RunFolder
from pcpo_overlay.record.tracker import Tracker
from pcpo_overlay.rollout import Rollout
from pcpo_overlay.tape import Tape
from pcpo_overlay.trainers import TRAINERS, setting


class Off:
    """PCPO off: every hook gives back what it was given, and does nothing else."""

    config = PCPOConfig()

    def ddim_std(self, std: Tensor, *_: Any) -> Tensor:
        return std

    def prompts(self, dataloader: Any, *_: Any) -> Any:
        return dataloader

    def loss(self, loss: Tensor, *_: Any) -> Tensor:
        return loss

    def _nothing(self, *_: Any) -> None:
        """Nothing."""

    start = finish = begin_epoch = end_epoch = begin_rollout = end_rollout = _nothing
    record_step = record_drawn_step = begin_step = match_step = gradients = _nothing
    log_kl = log_eval = log_rewards = log_step = _nothing


class Session:
    """State of a run between the hooks; every method is called by the hook of its name.

    Before :meth:`start` only the sampler is served: inference with a patched one.
    """

    def __init__(self, config: PCPOConfig) -> None:
        self.config = config
        self.tape = Tape(on_cpu=config.tape == "cpu")
        self.rollout = Rollout(config, self.tape)
        self.objective = Objective(config, self.tape)
        self.recorder: Recorder | None = None
        self._resolved = self._told = False

    # ------------------------------------------------------------------ run

    def start(self, trainer: str, ranks: Any, settings: dict[str, Any]) -> None:
        """Begin the run: banner and run folder on rank 0, metrics everywhere.

        Args:
            trainer: its name in :mod:`pcpo_overlay.trainers`.
            ranks: accelerate's Accelerator or :class:`~pcpo_overlay.ranks.TorchRanks`.
            settings: the trainer's own.

        Raises:
            PCPOError: an option that changes nothing on this trainer, or a run folder that cannot be used.
        """
        entry = TRAINERS[trainer]
        self.config = config = self.config.on(trainer)
        if config.active and entry.remedy and setting(settings, entry.remedy):
            raise PCPOError(
                f"mode {config.mode} on {trainer} with {entry.remedy} would be two remedies for unequal steps at once; "
                f"run it under observe and compare it with {config.mode} on train_sd3.py, whose sampler is the same"
            )
        self._ranks, self._settings = ranks, settings
        clip_range = setting(settings, entry.clip_range) if entry.clip_range else None
        clip_range = None if clip_range is None else float(clip_range)
        self.rollout = Rollout(
            config,
            self.tape,
            trained_steps=entry.trained_steps(settings, int(ranks.num_processes)),
            windowed=entry.trains == "window",
            as_sampled=entry.as_sampled,
            speaks=bool(ranks.is_main_process),
        )
        self.objective = Objective(
            config,
            self.tape,
            clip_range,
            tuple(float(setting(settings, name)) for name in entry.loss_weights) or (1.0,),
        )
        folder = None
        if ranks.is_main_process:
            clone = provenance.clone_state(Path(sys.argv[0]))
            folder = RunFolder(
                None,
                {
                    "upstream": trainer,
                    "mode": config.mode,
                    **({"arm": entry.arm} if entry.arm else {}),
                    "pcpo": config.as_dict(),
                    "clone": clone,
                    "trainer": settings,
                    "clip_range": clip_range,
                    "seed": settings.get("seed"),
                    "versions": provenance.versions(),
                    "hardware": provenance.hardware(ranks.device, int(ranks.num_processes)),
                    "argv": sys.argv,
                },
                resume=bool(entry.resume and setting(settings, entry.resume)),
            )
            folder.end_with_process()
            commit = clone["commit"][:12] if clone else "unknown commit"
            tree = (
                clone["patched_tree"][:12] + (" (edited)" if clone["modified"] else "")
                if clone
                else "unknown"
            )
            say(f"{trainer} at {commit}, patched tree {tree}; mode {config}")
            if config.weights == "uniform" and entry.sampler == "ddim":
                say(
                    "weights=uniform equals the default on DDIM: equal intervals make proportional credit uniform"
                )
            if config.tape == "cpu" and ranks.device.type == "cpu":
                say("tape=cpu changes nothing here: this run is on the CPU")
            say(f"run folder {folder.path}")
        self.recorder = Recorder(
            ranks,
            config.active,
            folder,
            entry.carries_over,
            rewards=Rewards(entry, settings),
            tracker=Tracker(ranks, str(config)) if folder and config.track else None,
            alarms=Alarms() if folder and config.alarms else None,
            first_iteration=entry.first_iteration,
        )

    def _say_that_nothing_is_trained(self) -> None:
        """Once: a patched sampler in a script that PCPO is not patched into, as flow_grpo's DPO and SFT trainers."""
        if not self._told and os.environ.get("RANK", "0") == "0":
            say(
                f"mode {self.config.mode} trains nothing in {Path(sys.argv[0]).name}, which is not among the scripts "
                "that PCPO is patched into: whatever it trains is a baseline"
            )
        self._told = True

    @property
    def _noted(self) -> Recorder:
        if self.recorder is None:
            raise HookError("a run is recorded that the start hook did not begin: the script is not patched")
        return self.recorder

    def finish(self) -> None:
        self._noted.finish()

    def prompts(self, dataloader: Any, dataset: Any) -> Any:
        """As given, or drawn without repetition within an epoch."""
        if not self.config.unique_prompts:
            return dataloader
        sample = self._settings["sample"]
        return UniquePrompts(
            dataset,
            rank=int(self._ranks.process_index),
            ranks=int(self._ranks.num_processes),
            images_per_prompt=int(sample["num_image_per_prompt"]),
            batches=int(sample["num_batches_per_epoch"]),
            batch_size=int(sample["train_batch_size"]),
            seed=int(self._settings["seed"]),
        )

    def begin_epoch(self, epoch: int | None) -> None:
        """A new round of rollouts: the tape of the last one is dropped."""
        self.tape.clear()
        self._noted.begin_epoch(epoch)

    def end_epoch(self, epoch: int | None) -> None:
        """All training of the epoch is done.

        Raises:
            HookError: the loss hook of an active mode never ran, so nothing PCPO promises was done.
        """
        if self.config.active and not self.objective.was_computed:
            raise HookError(
                f"mode {self.config.mode} was set, but the loss hook never ran: this is a baseline run; "
                "check with `python apply.py check` that the clone is patched"
            )
        self.rollout.trains(None)
        self._noted.end_epoch(epoch, self.tape.nbytes, self.tape.nbytes + self.tape.left_out)
        self.tape.clear()  # before the trainer evaluates and saves

    # -------------------------------------------------------------- rollout

    def begin_rollout(self, accelerator: Any, network: torch.nn.Module | None) -> None:
        self.rollout.begin(accelerator, network)

    def end_rollout(self, sample: dict[str, Any]) -> None:
        if self.recorder:
            self.recorder.note_samples(sample)
        precision = self.rollout.precision(sample)
        self.rollout.end(sample)
        steps = self.rollout.steps
        if steps is not None and self.recorder and not self._resolved:
            self._resolved = True
            self.recorder.resolved(steps.as_dict(), precision)
            if self.recorder.folder:
                say(steps.describe(self.config))

    def ddim_std(self, std: Tensor, scheduler: Any, timestep: Tensor, eta: float) -> Tensor:
        return self.rollout.std(std, scheduler, timestep, eta)

    def record_step(
        self, pred: Tensor, z: Tensor, scheduler: Any, timestep: Tensor, scale: float, sde_type: str = "sde"
    ) -> None:
        if self.recorder is None and not self.rollout.is_open:
            self._say_that_nothing_is_trained()
        self.rollout.record(pred, z, scheduler, timestep, scale, sde_type)

    def record_drawn_step(
        self, pred: Tensor, sample: Tensor, mean: Tensor, std: float, sigmas: Tensor, index: int, eta: float
    ) -> None:
        self.rollout.record_drawn(pred, sample, mean, std, sigmas, index, eta)

    # ------------------------------------------------------------- training

    def begin_step(self, sample: dict[str, Any], step: int, timestep: Tensor) -> None:
        self.objective.begin_step(sample, step, timestep)
        self.rollout.trains(timestep)

    def match_step(
        self, pred: Tensor, prev_sample: Tensor | None, *rest: Tensor
    ) -> tuple[Tensor, ...] | None:
        return self.objective.match_step(pred, prev_sample, *rest)

    def loss(
        self,
        loss: Tensor,
        log_prob: Tensor,
        log_prob_old: Tensor,
        advantage: Tensor,
        clip_range: float | None = None,
        divisor: float = 1,
        ratio: Tensor | None = None,
    ) -> Tensor:
        loss, trained = self.objective.loss(
            loss, log_prob, log_prob_old, advantage, clip_range, divisor, ratio
        )
        if trained is not None:
            self._noted.add(trained)
        return loss

    def gradients(self, accelerator: Any, model: torch.nn.Module) -> None:
        self._noted.gradients(accelerator, model)

    def log_kl(self, kl_loss: Tensor) -> None:
        self._noted.log_kl(kl_loss)

    def log_eval(self, rewards: dict[str, Any], step: int) -> None:
        self._noted.log_eval(rewards, step)

    def log_rewards(self, rewards: Any) -> None:
        self._noted.log_rewards(rewards)

    def log_step(self, epoch: int | None, inner_epoch: int, step: int | None) -> None:
        self._noted.log_step(epoch, inner_epoch, step)
