"""The learning studies: what each compares, and the `ab` commands that run it."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: The ablation ladder of the paper's Figure 6 by the names of its arms, and one arm that tells a part of `full` from
#: the rest: on a diffusion model the variance that `full` does not take by itself, the paper's at few steps and the
#: native one at many, on a flow model equal weights in place of proportional.
_LADDER = {"baseline": "observe", "log": "log", "match": "match", "pcpo": "full"}
DIFFUSION = {**_LADDER, "other": "full,variance=paper"}
DIFFUSION_50 = {**_LADDER, "other": "full,variance=native"}
FLOW = {**_LADDER, "other": "full,weights=uniform"}
#: The arms of the smaller batch: the baseline and PCPO as a user turns it on.
PAIR = ("baseline", "pcpo")
#: The arms of a sweep: these, and `full` with the part changed where a study has that, so that whichever learns fastest
#: is held against the baseline at what suits the baseline best.
TRIO = (*PAIR, "other")
SEEDS = (0, 1, 2, 3, 4)
#: How many of the seeds a sweep repeats.
SWEPT = 2


@dataclass(frozen=True)
class Sweep:
    """A setting of which the ladder has one value, and a study tries others.

    Attributes:
        kind: one of :data:`KINDS`.
        told: what it is, for a reader.
        flag: the script's.
        value: the ladder's.
        others: those that are tried.
    """

    kind: str
    told: str
    flag: str
    value: float
    others: tuple[float, ...]

    def part(self, value: float) -> str:
        """The name of the runs with a value."""
        return f"{self.kind.removesuffix('s')}-{value:g}"


@dataclass(frozen=True)
class Rivals:
    """Further arms at the ladder's setting, held against some of the ladder's, which are not run again.

    Attributes:
        kind: one of :data:`KINDS`.
        told: what is compared, for a reader.
        beside: arms of the ladder by name, the baseline first.
        modes: of the further arms.
        upstream: the first arguments of their ``ab``; None where they are the ladder's.
    """

    kind: str
    told: str
    beside: tuple[str, ...]
    modes: tuple[str, ...]
    upstream: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Study:
    """One upstream and reward on its miniature.

    Attributes:
        name: on the command line, and of what is written.
        told: in a line, for a reader.
        upstream: the first arguments of ``ab``.
        arms: modes by name, the names those of :data:`DIFFUSION` or its first four.
        epochs: of each run.
        settings: of the training script, in every run.
        save: those that make it save checkpoints.
        rates: the learning rate.
        smaller: settings that make the smaller batch, with as many optimizer steps an epoch.
        clips: the clip range, where it is swept.
        rivals: further arms at the ladder's setting, each with a page of its own.
    """

    name: str
    told: str
    upstream: tuple[str, ...]
    arms: Mapping[str, str]
    epochs: int
    settings: tuple[str, ...]
    save: tuple[str, ...]
    rates: Sweep
    smaller: tuple[str, ...]
    clips: Sweep | None = None
    rivals: tuple[Rivals, ...] = ()

    @property
    def sweeps(self) -> tuple[Sweep, ...]:
        """What is swept."""
        return (self.rates,) if self.clips is None else (self.rates, self.clips)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What it consists of, out of :data:`KINDS`."""
        return (LADDER, SMALLER, *(s.kind for s in self.sweeps), *(r.kind for r in self.rivals))

    @property
    def modes(self) -> tuple[str, ...]:
        """Of all arms."""
        return tuple(self.arms.values())

    @property
    def pair(self) -> tuple[str, ...]:
        """The baseline and PCPO."""
        return tuple(self.arms[name] for name in PAIR)

    @property
    def trio(self) -> tuple[str, ...]:
        """Both, and PCPO with a part of it changed, where that is an arm."""
        return tuple(self.arms[name] for name in TRIO if name in self.arms)


@dataclass(frozen=True)
class Part:
    """Runs that one `ab` command makes.

    Attributes:
        kind: one of :data:`KINDS`, or :data:`MIDDLE`.
        name: of their folder below the study's.
        modes, seeds: what is run.
        settings: of the training script, those of the study included.
        upstream: the first arguments of its ``ab``.
    """

    kind: str
    name: str
    modes: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: tuple[str, ...]
    upstream: tuple[str, ...]


