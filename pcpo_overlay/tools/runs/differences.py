"""What a reader has to know where arms differ though a comparison takes them for equal: a warning a difference."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pcpo_overlay.tools.faults import printable
from pcpo_overlay.tools.runs.arms import Arm, last_common
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


def of_settings(arms: Sequence[Arm], names: Sequence[str]) -> list[str]:
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
    return _flat(
        kept | {"clone": {key: clone[key] for key in ("commit", "patched_tree", "modified") if key in clone}}
    )


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def of_seeds(arms: Sequence[Arm], names: Sequence[str]) -> list[str]:
    """Where seeds and lengths do not match up."""
    seeds = {name: [run.seed for run in arm.runs] for name, arm in zip(names, arms, strict=True)}
    lengths = {name: [len(run.epochs) for run in arm.runs] for name, arm in zip(names, arms, strict=True)}
    seeds_told, lengths_told = (
        "; ".join(f"{name}: {', '.join(map(str, held))}" for name, held in of.items())
        for of in (seeds, lengths)
    )
    warnings = [
        f"{name} holds the same seed more than once: {', '.join(map(str, held))}"
        for name, held in seeds.items()
        if len(set(held)) < len(held)
    ]
    if len({tuple(held) for held in seeds.values()}) > 1:
        warnings.append(
            f"the seeds differ between the arms ({seeds_told}), so part of the difference is the seeds'"
        )
    if len({n for held in lengths.values() for n in held}) > 1:
        warnings.append(
            f"the runs have different numbers of epochs ({lengths_told}); a seed-mean curve ends with its shortest "
            "run, and 'never' means not within the epochs a run has"
        )
    return warnings


def of_samplers(arms: Sequence[Arm], names: Sequence[str]) -> list[str]:
    """Where the arms draw with different variances."""
    by_variance: dict[str, list[str]] = {}
    for arm, name in zip(arms, names, strict=True):
        for variance in sorted({run.variance for run in arm.runs} - {"auto"}):  # it has not been resolved yet
            by_variance.setdefault(variance, []).append(name)
    if len(by_variance) < 2:
        return []
    told = "; ".join(f"{variance} in {', '.join(held)}" for variance, held in by_variance.items())
    return [
        f"the arms draw with different samplers (variance {told}), and a training reward is that of an arm's own "
        "sampler: it does not compare them; go by the evaluated reward, which one sampler draws for all"
    ]


def of_validations(arms: Sequence[Arm], names: Sequence[str]) -> list[str]:
    """Where some run was evaluated in training, and others lack the evaluation that is compared."""
    evaluated = [run.validation() for arm in arms for run in arm.runs if len(run.validation())]
    if not evaluated:
        return []
    at = last_common(evaluated)
    if at is None:
        told = "its validation reward is not compared, since the runs have no evaluation in common"
        return [f"{name}: {told}" for name in names]
    missing = [[f"`{run.name}`" for run in arm.runs if at not in run.validation().index] for arm in arms]
    return [
        f"{name}: no evaluation in {', '.join(lacking)}, so the arm's validation reward is that of "
        f"{len(arm.runs) - len(lacking)} of {len(arm.runs)} runs"
        for arm, name, lacking in zip(arms, names, missing, strict=True)
        if lacking
    ]


def of_versions(arms: Sequence[Arm], names: Sequence[str]) -> list[str]:
    """Where an older version recorded the credit under the ratio's name."""
    named = [name for name, arm in zip(names, arms, strict=True) if _is_of_credit(arm)]
    told = (
        f"{', '.join(named)}: recorded by a version that called the objective's credit the ratio in `full`: its "
        "fraction outside, spread and error are in other units than the baseline's, and do not compare with it"
    )
    return [told] if named else []


def _is_of_credit(arm: Arm) -> bool:
    columns = {key for run in arm.runs for line in run.epochs for key in line}
    return arm.mode == "full" and "ratio_std" in columns and not any(c.startswith("credit_") for c in columns)
