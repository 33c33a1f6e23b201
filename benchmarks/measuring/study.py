"""The learning studies: what each compares, and the `ab` commands that run it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: The ablation ladder of the paper's Figure 6, and one arm that takes a part of `full` away again: on a
#: diffusion model the native variance in place of the paper's, on a flow model equal weights in place of proportional.
DIFFUSION = ("observe", "log", "match", "full", "full,variance=native")
FLOW = ("observe", "log", "match", "full", "full,weights=uniform")
#: The arms of the smaller batch: the baseline and PCPO as a user turns it on.
PAIR = (0, 3)
#: The arms of the learning-rate sweep: these, and `full` without the part, so that whichever learns fastest is held
#: against the baseline at the baseline's best rate.
TRIO = (0, 3, 4)
SEEDS = (0, 1, 2, 3, 4)
#: How many of the seeds the learning-rate sweep repeats.
SWEPT = 2


@dataclass(frozen=True)
class Study:
    """One upstream and reward on its miniature.

    Attributes:
        name: on the command line, and of what is written.
        told: in a line, for a reader.
        upstream: the first arguments of ``ab``.
        modes: the arms, the baseline first and PCPO fourth.
        epochs: of each run.
        settings: of the training script, in every run.
        save: those that make it save checkpoints.
        rate_flag, rate: the script's learning rate.
        rates: the other rates of the sweep.
        smaller: settings that make the smaller batch, with as many optimizer steps an epoch.
    """

    name: str
    told: str
    upstream: tuple[str, ...]
    modes: tuple[str, ...]
    epochs: int
    settings: tuple[str, ...]
    save: tuple[str, ...]
    rate_flag: str
    rate: float
    rates: tuple[float, ...]
    smaller: tuple[str, ...]

    @property
    def pair(self) -> tuple[str, ...]:
        """The baseline and PCPO."""
        return tuple(self.modes[n] for n in PAIR)

    @property
    def trio(self) -> tuple[str, ...]:
        """Both, and PCPO without a part of it."""
        return tuple(self.modes[n] for n in TRIO)


@dataclass(frozen=True)
class Part:
    """Runs that one `ab` command makes.

    Attributes:
        name: of their folder below the study's.
        modes, seeds: what is run.
        settings: of the training script, those of the study included.
        rate: the learning rate.
    """

    name: str
    modes: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: tuple[str, ...]
    rate: float

    @property
    def kind(self) -> str:
        """One of :data:`KINDS`."""
        return self.name if self.name in KINDS else RATES


LADDER, SMALLER, RATES = "ladder", "smaller-batch", "rates"
#: What a study consists of, by the names of the command line.
KINDS = (LADDER, SMALLER, RATES)


def parts(study: Study, seeds: Sequence[int] = SEEDS) -> list[Part]:
    """The ladder, the smaller batch of the mixed model, and the learning-rate sweep."""
    fixed = (*study.settings, f"{study.rate_flag}={study.rate:g}", *study.save)
    made = [
        Part(LADDER, study.modes, tuple(seeds), fixed, study.rate),
        Part(SMALLER, study.pair, tuple(seeds), (*fixed, *study.smaller), study.rate),
    ]
    for rate in study.rates:
        settings = (*study.settings, f"{study.rate_flag}={rate:g}", *study.save)
        made.append(Part(f"rate-{rate:g}", study.trio, tuple(seeds[:SWEPT]), settings, rate))
    return made


def command(
    study: Study, part: Part, out: Path, jobs: int, vendor: Path | None = None, epochs: int | None = None
) -> list[str]:
    """The words of a part's `ab` command, after Python."""
    modes = [word for mode in part.modes for word in ("--mode", mode)]
    clones = ["--vendor", str(vendor)] if vendor else []
    return [
        "-m", "pcpo_overlay", "ab", *study.upstream, *modes, "--epochs", str(epochs or study.epochs),
        "--seeds", ",".join(map(str, part.seeds)), "--jobs", str(jobs), *clones,
        "--out", str(out / part.name), "--", *part.settings,
    ]  # fmt: skip