LADDER, SMALLER, RATES, CLIPS = "ladder", "smaller-batch", "rates", "clip-ranges"
POWERS, GUARD = "powers", "guard"
#: The arms of the sweeps at the ladder's setting, where there is no ladder to take them from.
MIDDLE = "middle"
#: What a study consists of, by the names of the command line.
KINDS = (LADDER, SMALLER, RATES, CLIPS, POWERS, GUARD)
#: Those that are held against the ladder, and not run without it.
OF_LADDER = (SMALLER, POWERS, GUARD)


def parts(study: Study, seeds: Sequence[int] = SEEDS, kinds: Collection[str] = KINDS) -> list[Part]:
    """The ladder, the smaller batch of the mixed model, sweeps and rivals, as far as they are of ``kinds``.

    First comes what the others are held against: the ladder or, without it, what the sweeps need of it.
    """
    fixed = (*study.settings, f"{study.rates.flag}={study.rates.value:g}", *study.save)
    few, upstream = tuple(seeds[:SWEPT]), study.upstream
    made = [
        Part(LADDER, LADDER, study.modes, tuple(seeds), fixed, upstream),
        Part(SMALLER, SMALLER, study.pair, tuple(seeds), (*fixed, *study.smaller), upstream),
    ]
    if LADDER not in kinds:
        made.insert(0, Part(MIDDLE, MIDDLE, study.trio, few, fixed, upstream))
    for sweep in study.sweeps:
        others = [word for word in fixed if not word.startswith(f"{sweep.flag}=")]
        for value in sweep.others:
            settings = (*others, f"{sweep.flag}={value:g}")
            made.append(Part(sweep.kind, sweep.part(value), study.trio, few, settings, upstream))
    for rivals in study.rivals:
        words = rivals.upstream or upstream
        made.append(Part(rivals.kind, rivals.kind, rivals.modes, tuple(seeds), fixed, words))
    return [part for part in made if part.kind in (*kinds, MIDDLE)]


