"""The paper's ten configurations as launch commands of the upstreams; what they are is in ``configurations.json``.

No upstream is told Table 7's images and updates per iteration. Each has its own product of batch sizes, counts and
processes for the images, and its own gradient accumulation for the updates: :func:`flags_for` solves for them, with
upstream's sizes per GPU kept, and :func:`batch_of` says what flags come to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pcpo_overlay.trainers import TRAINERS

_DATA = json.loads(Path(__file__).with_name("configurations.json").read_text(encoding="utf-8"))
#: How a cell is known.
TABLE, PLACED, ELSEWHERE, BOUND, EMPTY, LOST, UNSTATED = _DATA["marks"].values()
#: Names of the rows by their keys.
ROWS: dict[str, str] = {row: name for row, (name, _) in _DATA["table_7"].items()}
Value = str | int | float | tuple[int, int]


class ExperimentError(ValueError):
    """What was asked for cannot be; the message lists what can."""


class Cell(NamedTuple):
    """One cell of Table 7: what it says (None: nothing, or it was lost), how that is known, and why it is read so."""

    value: Value | None
    origin: str
    why: str


@dataclass(frozen=True)
class Configuration:
    """What the paper says of one of the ten, and ``gpus`` that train; its column of Table 7 by the keys of ``ROWS``."""

    number: int
    description: str
    figures: str
    tables: str
    hardware: str
    gpus: int
    cells: Mapping[str, Cell]

    def __getitem__(self, row: str) -> Any:
        return self.cells[row].value


class Knob(NamedTuple):
    """Upstream's own value of a row, its flag (else the file that decides), and its names for the paper's words."""

    own: str
    flag: str
    where: str
    words: Mapping[str, str]


@dataclass(frozen=True)
class Recipe:
    """Upstream's own launch."""

    trainer: str
    origin: str  # what in the clone starts this training and has the own values
    launcher: tuple[str, ...]  # words before the script; one GPU needs no --multi_gpu
    knobs: Mapping[str, Knob]  # by row of Table 7
    batch: Mapping[str, tuple[str, int]]  # flag and own value of each size, by what it counts
    counts: str  # whether a sampling batch counts images or prompts
    flags: Mapping[str, str]  # where there is no config: all of the launch script's, "" for a switch
    config: str = ""
    wrapper: str = ""  # a config file that takes the config and ends its endless loop
    prepare: tuple[str, ...] = ()  # shell lines before the arms
    output: tuple[str, str] | None = None  # flag and own value of the checkpoints' folder
    folder: str = ""  # where the script runs, if not in the clone
    make: tuple[str, ...] = ()  # shell lines that make it
    environment: Mapping[str, str] = field(default_factory=dict)  # besides PCPO
    leaves: str = ""  # a folder that the trainer writes checkpoints to, whatever it is told
    options: str = ""  # of PCPO, in every arm
    changes: tuple[tuple[str, str, str, str], ...] = ()  # further ones that the paper tells of

    clone = property(lambda self: TRAINERS[self.trainer].upstream)
    script = property(lambda self: TRAINERS[self.trainer].script)
    directory = property(lambda self: self.folder or f"vendor/{self.clone}")
    batch_own = property(lambda self: dict(self.batch.values()))


def _configuration(number: int) -> Configuration:
    cells, whys = {}, {}
    for key, why in _DATA["why"].items():
        *rows, mark = key.split() if key[-1] in _DATA["marks"] else [*key.split(), ""]
        whys.update({(row, mark): why for row in rows})
    for row, (_, column) in _DATA["table_7"].items():
        text = column.split("|")[number - 1]
        mark = text[0] if text[0] in _DATA["marks"] else ""
        cells[row] = Cell(_value(text[len(mark) :]), _DATA["marks"][mark], whys.get((row, mark), ""))
    description, figures, tables, hardware, gpus = _DATA["configurations"][str(number)]["paper"]
    return Configuration(number, description, figures, tables, hardware, gpus, cells)


def _value(text: str) -> Value | None:
    for read in (int, float):
        with suppress(ValueError):
            return read(text)
    pair = re.fullmatch(r"\((\d+),(\d+)\)", text)
    return (int(pair[1]), int(pair[2])) if pair else text or None


def _recipe(name: str) -> Recipe:
    data = dict(_DATA["launches"][name])
    data = {**_DATA["launches"].get(data.pop("like", ""), {}), **data}
    flags = {f: v.strip() for f, v in re.findall(r"(--\S+)((?: (?!--)\S+)?)", data.pop("flags", ""))}
    column, own_knobs, words = data.pop("column"), data.pop("knobs", {}), data.pop("words")
    knobs = {}
    for row, columns in _DATA["knobs"].items():
        own, _, where = (part.strip() for part in own_knobs.get(row, columns[column]).partition("|"))
        flag = where if where.startswith("--") else ""
        knobs[row] = Knob(flags[flag] if own == "*" else own, flag, where, words)
    data["launcher"], data["origin"] = data["launcher"].split(), data["origin"].format(**data)
    batch = {w: (flag, int(size)) for w, flag, size in re.findall(r"(\w+) (--\S+)=(\d+)", data.pop("batch"))}
    data = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    return Recipe(knobs=knobs, batch=batch, flags=flags, **data)


