"""The training scripts that PCPO is patched into, one entry each; what differs between them is asked for here.

Adding a trainer is one entry here and one patch. The names are those that the patches give to
:func:`pcpo_overlay.hooks.start`, and that ``run.json`` keeps.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any, Literal


@dataclass(frozen=True)
class Trainer:
    """One training script of an upstream. Settings are the trainer's own, as ``run.json`` keeps them.

    A setting is named by its path in them, ``sample.num_steps`` for ``settings["sample"]["num_steps"]``.

    Attributes:
        name: short name, in ``run.json`` and in the patch.
        title: what people call it.
        upstream: its name in ``vendor.lock``.
        script: path in the clone.
        sampler: ``ddim`` or ``flow``; options that concern one of them are refused on the other.
        steps: setting with the number of sampling steps.
        trains: which of them it trains: ``all``, ``all but last`` (drawn anew for every sample), the ``first`` ones,
            as many as ``fraction`` says, or a ``window`` of them; the sampler draws noise in these alone.
        window: where it lies: drawn for every ``batch``, or once and for all, alike on every rank (``run``) or by each
            ``rank`` for itself.
        fraction: setting with the share of the steps that is trained, where the first ones are.
        epochs: setting with the number of epochs (iterations) asked for.
        passes, more_epochs: it runs ``passes * (asked + more_epochs)``.
        endless: whether its loop has no end, so that a number of epochs is this project's to keep.
        batch: settings whose product is the number of samples of a rank in an epoch.
        clip_range: setting with the PPO clip range; None where the script keeps it to itself, to give it with the loss.
        clip_range_below: setting with the range below 1, where it has its own; the two have to be alike.
        shift: setting with the resolution shift of a schedule that the trainer makes itself, of as many values from 1
            to 0 as ``steps`` says; None where a scheduler has it.
        loss_weights: settings that weight the losses of one step, where it has several.
        carries_over: whether the gradients that an epoch's last accumulation leaves over go into the next epoch's first
            step; else it zeroes them.
        resume: setting that says whether a run goes on from a checkpoint; None where it cannot.
        resumes_early: whether after a resume its epochs go on from the checkpoint's number, which is less than its
            epoch's.
        flags: its command line's flags for ``seed``, ``epochs`` and ``save_freq``.
        groups: setting that says whether a reward is compared within its prompt's group, and not in the whole epoch;
            None where it always is.
        group_size: setting with the number of images of a group, which lie side by side; None where the samples'
            prompts tell the groups.
        first_iteration: what its tracker calls its first iteration; None where the tracker's steps are optimizer steps.
        draws_prompts: whether an epoch's prompts can be drawn without repetition (``unique_prompts``).
        as_sampled: whether its network is given other inputs in training than in sampling, so that in half precision
            on-policy predictions agree only where it is given the sampler's.
        begins_wandb: whether the script begins the run of wandb's that it logs to.
        remedy: setting that turns on a remedy of upstream's own for unequal steps, which goes with no objective of
            PCPO's.
        arm: what its own objective is called in a comparison, where it is no baseline.
        rival_of: the trainer that its runs are compared with as an arm: another of the same model and sampler.
    """

    name: str
    title: str
    upstream: str
    script: str
    sampler: Literal["ddim", "flow"]
    steps: str = "sample.num_steps"
    trains: Literal["all", "all but last", "first", "window"] = "all"
    window: Literal["batch", "run", "rank"] = "batch"
    fraction: str | None = None
    epochs: str = "num_epochs"
    passes: int = 1
    more_epochs: int = 0
    endless: bool = False
    batch: tuple[str, ...] = ("sample.batch_size", "sample.num_batches_per_epoch")
    clip_range: str | None = "train.clip_range"
    clip_range_below: str | None = None
    shift: str | None = None
    loss_weights: tuple[str, ...] = ()
    carries_over: bool = True
    resume: str | None = "resume_from"
    resumes_early: bool = False
    flags: Mapping[str, str] = field(
        default_factory=lambda: {
            "seed": "--config.seed",
            "epochs": "--config.num_epochs",
            "save_freq": "--config.save_freq",
        }
    )
    groups: str | None = "per_prompt_stat_tracking"
    group_size: str | None = None
    first_iteration: int | None = None
    draws_prompts: bool = False
    as_sampled: bool = False
    begins_wandb: bool = True
    remedy: str | None = None
    arm: str | None = None
    rival_of: str | None = None

    def trained_steps(self, settings: Mapping[str, Any], ranks: int = 1) -> range | None:
        """Steps of the schedule that can be trained, on any of so many ranks; None for all of them."""
        if self.trains == "all":
            return None
        if self.trains == "window" and (size := setting(settings, "sample.sde_window_size")):
            first, end = map(int, setting(settings, "sample.sde_window_range"))
            if self.window == "batch":
                return range(first, end)
            # The sampler seeds Python's generator anew in every call, with 0 or with its rank.
            seeds = range(1 if self.window == "run" else ranks)
            starts = [random.Random(seed).randint(first, end - size) for seed in seeds]
            return range(min(starts), max(starts) + size)
        steps = setting(settings, self.steps)
        return range(int(steps * setting(settings, self.fraction)) if self.fraction else int(steps) - 1)

    def planned_epochs(self, settings: Mapping[str, Any]) -> int | None:
        """Epochs that a run will take; None where the settings do not say, or say no end."""
        asked = setting(settings, self.epochs)
        if not isinstance(asked, int) or isinstance(asked, bool):
            return None
        planned = self.passes * (asked + self.more_epochs)
        return planned if planned > 0 else None

    def samples_per_epoch(self, settings: Mapping[str, Any], ranks: int = 1) -> int | None:
        """The batch size as the paper means it: samples of all ranks in an epoch; None where not said."""
        counts = [setting(settings, path) for path in self.batch]
        if not all(isinstance(count, int) for count in counts):
            return None
        return math.prod(counts) * ranks


def setting(settings: Mapping[str, Any], path: str) -> Any:
    """The value at a path such as ``sample.num_steps``; None where there is none."""
    value: Any = settings
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


_DDPO = Trainer("ddpo", "DDPO", "ddpo-pytorch", "scripts/train.py", "ddim", resumes_early=True)
_FLOW_GRPO = Trainer(
    "flow_grpo",
    "Flow-GRPO, SD3",
    "flow_grpo",
    "scripts/train_sd3.py",
    "flow",
    trains="first",
    fraction="train.timestep_fraction",
    endless=True,
    batch=("sample.train_batch_size", "sample.num_batches_per_epoch"),
    draws_prompts=True,
)


def _flow(name: str, title: str, script: str, **differs: Any) -> Trainer:
    return replace(
        _FLOW_GRPO,
        name=f"flow_grpo_{name}",
        title=f"Flow-GRPO, {title}",
        script=f"scripts/{script}.py",
        **differs,
    )


_WINDOW: dict[str, Any] = {"trains": "window", "fraction": None}
# It counts epochs from 0 to the number asked for and includes it; its number of batches is a setting it never reads.
_DANCE_SD = replace(
    _DDPO,
    name="dancegrpo_sd",
    title="DanceGRPO, SD",
    upstream="DanceGRPO",
    script="fastvideo/train_grpo_sd.py",
    trains="all but last",
    more_epochs=1,
    resumes_early=False,
    batch=("sample.batch_size", "num_generations"),
    groups=None,
    group_size="num_generations",
)
_DANCE_FLUX = Trainer(
    "dancegrpo_flux",
    "DanceGRPO, FLUX",
    "DanceGRPO",
    "fastvideo/train_grpo_flux.py",
    "flow",
    steps="sampling_steps",
    trains="all but last",
    epochs="max_train_steps",
    batch=("train_batch_size", "num_generations"),
    clip_range="clip_range",
    carries_over=False,
    groups="use_group",
    group_size="num_generations",
    first_iteration=1,
    resume=None,
    flags={"seed": "--seed", "epochs": "--max_train_steps", "save_freq": "--checkpointing_steps"},
)


def _dance(name: str, title: str, **differs: Any) -> Trainer:
    return replace(
        _DANCE_FLUX,
        name=f"dancegrpo_{name}",
        title=f"DanceGRPO, {title}",
        script=f"fastvideo/train_grpo_{name}.py",
        **differs,
    )


#: Every trainer by its name.
TRAINERS: Mapping[str, Trainer] = {
    trainer.name: trainer
    for trainer in (
        _DDPO,
        _FLOW_GRPO,
        _flow("sd3_fast", "SD3, fast", "train_sd3_fast", **_WINDOW),
        _flow("flux", "FLUX", "train_flux", as_sampled=True),
        _flow("flux_fast", "FLUX, fast", "train_flux_fast", as_sampled=True, **_WINDOW),
        _flow("flux_kontext", "FLUX.1 Kontext", "train_flux_kontext", as_sampled=True, draws_prompts=False),
        _flow(
            "sd3_guard",
            "SD3, GRPO-Guard",
            "train_sd3_GRPO_Guard",
            remedy="rationorm",
            begins_wandb=False,
            arm="GRPO-Guard",
            rival_of="flow_grpo",
        ),
        _flow("qwenimage", "Qwen-Image", "train_qwenimage", **_WINDOW, window="run"),
        _flow(
            "qwenimage_edit",
            "Qwen-Image-Edit",
            "train_qwenimage_edit",
            **_WINDOW,
            window="rank",
            draws_prompts=False,
        ),
        # Its first two epochs only draw prompts, so that the groups come out whole.
        _flow(
            "wan2_1",
            "Wan 2.1",
            "train_wan2_1",
            endless=False,
            more_epochs=-2,
            batch=(*_FLOW_GRPO.batch, "sample.sample_time_per_prompt"),
        ),
        _flow(
            "bagel",
            "BAGEL",
            "train_bagel",
            **_WINDOW,
            window="rank",
            endless=False,
            clip_range="train.clip_range_gt",
            clip_range_below="train.clip_range_lt",
            shift="train.timestep_shift",
        ),
        _DANCE_SD,
        _DANCE_FLUX,
        _dance("flux_lora", "FLUX with LoRA", resume="resume_from_lora_checkpoint"),
        _dance("hunyuan", "HunyuanVideo", clip_range=None, loss_weights=("vq_coef", "mq_coef")),
        _dance("qwenimage", "Qwen-Image", more_epochs=2, carries_over=True, first_iteration=0),
        _dance(
            "qwenimage_edit", "Qwen-Image-Edit", passes=3, more_epochs=2, carries_over=True, first_iteration=0
        ),
        _dance("skyreels_i2v", "SkyReels-I2V", clip_range=None),
        _dance("wan_2_1", "Wan 2.1", more_epochs=1, first_iteration=0),
    )
}


def of_script(path: str | PurePath) -> Trainer | None:
    """The trainer whose script this is, by the end of its path; None for another script."""
    parts = PurePath(path).parts
    for trainer in TRAINERS.values():
        script = PurePath(trainer.script).parts
        if parts[-len(script) :] == script:
            return trainer
    return None
