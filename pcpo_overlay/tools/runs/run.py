"""A run folder: what it holds, whether that is what it should be, and where folders lie."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcpo_overlay.tools.faults import printable, told
from pcpo_overlay.tools.runs.files import (
    RunError,
    is_number,
    kind_of,
    parse_object,
    read_lines,
    read_object,
)
from pcpo_overlay.tools.runs.labels import label
from pcpo_overlay.tools.runs.settings import planned_epochs, samples_per_epoch
from pcpo_overlay.trainers import TRAINERS

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
RUN, METRICS, QUALITY = "run.json", "metrics.jsonl", "evaluation.jsonl"
#: How deep below a folder given on the command line run folders are looked for.
DEPTH = 4
#: Folders that ``ab`` set aside before it repeated a run; a search passes over them.
ASIDE = re.compile(r"\.aside-\d+$")
#: No run has as many epochs, and an index of them still fits 64 bits.
MOST_EPOCHS = 10**9

#: What a name may be made of that becomes part of a file's name, a label or a legend.
_WORD = re.compile(r"[A-Za-z0-9_.+-]{1,64}")
#: What the fields of ``run.json`` have to be that are read of it, where they are there.
_FIELDS: dict[str, tuple[type, ...]] = {
    "upstream": (str,),
    "mode": (str,),
    "pcpo": (dict,),
    "trainer": (dict, type(None)),
    "clone": (dict, type(None)),
    "hardware": (dict, type(None)),
    "versions": (dict, type(None)),
    "resolved": (dict, type(None)),
    "precision": (dict, type(None)),
    "status": (str, type(None)),
}
#: What a policy's evaluation has to have measured.
_MEASURED = ("reward", "accuracy", "diversity", "frechet")


@dataclass(frozen=True)
class Run:
    """One training run, as far as it got.

    Attributes:
        path: the run folder.
        info: ``run.json``.
        epochs: the ``epoch`` lines of ``metrics.jsonl`` in ascending order, one per epoch. Which numbers a line has
            depends on the version that wrote it: ask for those of any name with :meth:`series`.
        first_steps: the first optimizer step of each epoch: what it saw was sampled by the very weights it is
            about to change, so its ratios are the on-policy ones. Only the first of them has its ``per_timestep``.
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
    def name(self) -> str:
        """The folder's, as it can be printed."""
        return printable(self.path.name)

    @property
    def upstream(self) -> str:
        """The upstream's name, for example ``ddpo``."""
        return str(self.info.get("upstream", "unknown"))

    @property
    def label(self) -> str:
        """Mode and options, for example ``full,variance=native``."""
        fields = self.info.get("pcpo") or {"mode": self.info.get("mode", "unknown")}
        return label(fields, self.upstream, self.info.get("arm"))

    @property
    def seed(self) -> int | None:
        """The seed the trainer was given."""
        seed = self.info.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def status(self) -> str | None:
        """``finished``, ``failed``, ``stopped``, ``running``; ``died`` where its process on this machine is gone."""
        return "died" if _is_gone(self.info) else self.info.get("status")

    @property
    def how_it_ended(self) -> str:
        """Of a run that did not finish, as :func:`ended`."""
        return ended(self.info)

    @property
    def finished(self) -> bool:
        """Whether the run came to its own end."""
        return self.info.get("status") == "finished"

    @property
    def planned_epochs(self) -> int | None:
        """Epochs that were asked for; None where the trainer's settings do not say, or say no end."""
        return planned_epochs(self.info)

    @property
    def samples_per_epoch(self) -> int | None:
        """The batch size as the paper means it; None where ``run.json`` does not say."""
        return samples_per_epoch(self.info)

    @property
    def endless(self) -> bool:
        """Whether the run has no end of its own: it is stopped, and never marked as finished."""
        return not self.finished and self.planned_epochs is None

    @property
    def variance(self) -> str:
        """The variance that samples were drawn with, ``native`` or ``paper``; ``auto`` where that is not known yet."""
        resolved = self.info.get("resolved") or {}
        if resolved.get("variance") in ("native", "paper"):
            return str(resolved["variance"])
        std, native = resolved.get("std"), resolved.get("std_native")  # of versions that did not say
        if isinstance(std, list) and isinstance(native, list) and all(map(is_number, [*std, *native])):
            return "native" if std == native else "paper"
        return str((self.info.get("pcpo") or {}).get("variance", "native"))

    def until(self, epoch: int) -> Run:
        """The run as it was after this epoch; its evaluations stay."""
        kept, first = ([n for n in held if n["epoch"] <= epoch] for held in (self.epochs, self.first_steps))
        return replace(self, epochs=kept, first_steps=first)

    def validation(self) -> pd.Series:
        """The reward on the test prompts by the number of epochs trained before: 0 is the policy as it was given."""
        return series(self.evaluations, "reward_mean")

    def series(self, key: str) -> pd.Series:
        """The pandas series of the finite values of ``key`` by epoch, counted from 0."""
        return series(self.epochs, key)

    def per_timestep(self, columns: Sequence[str], epochs: Container[int]) -> list[tuple[float, ...]]:
        """What these epochs recorded of each timestep: the rows where every column is a finite number."""
        tables = [line.get("per_timestep") or {} for line in self.epochs if line["epoch"] in epochs]
        rows = (row for held in tables for row in zip(*(held.get(key, []) for key in columns), strict=False))
        return [row for row in rows if all(map(is_number, row))]

    def on_policy(self, key: str) -> pd.Series:
        """The same of the first optimizer step of each epoch."""
        return series(self.first_steps, key)