CONFIGURATIONS = {int(number): _configuration(int(number)) for number in _DATA["configurations"]}
RECIPES = {number: _recipe(_DATA["configurations"][str(number)]["launch"]) for number in CONFIGURATIONS}

# ------------------------------------------------------------------------------------------------------- the batch


class Batch(NamedTuple):
    """One iteration: images and optimizer steps over all GPUs, distinct prompts (DDPO: None), and both written out."""

    images: int
    updates: int
    prompts: int | None
    images_from: str
    updates_from: str


def flags_for(paper: Configuration, recipe: Recipe, gpus: int) -> dict[str, int] | None:
    """The flags that make a configuration's batch on so many GPUs; None where that does not divide.

    A training batch counts images whatever the sampling batch counts, and divides it.
    """
    own = {what: size for what, (_, size) in recipe.batch.items()}
    by_prompt = recipe.counts == "prompts"
    each = _split(paper["prompts_per_iteration"], gpus) if by_prompt else own["each"]
    times = paper["images_per_prompt"] if by_prompt else _split(paper["images_per_iteration"], gpus, each)
    train = min(own.get("train", 1), each)
    if not each or not times or each % train or gpus * each % own.get("group", 1):
        return None
    accumulated = _split(each * times, train, paper["updates"])
    solved = {
        "each": each, "again": each, "times": times, "group": paper["images_per_prompt"], "train": train,
        "accumulated": accumulated,
    }  # fmt: skip
    return {flag: solved[what] for what, (flag, _) in recipe.batch.items()} if accumulated else None


def batch_of(recipe: Recipe, flags: Mapping[str, int], gpus: int) -> Batch:
    """What flags come to on so many GPUs."""
    size = {what: flags[flag] for what, (flag, _) in recipe.batch.items()}
    images, train = gpus * size["each"] * size["times"], size.get("train", 1)
    updates = images // (gpus * train * size["accumulated"])
    by_prompt = recipe.counts == "prompts"
    prompts = gpus * size["each"] if by_prompt else images // size["group"] if "group" in size else None
    times = f"{size['times']} {'images' if by_prompt else 'batches'}"
    images_from = f"{on_gpus(gpus)} x {size['each']} {recipe.counts} x {times} = {images}"
    trained = f"{train} image{'s' if train > 1 else ''} x {size['accumulated']} accumulated"
    updates_from = f"{images} / ({on_gpus(gpus)} x {trained}) = {updates}"
    return Batch(images, updates, prompts, images_from, updates_from)


def _split(total: int, *divisors: int) -> int:
    """The quotient, or 0 where it is no whole number."""
    for divisor in divisors:
        total = 0 if total % divisor else total // divisor
    return total


def on_gpus(gpus: int) -> str:
    """1 GPU, 2 GPUs."""
    return f"{gpus} GPU{'' if gpus == 1 else 's'}"


def possible_gpus(number: int) -> list[int]:
    """The numbers of GPUs on which a configuration makes the images and updates of Table 7."""
    paper, recipe = CONFIGURATIONS[number], RECIPES[number]
    return [gpus for gpus in range(1, paper["images_per_iteration"] + 1) if flags_for(paper, recipe, gpus)]


# --------------------------------------------------------------------------------------------------- the commands


class Change(NamedTuple):
    """A flag that is not as upstream has it (``own``; empty where it does not give the flag), and why."""

    flag: str
    value: str
    own: str
    why: str


