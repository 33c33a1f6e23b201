"""Chapter: the runs themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pcpo_overlay.tools.faults import printable
from pcpo_overlay.tools.report.text import or_dash, table
from pcpo_overlay.tools.runs.arms import Arm
from pcpo_overlay.tools.runs.run import Run


@dataclass(frozen=True)
class RunTold:
    """What a report says of one run; ``resolved`` is what its mode came to on its schedule."""

    name: str
    seed: int | None
    status: str | None
    epochs: int
    planned_epochs: int | None
    notes: list[str]
    upstream_commit: str | None
    patched_tree: str | None
    device: str | None
    resolved: dict[str, Any] | None


@dataclass(frozen=True)
class ArmTold:
    """An arm: label, name for people, full configuration (with the variance that was drawn with), and its runs."""

    label: str
    name: str
    configuration: dict[str, Any]
    runs: list[RunTold]


def describe(arms: Sequence[Arm], names: Sequence[str]) -> list[ArmTold]:
    """The runs of each arm."""
    told = []
    for arm, name in zip(arms, names, strict=True):
        configuration = {**(arm.runs[0].info.get("pcpo") or {}), "variance": arm.runs[0].variance}
        told.append(ArmTold(arm.label, name, configuration, [_run(run) for run in arm.runs]))
    return told


def _run(run: Run) -> RunTold:
    clone, hardware = run.info.get("clone") or {}, run.info.get("hardware") or {}
    words = (run.status, clone.get("commit"), clone.get("patched_tree"), hardware.get("name"))
    status, commit, tree, device = (None if word is None else printable(word)[:200] for word in words)
    resolved, planned = run.info.get("resolved"), run.planned_epochs
    epochs = len(run.epochs)
    return RunTold(run.name, run.seed, status, epochs, planned, run.notes, commit, tree, device, resolved)


def tables(arms: Sequence[ArmTold]) -> dict[str, str]:
    """Markdown by title."""
    head = ["run", "arm", "seed", "status", "epochs", "upstream commit", "patched tree", "device"]
    rows = []
    for arm in arms:
        for run in arm.runs:
            epochs = f"{run.epochs}" + ("" if run.planned_epochs is None else f" of {run.planned_epochs}")
            hashes = [or_dash(text)[:12] for text in (run.upstream_commit, run.patched_tree)]
            seed, status, device = map(or_dash, (run.seed, run.status, run.device))
            rows.append([run.name, arm.name, seed, status, epochs, *hashes, device])
    return {"Runs": table(head, rows, left=2)}
