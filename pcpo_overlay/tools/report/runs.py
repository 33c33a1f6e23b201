"""Run folders as they lie on disk: finding them, and reading ``run.json`` and ``metrics.jsonl``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.report.stats import Series
from pcpo_overlay.tools.runs.labels import label
from pcpo_overlay.tools.runs.settings import planned_epochs

FORMAT = 1
#: How deep below a folder given on the command line run folders are looked for.
DEPTH = 4
#: Folders that ``ab`` set aside before it repeated a run; a search passes over them.
ASIDE = re.compile(r"\.aside-\d+$")

#: The numbers of an optimizer step worth keeping once it is read; per-timestep lists are kept per epoch only.
_STEP_KEYS = ("epoch", "step", "fraction_outside", "fraction_masked", "ratio_mean", "ratio_std")


class RunError(Exception):
    """A run folder that cannot be read; the message names the folder and what is wrong with it."""


@dataclass(frozen=True)
class Run:
    """One training run, as far as it got.

    Attributes:
        path: the run folder.
        info: ``run.json``.
        epochs: the ``epoch`` lines of ``metrics.jsonl`` in ascending order, one per epoch.
        first_steps: the first optimizer step of each epoch: what it saw was sampled by the very weights it is
            about to change, so its ratios are the on-policy ones.
        notes: what a reader of the report should know about this run (unfinished, truncated, ...).
        evaluations: the ``eval`` lines in ascending order, one per number of epochs trained before.
        quality: the lines of ``evaluation.jsonl``, which ``evaluate`` writes, in ascending order: one per checkpoint,
            the first of the model before any training.
    """

    path: Path
    info: dict[str, Any]
    epochs: list[dict[str, Any]]
    first_steps: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    quality: list[dict[str, Any]] = field(default_factory=list)

    @property
    def upstream(self) -> str:
        """The upstream's name, for example ``ddpo``."""
        return str(self.info.get("upstream", "unknown"))

    @property
    def label(self) -> str:
        """Mode and options, for example ``full,variance=native``."""
        fields = self.info.get("pcpo")
        return label(
            fields if isinstance(fields, dict) else {"mode": self.info.get("mode", "unknown")}, self.upstream
        )

    @property
    def seed(self) -> int | None:
        """The seed the trainer was given."""
        seed = self.info.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def finished(self) -> bool:
        """Whether the run came to its own end."""
        return self.info.get("status") == "finished"

    @property
    def endless(self) -> bool:
        """Whether the run has no end of its own: it is stopped, and never marked as finished."""
        return not self.finished and planned_epochs(self.info) is None

    def until(self, epoch: int) -> Run:
        """The run as it was after this epoch; its evaluations stay."""
        kept, first = ([n for n in held if n["epoch"] <= epoch] for held in (self.epochs, self.first_steps))
        return replace(self, epochs=kept, first_steps=first)

    def validation(self) -> Series:
        """The reward on the test prompts by the number of epochs trained before: 0 is the policy as it was given."""
        return numbers(self.evaluations, "reward_mean")

    def series(self, key: str) -> Series:
        """The finite values of ``key`` by epoch."""
        return numbers(self.epochs, key)

    def on_policy(self, key: str) -> Series:
        """The finite values of ``key`` in the first optimizer step of each epoch."""
        return numbers(self.first_steps, key)


