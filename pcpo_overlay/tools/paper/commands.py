"""A configuration as commands: upstream's own launch, with an override wherever the paper says something else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pcpo_overlay.tools.paper.batches import Batch, on_gpus
from pcpo_overlay.tools.paper.recipes import RECIPES, Recipe
from pcpo_overlay.tools.paper.remarks import NOTES, OBSTACLES
from pcpo_overlay.tools.paper.table import CONFIGURATIONS, ROWS, Configuration, Value


class ExperimentError(ValueError):
    """What was asked for cannot be; the message lists what can."""


@dataclass(frozen=True)
class Change:
    """A flag that is not as upstream has it.

    Attributes:
        own: upstream's own value; empty where it does not give the flag.
        why: where in the paper it comes from, or why else.
    """

    flag: str
    value: str
    own: str
    why: str


@dataclass(frozen=True)
class Arm:
    """One run of a configuration.

    Attributes:
        name: short, fit for a folder.
        told: what it is, in words.
        pcpo: value of the ``PCPO`` variable.
        changes: those that this arm alone has.
    """

    name: str
    told: str
    pcpo: str
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """A configuration on so many GPUs.

    Attributes:
        paper: what the paper says.
        recipe: upstream's own launch.
        gpus: processes.
        changes: what all arms change in it.
        batch: one iteration with those changes; ``own_batch`` without.
        arms: the runs, the baseline first; none where upstream cannot run the configuration.
        obstacles: why it cannot.
        notes: what else to know.
    """

    paper: Configuration
    recipe: Recipe
    gpus: int
    changes: tuple[Change, ...]
    batch: Batch
    own_batch: Batch
    arms: tuple[Arm, ...]
    obstacles: tuple[str, ...]
    notes: tuple[str, ...]

    def command(self, arm: Arm) -> list[str]:
        """The words of the launch command, without the variable."""
        recipe = self.recipe
        launcher = [
            word.format(gpus=self.gpus) for word in recipe.launcher if self.gpus > 1 or word != "--multi_gpu"
        ]
        changed = {change.flag: change.value for change in (*self.changes, *arm.changes)}
        if recipe.config:
            overrides = [f"{flag}={value}" for flag, value in changed.items()]
            return [*launcher, recipe.script, "--config", recipe.config, *overrides]
        flags = {**recipe.flags, **changed}
        return [
            *launcher,
            recipe.script,
            *(word for flag, value in flags.items() for word in (flag, value) if word),
        ]

    def afterwards(self, arm: Arm) -> list[str]:
        """Shell lines after an arm, so that the next does not write over what it left."""
        leaves = self.recipe.leaves
        return [f"mv {leaves} {leaves}-config{self.paper.number}-{arm.name}"] if leaves else []


def plan(number: int, gpus: int | None = None) -> Experiment:
    """A configuration, on the paper's number of GPUs or another.

    Raises:
        ExperimentError: no such configuration, or a number of GPUs on which its batch does not divide.
    """
    if number not in CONFIGURATIONS:
        raise ExperimentError(f"no configuration {number}; choose from {', '.join(map(str, CONFIGURATIONS))}")
    paper, recipe = CONFIGURATIONS[number], RECIPES[number]
    gpus = paper.gpus if gpus is None else gpus
    flags = recipe.arithmetic.flags_for(paper, gpus) if gpus > 0 else None
    if flags is None:
        raise ExperimentError(
            f"configuration {number} does not divide among {on_gpus(gpus)}; possible: "
            f"{', '.join(map(str, possible_gpus(number)))}"
        )
    obstacles = OBSTACLES.get(number, ())
    batch_changes = tuple(
        Change(flag, str(value), str(recipe.batch_own[flag]), _batch_why(paper, gpus))
        for flag, value in flags.items()
        if value != recipe.batch_own[flag]
    )
    return Experiment(
        paper,
        recipe,
        gpus,
        (*_row_changes(paper, recipe), *batch_changes, *_other_changes(paper, recipe)),
        recipe.arithmetic.batch_of(flags, gpus),
        recipe.arithmetic.batch_of(recipe.batch_own, gpus),
        () if obstacles else tuple(_arms(number, recipe)),
        obstacles,
        NOTES[number],
    )


def possible_gpus(number: int) -> list[int]:
    """The numbers of GPUs on which a configuration makes the images and updates of Table 7."""
    paper, recipe = CONFIGURATIONS[number], RECIPES[number]
    upmost = paper.whole("images_per_iteration")
    return [gpus for gpus in range(1, upmost + 1) if recipe.arithmetic.flags_for(paper, gpus) is not None]


def as_word(value: Value) -> str:
    """A value as on the command line: 1e-4 for small numbers, both parts of a pair."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if isinstance(value, float) and 0 < abs(value) < 1e-2:
        return f"{value:.0e}".replace("e-0", "e-")
    return str(value)


def _batch_why(paper: Configuration, gpus: int) -> str:
    images, updates = paper["images_per_iteration"], paper["updates"]
    return f"Table 7: {images} images and {updates} updates an iteration, on {on_gpus(gpus)}"


def _row_changes(paper: Configuration, recipe: Recipe) -> Iterator[Change]:
    """Where a row of Table 7 says something else than upstream does. A lost or empty cell says nothing."""
    for row, knob in recipe.knobs.items():
        value = paper[row]
        if value is None or not knob.flag or row == "length":
            continue
        word = as_word(value)
        if isinstance(value, str):
            if word not in knob.words:  # upstream does not have it: the remarks say so
                continue
            word = knob.words[word]
        if word != knob.own:
            yield Change(knob.flag, word, knob.own, f"Table 7: {ROWS[row]}")


def _other_changes(paper: Configuration, recipe: Recipe) -> Iterator[Change]:
    """What the paper says outside Table 7."""
    length, knob = paper["length"], recipe.knobs["length"]
    if isinstance(length, int) and recipe.trainer == "ddpo":
        if length > int(knob.own):
            yield Change(knob.flag, str(length + 1), knob.own, f"Table 10 counts to epoch {length}")
    elif isinstance(length, int):
        yield Change(knob.flag, str(length), knob.own, "B.2.2: terminated at 240 epochs")
    if recipe.trainer == "flow_grpo":
        yield Change("--config.eval_freq", "50", "60", "B.3.4: validation every 50 epochs")


def _arms(number: int, recipe: Recipe) -> Iterator[Arm]:
    options = ",unique_prompts=true" if recipe.trainer == "flow_grpo" else ""
    arms = [Arm("baseline", "the baseline", f"observe{options}")]
    if number == 10:
        arms.append(Arm("naive", "the naive acceleration", "full,weights=uniform"))
    else:
        arms.append(Arm("pcpo", "PCPO", f"full{options}"))
    if number == 1:
        half = Change(
            "--config.train.timestep_fraction", "0.5", "1.0", "Figure 7(b) alone; 3.3: half of the timesteps"
        )
        arms += [
            Arm("log", "Figure 6: the log-hinge objective alone", "log"),
            Arm("match", "Figure 6: with prediction matching, native weights", "match"),
            Arm("half", "Figure 7(b): the baseline on half of the timesteps", "observe", (half,)),
        ]
    for arm in arms:
        changes = arm.changes
        if recipe.output is not None:
            flag, own = recipe.output
            folder = f"{own}-config{number}-{arm.name}"
            changes = (*changes, Change(flag, folder, own, "a folder for each arm"))
        yield Arm(arm.name, arm.told, arm.pcpo, changes)