def series(lines: Iterable[Mapping[str, Any]], key: str) -> pd.Series:
    """The pandas series by epoch of every line where ``key`` is a finite number."""
    import numpy as np
    import pandas as pd

    held = {line["epoch"]: float(line[key]) for line in lines if is_number(line.get(key))}
    return pd.Series(np.fromiter(held.values(), "float64"), index=np.fromiter(held, "int64"))


# ----------------------------------------------------------------- finding


def find(paths: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """The run folders at or below ``paths``, and one message for each path that has none or cannot be read.

    A folder is a run folder when it holds ``run.json`` or ``metrics.jsonl``. Below a given folder, folders that
    :data:`ASIDE` matches are passed over; given by name they are taken.
    """
    found: dict[Path, None] = {}
    errors: list[str] = []
    for path in paths:
        try:
            if not path.is_dir():
                raise RunError("not a folder" if path.exists() else "no such folder")
            before = len(errors)
            below = [p.resolve() for p in _walk(path, DEPTH, errors)]
            if not below and len(errors) == before:
                raise RunError("no run folder here (a run folder holds run.json and metrics.jsonl)")
            found.update(dict.fromkeys(below))
        except (OSError, RuntimeError, ValueError, RunError) as error:  # RuntimeError: a loop of links
            errors.append(f"{printable(path)}: {told(error)}")
    return list(found), errors


def _walk(path: Path, depth: int, errors: list[str]) -> Iterator[Path]:
    try:
        with os.scandir(path) as entries:
            held = sorted(entries, key=lambda entry: entry.name)
        below = [e.name for e in held if not e.is_symlink() and e.is_dir() and not ASIDE.search(e.name)]
    except OSError as error:
        errors.append(f"{printable(path)}: {told(error)}")
        return
    if {RUN, METRICS} & {entry.name for entry in held}:
        yield path
    elif depth:
        for name in below:
            yield from _walk(path / name, depth - 1, errors)


# ----------------------------------------------------------------- reading


def load(path: Path) -> Run:
    """Read one run folder.

    Raises:
        RunError: ``run.json`` is missing, damaged, of another format or with a field that is not what it should be, or
            so is a line of ``metrics.jsonl`` other than the last, or any of ``evaluation.jsonl``.
    """
    info = read_info(path)
    by_epoch: dict[int, dict[str, Any]] = {}
    evaluations: dict[int, dict[str, Any]] = {}
    first_steps: dict[int, dict[str, Any]] = {}
    alarms: list[str] = []
    lines, notes = _read_records(path / METRICS)
    repeated, beyond = False, 0
    for place, line in lines:
        kind, epoch = line.get("kind"), _epoch_of(line, place)
        if kind == "epoch":
            _check_table(line, place)
            repeated |= epoch in by_epoch
            beyond += sum(
                isinstance(v, int | float) and not isinstance(v, bool) and not is_number(v)
                for v in line.values()
            )
            by_epoch[epoch] = line
        elif kind == "eval":
            evaluations[epoch] = line
        elif kind == "alarm":
            alarms.append(printable(line.get("message"))[:300])
        elif kind == "step" and epoch not in first_steps:
            _check_table(line, place)
            # of the later epochs without their tables, which for 50 timesteps are most of the file
            held = {k: v for k, v in line.items() if not isinstance(v, dict | list)}
            first_steps[epoch] = held if first_steps else line
    epochs = [by_epoch[epoch] for epoch in sorted(by_epoch)]

    if repeated:
        notes.append(
            "some epochs are recorded more than once (a resumed run); the last record of each counts"
        )
    if beyond:
        notes.append(f"{beyond} numbers beyond 1e100 are left out")
    trainer, starts = TRAINERS.get(str(info.get("upstream"))), info.get("starts")
    if trainer is not None and trainer.resumes_early and isinstance(starts, list) and len(starts) > 1:
        notes.append(
            f"resumed (starts: {len(starts)}): {trainer.upstream} goes on from the checkpoint's number and not "
            "from its epoch, so that the epochs after a resume are numbered too early"
        )
    if info.get("status") != "finished":
        notes.append(_unfinished(info, len(epochs)))
    notes += [f"alarm: {words}" for words in alarms]
    nonfinite = sum(line["nonfinite"] for line in epochs if is_number(line.get("nonfinite")))
    if nonfinite:
        notes.append(f"{nonfinite:g} non-finite log ratios or losses")
    if (info.get("clone") or {}).get("modified"):
        notes.append("the clone held edits beyond the patch when this run started")
    return Run(
        path=path,
        info=info,
        epochs=epochs,
        first_steps=[line for epoch, line in sorted(first_steps.items()) if epoch in by_epoch],
        notes=notes,
        evaluations=[evaluations[epoch] for epoch in sorted(evaluations)],
        quality=_read_quality(path / QUALITY),
    )


def _check_table(line: Mapping[str, Any], place: str) -> None:
    table = line.get("per_timestep")
    if table is not None and not isinstance(table, dict):
        raise RunError(f"{place}: per_timestep is {kind_of(table)} in place of an object of lists")
    for key, column in (table or {}).items():
        if not isinstance(column, list):
            raise RunError(
                f"{place}: per_timestep.{printable(key[:80])} is {kind_of(column)} in place of a list"
            )


def _unfinished(info: Mapping[str, Any], epochs: int) -> str:
    planned = planned_epochs(info)
    if planned is not None:
        told = f"unfinished: {epochs} of {planned} epochs so far"
    else:
        told = (
            f"unfinished: {epochs} epochs so far, of a loop without an end: such a run ends by being stopped, and what "
            "it recorded until then is compared as it is"
        )
    return told + (f"; it {ended(info)}" if info.get("status") == "failed" or _is_gone(info) else "")


def ended(info: Mapping[str, Any]) -> str:
    """How a run ended, by its ``run.json``: ``died: its process is gone``, ``failed: WHY``, or its status."""
    if _is_gone(info):
        return "died: its process is gone"
    if info.get("status") == "failed":
        return f"failed: {printable(info.get('error') or 'an exception')[:300]}"
    return printable(info.get("status") or "left no run.json")[:40]


def is_alive(pid: object) -> bool | None:
    """Whether a process of this machine has this id; None where it is no id, or cannot be told."""
    if isinstance(pid, bool) or not isinstance(pid, int) or not 0 < pid < 2**31:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return None
    return True


def _is_gone(info: Mapping[str, Any]) -> bool:
    """Whether a run that says it is running was started on this machine by a process that is no longer there."""
    starts = info.get("starts")
    start = starts[-1] if isinstance(starts, list) and starts else None
    if (
        info.get("status") != "running"
        or not isinstance(start, dict)
        or start.get("host") != socket.gethostname()
    ):
        return False
    return is_alive(start.get("pid")) is False


def read_info(path: Path) -> dict[str, Any]:
    """``run.json`` of a folder, checked field by field as far as it is read.

    Raises:
        RunError: it is missing, damaged, of another format, or a field is not what it should be.
    """
    place = printable(path / RUN)
    try:
        info = read_object(path / RUN)
    except FileNotFoundError:
        raise RunError(
            f"{printable(path)}: no run.json; this is not a run folder, or the run died before it began"
        ) from None
    if info.get("format") != FORMAT:
        raise RunError(
            f"{place} has format {printable(repr(info.get('format'))[:80])}; this version reads format {FORMAT}"
        )
    for key, kinds in _FIELDS.items():
        if key in info and not isinstance(info[key], kinds):
            wanted = "a text" if str in kinds else "an object"
            raise RunError(f"{place}: {key} is {kind_of(info[key])} in place of {wanted}")
    words = [(key, info[key]) for key in ("upstream", "mode", "arm") if info.get(key) is not None]
    for name, value in (info.get("pcpo") or {}).items():
        words.append(("a name in pcpo", name))
        if not isinstance(value, bool | int | float | None):
            words.append((f"pcpo.{printable(name[:80])}", value))
    for where, word in words:
        if not (isinstance(word, str) and _WORD.fullmatch(word)):
            raise RunError(f"{place}: {where} is no word: {printable(repr(word)[:80])}")
    return info


def _epoch_of(line: Mapping[str, Any], place: str) -> int:
    epoch = line.get("epoch")
    if isinstance(epoch, bool) or not isinstance(epoch, int) or not 0 <= epoch < MOST_EPOCHS:
        raise RunError(f"{place} has no epoch number")
    return epoch


def _read_records(path: Path) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    """The JSON objects of a JSON-lines file with their places, and a note if its last line was cut off."""
    records: list[tuple[str, dict[str, Any]]] = []
    damaged: RunError | None = None
    is_whole = True
    for number, is_whole, line in read_lines(path):  # noqa: B007
        if damaged is not None:
            raise damaged
        place = f"{printable(path.parent)}: line {number} of {path.name}"
        try:
            records.append((place, parse_object(line.decode("utf-8", errors="replace"), place)))
        except RunError as error:
            damaged = error
    if damaged is not None and is_whole:
        raise damaged
    if damaged is not None:
        return records, [f"the last line of {path.name} was cut off (a killed run) and is left out"]
    return records, []


def _read_quality(path: Path) -> list[dict[str, Any]]:
    lines, cut = _read_records(path)
    if cut:
        raise RunError(
            f"{printable(path.parent)}: the last line of {path.name} is damaged; move the file away and evaluate "
            "again"
        )
    prompts = None
    for place, line in lines:
        _epoch_of(line, place)
        prompts = prompts or (set(line["prompts"]) if isinstance(line.get("prompts"), dict) else None)
        settings, digest = line.get("settings", {}), line.get("digest")
        sampler = settings.get("sampler") if isinstance(settings, dict) else 0
        sound = (
            _measured(line, set(prompts or ()))
            and isinstance(sampler, dict | None)
            and isinstance(digest, str | None)
            and isinstance(line.get("checkpoint"), str)
        )
        if not sound:
            raise RunError(f"{place} is damaged; move the file away and evaluate again")
    return sorted((line for _, line in lines), key=lambda line: line["epoch"])


def _measured(line: Mapping[str, Any], prompts: set[str]) -> bool:
    """Whether a line of ``evaluation.jsonl`` holds what is read of it, for the same prompts as the others."""
    held = line.get("prompts")
    if not isinstance(held, dict) or not held or set(held) != prompts:
        return False
    return all(
        isinstance(table, dict) and set(_MEASURED) <= set(table) and all(is_number(v) for v in table.values())
        for table in (line.get("overall"), *held.values())
    )
