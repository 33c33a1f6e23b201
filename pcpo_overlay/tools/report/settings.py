"""Chapter: the runs themselves, and where their settings differ though the comparison takes them for equal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pcpo_overlay.tools.faults import printable
from pcpo_overlay.tools.report.arms import Arm
from pcpo_overlay.tools.report.text import or_dash, table
from pcpo_overlay.tools.runs.run import Run

#: Keys of a trainer's config in which runs may differ without the comparison suffering.
_HARMLESS = {
    "trainer.seed",
    "trainer.run_name",
    "trainer.logdir",
    "trainer.output_dir",
    "trainer.save_dir",
    "trainer.save_freq",
    "trainer.num_checkpoint_limit",
    "trainer.num_epochs",  # noted on its own: it ends a run, it does not change its epochs
}


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
    return [
        ArmTold(arm.label, name, _configuration(arm.runs[0]), [_run(run) for run in arm.runs])
        for arm, name in zip(arms, names, strict=True)
    ]


def _configuration(run: Run) -> dict[str, Any]:
    return {**(run.info.get("pcpo") or {}), "variance": run.variance}


def _run(run: Run) -> RunTold:
    clone, hardware = run.info.get("clone") or {}, run.info.get("hardware") or {}

    def text(value: object) -> str | None:
        return None if value is None else printable(value)[:200]

    return RunTold(
        run.name,
        run.seed,
        text(run.status),
        len(run.epochs),
        run.planned_epochs,
        run.notes,
        text(clone.get("commit")),
        text(clone.get("patched_tree")),
        text(hardware.get("name")),
        run.info.get("resolved"),
    )


def tables(arms: Sequence[ArmTold]) -> list[tuple[str, str]]:
    """Title and Markdown."""
    head = ["run", "arm", "seed", "status", "epochs", "upstream commit", "patched tree", "device"]
    rows = [
        [
            run.name,
            arm.name,
            or_dash(run.seed),
            or_dash(run.status),
            f"{run.epochs}" + ("" if run.planned_epochs is None else f" of {run.planned_epochs}"),
            or_dash(run.upstream_commit)[:12],
            or_dash(run.patched_tree)[:12],
            or_dash(run.device),
        ]
        for arm in arms
        for run in arm.runs
    ]
    return [("Runs", table(head, rows, left=2))]


def differences(arms: Sequence[Arm], names: Sequence[str]) -> list[str]:
    """One warning per setting in which the runs of one upstream differ though the comparison takes it for equal.

    Compared are the trainer's config, the clip range, the clone, the versions and the hardware.
    """
    flat = [(name, _settings(run)) for name, arm in zip(names, arms, strict=True) for run in arm.runs]
    warnings = []
    for key in sorted({key for _, settings in flat for key in settings} - _HARMLESS):
        by_value: dict[str, list[str]] = {}
        for name, settings in flat:
            held = by_value.setdefault(json.dumps(settings.get(key), sort_keys=True), [])
            if name not in held:
                held.append(name)
        if len(by_value) > 1:
            told = "; ".join(f"{value} in {', '.join(held)}" for value, held in by_value.items())
            warnings.append(f"`{printable(key)}` differs: {printable(told)}")
    return warnings


def _settings(run: Run) -> dict[str, Any]:
    kept = {key: run.info.get(key) for key in ("trainer", "clip_range", "versions", "hardware")}
    clone = run.info.get("clone") or {}
    return flatten(
        kept | {"clone": {key: clone[key] for key in ("commit", "patched_tree", "modified") if key in clone}}
    )


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def seed_warnings(arms: Sequence[Arm], names: Sequence[str]) -> list[str]:
    """What a reader has to know of seeds and lengths that do not match up."""
    warnings = []
    seeds = {name: [run.seed for run in arm.runs] for name, arm in zip(names, arms, strict=True)}
    for name, held in seeds.items():
        if len(set(held)) < len(held):
            warnings.append(f"{name} holds the same seed more than once: {', '.join(map(str, held))}")
    if len({tuple(held) for held in seeds.values()}) > 1:
        told = "; ".join(f"{name}: {', '.join(map(str, held))}" for name, held in seeds.items())
        warnings.append(
            f"the seeds differ between the arms ({told}), so part of the difference is the seeds'"
        )
    lengths = {name: [len(run.epochs) for run in arm.runs] for name, arm in zip(names, arms, strict=True)}
    if len({n for held in lengths.values() for n in held}) > 1:
        told = "; ".join(f"{name}: {', '.join(map(str, held))}" for name, held in lengths.items())
        warnings.append(
            f"the runs have different numbers of epochs ({told}); a seed-mean curve ends with its shortest run, "
            "and 'never' means not within the epochs a run has"
        )
    return warnings