def numbers(lines: Iterable[dict[str, Any]], key: str) -> Series:
    """``{epoch: value}`` of every line where ``key`` is a finite number."""
    return {line["epoch"]: float(line[key]) for line in lines if is_number(line.get(key))}


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite int or float (a bool is not)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def find(paths: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """The run folders at or below ``paths``, and one message for each path that has none.

    A folder is a run folder when it holds ``run.json`` or ``metrics.jsonl``. Below a given folder, folders that
    :data:`ASIDE` matches are passed over; given by name they are taken.
    """
    found: dict[Path, None] = {}
    errors = []
    for path in paths:
        if not path.is_dir():
            errors.append(f"{path}: no such folder" if not path.exists() else f"{path}: not a folder")
            continue
        below = list(_walk(path, DEPTH))
        if not below:
            errors.append(f"{path}: no run folder here (a run folder holds run.json and metrics.jsonl)")
        found.update(dict.fromkeys(p.resolve() for p in below))
    return list(found), errors


def _walk(path: Path, depth: int) -> Iterable[Path]:
    if (path / "run.json").exists() or (path / "metrics.jsonl").exists():
        yield path
    elif depth:
        for child in sorted(p for p in path.iterdir() if p.is_dir() and not p.is_symlink()):
            if not ASIDE.search(child.name):
                yield from _walk(child, depth - 1)


def load(path: Path) -> Run:
    """Read one run folder.

    Raises:
        RunError: ``run.json`` is missing, damaged or of another format, or a line of ``metrics.jsonl`` other than
            the last is damaged, or any of ``evaluation.jsonl``.
    """
    info = _read_info(path)
    lines, notes = _read_lines(path / "metrics.jsonl")

    by_epoch: dict[int, dict[str, Any]] = {}
    evaluations: dict[int, dict[str, Any]] = {}
    first_steps: dict[int, dict[str, Any]] = {}
    repeated = False
    for number, line in lines:
        kind, epoch = line.get("kind"), line.get("epoch")
        if not isinstance(epoch, int):
            raise RunError(f"{path}: line {number} of metrics.jsonl has no epoch number")
        if kind == "epoch":
            repeated |= epoch in by_epoch
            by_epoch[epoch] = line
        elif kind == "eval":
            evaluations[epoch] = line
        elif kind == "step" and epoch not in first_steps:
            first_steps[epoch] = {key: line.get(key) for key in _STEP_KEYS}
    epochs = [by_epoch[epoch] for epoch in sorted(by_epoch)]

    if repeated:
        notes.append(
            "some epochs are recorded more than once (a resumed run); the last record of each counts"
        )
    if info.get("status") != "finished":
        planned = planned_epochs(info)
        if planned is not None:
            notes.append(f"unfinished: {len(epochs)} of {planned} epochs so far")
        else:
            notes.append(
                f"unfinished: {len(epochs)} epochs so far, of a loop without an end: such a run ends by being "
                "stopped, and what it recorded until then is compared as it is"
            )
    nonfinite = sum(line["nonfinite"] for line in epochs if is_number(line.get("nonfinite")))
    if nonfinite:
        notes.append(f"{nonfinite:g} non-finite log ratios or losses")
    clone = info.get("clone")
    if isinstance(clone, dict) and clone.get("modified"):
        notes.append("the clone held edits beyond the patch when this run started")
    steps = [line for epoch, line in sorted(first_steps.items()) if epoch in by_epoch]
    return Run(
        path=path,
        info=info,
        epochs=epochs,
        first_steps=steps,
        notes=notes,
        evaluations=[evaluations[epoch] for epoch in sorted(evaluations)],
        quality=_read_quality(path / "evaluation.jsonl"),
    )


def _read_quality(path: Path) -> list[dict[str, Any]]:
    lines, cut = _read_lines(path)
    wrong = [
        number for number, line in lines if not isinstance(line.get("epoch"), int) or not _measured(line)
    ]
    if cut or wrong:
        told = f"line {wrong[0]}" if wrong else "the last line"
        raise RunError(
            f"{path.parent}: {told} of {path.name} is damaged; move the file away and evaluate again"
        )
    return sorted((line for _, line in lines), key=lambda line: line["epoch"])


def _measured(line: dict[str, Any]) -> bool:
    """Whether a line of ``evaluation.jsonl`` holds what is read of it."""
    tables = [
        line.get("overall"),
        *(line["prompts"].values() if isinstance(line.get("prompts"), dict) else [None]),
    ]
    return all(isinstance(table, dict) and all(is_number(v) for v in table.values()) for table in tables)


def _read_info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"{path}: no run.json; this is not a run folder, or the run died before it began"
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"{path}: run.json cannot be read ({error})") from None
    if not isinstance(info, dict):
        raise RunError(f"{path}: run.json is not a JSON object")
    if info.get("format") != FORMAT:
        raise RunError(
            f"{path}: run.json has format {info.get('format')!r}; this version reads format {FORMAT}"
        )
    return info


def _read_lines(path: Path) -> tuple[list[tuple[int, dict[str, Any]]], list[str]]:
    """The JSON objects of a JSON-lines file with their line numbers, and a note if its last line was cut off."""
    try:
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise RunError(f"{path.parent}: {path.name} cannot be read ({error})") from None
    lines: list[tuple[int, dict[str, Any]]] = []
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            if number == len(texts):
                return lines, [f"the last line of {path.name} was cut off (a killed run) and is left out"]
            raise RunError(f"{path.parent}: line {number} of {path.name} is damaged ({error})") from None
        if not isinstance(line, dict):
            raise RunError(f"{path.parent}: line {number} of {path.name} is not a JSON object")
        lines.append((number, line))
    return lines, []