def command(
    study: Study, part: Part, out: Path, jobs: int, vendor: Path | None = None, epochs: int | None = None
) -> list[str]:
    """The words of a part's `ab` command, after Python."""
    modes = [word for mode in part.modes for word in ("--mode", mode)]
    clones = ["--vendor", str(vendor)] if vendor else []
    return [
        "-m", "pcpo_overlay", "ab", *part.upstream, *modes, "--epochs", str(epochs or study.epochs),
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
_UNIQUE = {name: f"{mode},unique_prompts=true" for name, mode in FLOW.items()}
_SD3_SAVE = ("--config.save_freq=5", "--config.eval_freq=1000000")
_SD3_SMALLER = ("--config.sample.train_batch_size=24", "--config.train.batch_size=24")
_FLUX_SMALLER = ("--train_batch_size=5", "--train_sp_batch_size=5", "--gradient_accumulation_steps=15")
#: As the digit study trains, for which the miniature's own configuration of this reward has an adapter and a KL term.
_SD3_WHOLE = (
    "--config.sample.guidance_scale=1.0", "--config.train.cfg=False", "--config.use_lora=False",
    "--config.train.beta=0.0",
)  # fmt: skip
#: Likewise without guidance: with it, 99% are read as prompted before any training.
_ANIMALS = ("--config.sample.guidance_scale=1.0", "--config.train.cfg=False")
_ANIMALS_SAVE = ("--config.save_freq=8", "--config.num_checkpoint_limit=100")  # after 9, 17, 25 and 33 epochs
_COLOUR = ("--config.reward_fn=colourfulness", *_ANIMALS)
_50_STEPS = "--config.sample.num_steps=50"
_FLOW_JPEG = "pcpo_overlay/tools/miniature/flow_grpo_config.py:jpeg_compressibility"


def _rates(value: float, others: tuple[float, ...], flag: str = "--config.train.learning_rate") -> Sweep:
    return Sweep(RATES, "learning rate", flag, value, others)


_RATES = _rates(3e-4, (1e-4, 1e-3))
_ANIMALS_RATES = _rates(1e-4, (3e-5, 3e-4))
#: Native weights to a power, of which ``match`` is 1 and equal weights 0, with proportional ones between them.
_POWERS = Rivals(
    POWERS,
    "native weights to a power",
    (*PAIR, "match", "other"),
    tuple(f"full,weights=power,power={power:g},unique_prompts=true" for power in (0.5, -0.5, -1)),
)
_GUARD = Rivals(
    GUARD,
    "GRPO-Guard, upstream's own remedy for unequal steps",
    TRIO,
    ("observe,unique_prompts=true",),
    ("flow_grpo", "--trainer", "sd3_GRPO_Guard"),
)

STUDIES = {
    study.name: study
    for study in (
        Study(
            "ddpo-jpeg",
            "ddpo-pytorch, `jpeg_compressibility`, guidance 5, whole network",
            ("ddpo",), DIFFUSION, 25, ("--config.sample.num_steps=10",), _SD_SAVE, _RATES, _SD_SMALLER,
        ),
        Study(
            "ddpo-digit",
            "ddpo-pytorch, probability of the prompted digit, no guidance, whole network",
            ("ddpo",), DIFFUSION, 25, ("--config.sample.num_steps=10", *_SD_DIGIT), _SD_SAVE, _RATES,
            _SD_SMALLER, Sweep(CLIPS, "clip range", "--config.train.clip_range", 1e-4, (1e-3, 1e-2)),
        ),
        Study(
            "ddpo-digit-50",
            "ddpo-pytorch at its own 50 steps, probability of the prompted digit, no guidance, whole network",
            ("ddpo",), DIFFUSION_50, 25, _SD_DIGIT, _SD_SAVE, _RATES, _SD_SMALLER,
        ),
        Study(
            "ddpo-animals",
            "ddpo-pytorch on 45 animals in colour, log-odds of the prompted one, 20 steps, no guidance, whole network",
            ("ddpo", "--config", "animals"), _LADDER, 33, _ANIMALS, _ANIMALS_SAVE, _ANIMALS_RATES, _SD_SMALLER,
        ),
        Study(
            "ddpo-animals-colour",
            "ddpo-pytorch on 45 animals in colour, colourfulness, 20 steps, no guidance, whole network",
            ("ddpo", "--config", "animals"), _LADDER, 25, _COLOUR, _SD_SAVE, _ANIMALS_RATES, _SD_SMALLER,
        ),
        Study(
            "ddpo-animals-50",
            "ddpo-pytorch at its own 50 steps on 45 animals, log-odds of the prompted one, no guidance, whole network",
            ("ddpo", "--config", "animals"), _LADDER, 33, (_50_STEPS, *_ANIMALS), _ANIMALS_SAVE, _ANIMALS_RATES,
            _SD_SMALLER,
        ),
        Study(
            "ddpo-animals-colour-50",
            "ddpo-pytorch at its own 50 steps on 45 animals, colourfulness, no guidance, whole network",
            ("ddpo", "--config", "animals"), _LADDER, 25, (_50_STEPS, *_COLOUR), _SD_SAVE, _ANIMALS_RATES, _SD_SMALLER,
        ),
        Study(
            "flow-digit",
            "flow_grpo, probability of the prompted digit, no guidance, whole network, the paper's prompt sampler",
            ("flow_grpo",), _UNIQUE, 25, (), _SD3_SAVE, _RATES, _SD3_SMALLER, rivals=(_POWERS, _GUARD),
        ),
        Study(
            "flow-jpeg",
            "flow_grpo, `jpeg_compressibility`, no guidance, whole network, the paper's prompt sampler",
            ("flow_grpo", "--config", _FLOW_JPEG), _UNIQUE, 25, _SD3_WHOLE, _SD3_SAVE, _RATES, _SD3_SMALLER,
            rivals=(_POWERS,),
        ),
        Study(
            "dancegrpo-sd",
            "DanceGRPO's SD trainer, log-odds of the prompted digit, guidance 1.01, whole network",
            ("dancegrpo", "--trainer", "sd"), DIFFUSION, 21, (), ("--config.save_freq=5",),
            _rates(1e-4, (3e-5, 3e-4)), ("--config.num_generations=4", "--config.train.gradient_accumulation_steps=2"),
        ),
        Study(
            "dancegrpo-animals",
            "DanceGRPO's SD trainer on 45 animals in colour, log-odds of the prompted animal, 20 steps, guidance 1.01",
            ("dancegrpo", "--trainer", "sd", "--config", "animals"), _LADDER, 21, (), ("--config.save_freq=5",),
            _rates(1e-4, (3e-5, 3e-4)), ("--config.num_generations=4", "--config.train.gradient_accumulation_steps=2"),
        ),
        Study(
            "dancegrpo-flux",
            "DanceGRPO's FLUX trainer, log-odds of the prompted digit, whole network",
            ("dancegrpo", "--trainer", "flux"), FLOW, 33, (), ("--checkpointing_steps=8",),
            _rates(1e-4, (3e-5, 3e-4), "--learning_rate"), _FLUX_SMALLER,
        ),
    )
}  # fmt: skip