class Arm(NamedTuple):
    """One run: a name fit for a folder, what it is, the ``PCPO`` variable, and the changes that it alone has."""

    name: str
    told: str
    pcpo: str
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """A configuration on so many GPUs."""

    paper: Configuration
    recipe: Recipe
    gpus: int
    epochs: int | None  # where the user said so
    changes: tuple[Change, ...]  # of all arms
    batch: Batch
    own_batch: Batch  # without the changes
    arms: tuple[Arm, ...]  # the baseline first
    notes: tuple[str, ...]
    report: tuple[str, ...]  # the command that compares the runs

    def command(self, arm: Arm) -> list[str]:
        """The words of the launch command, without :meth:`environment`."""
        recipe = self.recipe
        words = [w.format(gpus=self.gpus) for w in recipe.launcher if self.gpus > 1 or w != "--multi_gpu"]
        changed = {change.flag: change.value for change in (*self.changes, *arm.changes)}
        if not recipe.config:
            flags = {**recipe.flags, **changed}
            return [*words, recipe.script, *(word for item in flags.items() for word in item if word)]
        config = ["--config", ":".join(filter(None, (recipe.wrapper, recipe.config)))]
        if recipe.wrapper:
            config.append(f"--config.num_epochs={self.epochs or 0}")
        return [*words, recipe.script, *config, *(f"{flag}={value}" for flag, value in changed.items())]

    def environment(self, arm: Arm) -> dict[str, str]:
        """The variables that it is given."""
        return {"PCPO": arm.pcpo, **self.recipe.environment}

    def afterwards(self, arm: Arm) -> list[str]:
        """Shell lines after an arm, so that the next does not write over what it left."""
        leaves = self.recipe.leaves
        return [f"mv {leaves} {leaves}-config{self.paper.number}-{arm.name}"] if leaves else []


def plan(number: int, gpus: int | None = None, epochs: int | None = None) -> Experiment:
    """A configuration, on the paper's number of GPUs and epochs or on others.

    Raises:
        ExperimentError: no such configuration, or a number of GPUs on which its batch does not divide.
    """
    if number not in CONFIGURATIONS:
        raise ExperimentError(f"no configuration {number}; choose from {', '.join(map(str, CONFIGURATIONS))}")
    paper, recipe, data = CONFIGURATIONS[number], RECIPES[number], _DATA["configurations"][str(number)]
    gpus = paper.gpus if gpus is None else gpus
    flags = flags_for(paper, recipe, gpus) if gpus > 0 else None
    if flags is None:
        raise ExperimentError(
            f"configuration {number} does not divide among {on_gpus(gpus)}; possible: "
            f"{', '.join(map(str, possible_gpus(number)))}"
        )
    levels = ("--thresholds", data["levels"]) if "levels" in data else ()
    return Experiment(
        paper, recipe, gpus, epochs, tuple(_changes(paper, recipe, flags, gpus, epochs)), batch_of(recipe, flags, gpus),
        batch_of(recipe, recipe.batch_own, gpus), tuple(_arms(number, recipe)),
        tuple(_DATA["notes"][name].replace("{gpus}", str(gpus)) for name in data["notes"].split()),
        ("pcpo", "report", f"{recipe.directory}/pcpo_runs", "--out", f"pcpo_report/config{number}", *levels),
    )  # fmt: skip


def as_word(value: Value) -> str:
    """A value as on the command line: 1e-4 for small numbers, both parts of a pair."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if isinstance(value, float) and 0 < abs(value) < 1e-2:
        return f"{value:.0e}".replace("e-0", "e-")
    return str(value)


def _changes(
    paper: Configuration, recipe: Recipe, batch: Mapping[str, int], gpus: int, epochs: int | None
) -> Iterator[Change]:
    """Where the paper says something else than upstream does. A lost or empty cell says nothing."""
    for row, knob in recipe.knobs.items():
        value, word = paper[row], as_word(paper[row])
        if isinstance(value, str):  # of what upstream does not have, the notes tell
            word = knob.words.get(word, knob.own)
        if value is not None and knob.flag and row != "length" and word != knob.own:
            yield Change(knob.flag, word, knob.own, f"Table 7: {ROWS[row]}")
    batch_words = f"{paper['images_per_iteration']} images and {paper['updates']} updates an iteration"
    for flag, size in batch.items():
        if size != recipe.batch_own[flag]:
            yield Change(
                flag, str(size), str(recipe.batch_own[flag]), f"Table 7: {batch_words}, on {on_gpus(gpus)}"
            )
    cell, length = paper.cells["length"], recipe.knobs["length"]
    asked = "" if epochs is None else str(epochs - TRAINERS[recipe.trainer].more_epochs)
    if asked and length.flag:
        if asked != length.own:
            yield Change(length.flag, asked, length.own, "--epochs")
    elif cell.origin == BOUND and paper["length"] > int(length.own):
        yield Change(
            length.flag, str(paper["length"] + 1), length.own, f"Table 10 counts to epoch {cell.value}"
        )
    elif cell.origin == ELSEWHERE:
        yield Change(length.flag, str(cell.value), length.own, "B.2.2: terminated at 240 epochs")
    yield from (Change(*change) for change in recipe.changes)


def _arms(number: int, recipe: Recipe) -> Iterator[Arm]:
    for name, told, mode, change in _DATA["arms"].get(str(number), _DATA["arms"][""]):
        changes: tuple[Change, ...] = (Change(*change),) if change else ()
        if recipe.output is not None:
            flag, own = recipe.output
            changes += (Change(flag, f"{own}-config{number}-{name}", own, "a folder for each arm"),)
        yield Arm(name, told, mode + recipe.options, changes)