def python(words: Sequence[str]) -> list[str]:
    """A command for this very Python."""
    return [sys.executable, *words]


# ------------------------------------------------------------- the studies

_SD_SAVE = ("--config.save_freq=6", "--config.num_checkpoint_limit=100")  # after 7, 13, 19 and 25 epochs
_SD_SMALLER = ("--config.sample.num_batches_per_epoch=2", "--config.train.gradient_accumulation_steps=1")
#: Without guidance there is something left to learn, and nothing to compute twice.
_SD_DIGIT = (
    "--config.reward_fn=digit_probability", "--config.sample.guidance_scale=1.0", "--config.train.cfg=False",
)  # fmt: skip
_UNIQUE = tuple(f"{mode},unique_prompts=true" for mode in FLOW)
_SD3_SAVE = ("--config.save_freq=5", "--config.eval_freq=1000000")
_SD3_SMALLER = ("--config.sample.train_batch_size=24", "--config.train.batch_size=24")
_FLUX_SMALLER = ("--train_batch_size=5", "--train_sp_batch_size=5", "--gradient_accumulation_steps=15")
_LEARNING_RATE = "--config.train.learning_rate"
_FLOW_JPEG = "pcpo_overlay/miniature/flow_grpo_config.py:jpeg_compressibility"

STUDIES = {
    study.name: study
    for study in (
        Study(
            "ddpo-jpeg",
            "ddpo-pytorch, `jpeg_compressibility`, guidance 5, whole network",
            ("ddpo",), DIFFUSION, 25, ("--config.sample.num_steps=10",), _SD_SAVE, _LEARNING_RATE, 3e-4,
            (1e-4, 1e-3), _SD_SMALLER,
        ),
        Study(
            "ddpo-digit",
            "ddpo-pytorch, probability of the prompted digit, no guidance, whole network",
            ("ddpo",), DIFFUSION, 25, ("--config.sample.num_steps=10", *_SD_DIGIT), _SD_SAVE, _LEARNING_RATE,
            3e-4, (1e-4, 1e-3), _SD_SMALLER,
        ),
        Study(
            "ddpo-digit-50",
            "ddpo-pytorch at its own 50 steps, probability of the prompted digit, no guidance, whole network",
            ("ddpo",), DIFFUSION, 25, _SD_DIGIT, _SD_SAVE, _LEARNING_RATE, 3e-4, (1e-4, 1e-3), _SD_SMALLER,
        ),
        Study(
            "flow-digit",
            "flow_grpo, probability of the prompted digit, no guidance, whole network, the paper's prompt sampler",
            ("flow_grpo",), _UNIQUE, 25, (), _SD3_SAVE, _LEARNING_RATE, 3e-4, (1e-4, 1e-3), _SD3_SMALLER,
        ),
        Study(
            "flow-jpeg",
            "flow_grpo, `jpeg_compressibility`, guidance 4.5, LoRA, KL 0.04, the paper's prompt sampler",
            ("flow_grpo", "--config", _FLOW_JPEG), _UNIQUE, 25, (), _SD3_SAVE, _LEARNING_RATE, 1e-2,
            (3e-3, 3e-2), _SD3_SMALLER,
        ),
        Study(
            "dancegrpo-sd",
            "DanceGRPO's SD trainer, log-odds of the prompted digit, guidance 1.01, whole network",
            ("dancegrpo", "--trainer", "sd"), DIFFUSION, 21, (), ("--config.save_freq=5",), _LEARNING_RATE,
            1e-4, (3e-5, 3e-4), ("--config.num_generations=4", "--config.train.gradient_accumulation_steps=2"),
        ),
        Study(
            "dancegrpo-flux",
            "DanceGRPO's FLUX trainer, log-odds of the prompted digit, whole network",
            ("dancegrpo", "--trainer", "flux"), FLOW, 13, (), ("--checkpointing_steps=4",), "--learning_rate",
            1e-4, (3e-5, 3e-4), _FLUX_SMALLER,
        ),
    )
}  # fmt: skip
