"""From runs to one JSON-ready document: groups, curves, thresholds with speed-ups, and what does not match up."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pcpo_overlay.config import MODES
from pcpo_overlay.tools.report import mixed_model, quality, stats, validation
from pcpo_overlay.tools.report.stats import Series
from pcpo_overlay.tools.runs.files import is_number
from pcpo_overlay.tools.runs.run import Run
from pcpo_overlay.tools.runs.settings import planned_epochs, samples_per_epoch

#: Curves by epoch that the document holds for every group.
CURVES = (
    "reward_mean",
    "fraction_outside",
    "fraction_masked",
    "grad_norm",
    "grad_abs_mean",
    "grad_abs_var",
    "ratio_mean",
    "ratio_std",
    "log_ratio_error_mean",
    "log_ratio_error_max",
    "approx_kl",
    "loss",
    "seconds_sampling",
    "seconds_training",
    "seconds_total",
)
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


class ReportError(Exception):
    """The report cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Group:
    """Runs of one upstream with one label, one per seed."""

    upstream: str
    label: str
    runs: list[Run]

    @property
    def mode(self) -> str:
        """The mode without its options."""
        return self.label.partition(",")[0]

    def until(self, epoch: int) -> Group:
        """The same runs as they were after this epoch."""
        return replace(self, runs=[run.until(epoch) for run in self.runs])

    def curve(self, key: str) -> Series:
        """Mean over the seeds, at the epochs that every seed has."""
        return stats.mean_series([run.series(key) for run in self.runs])


def group_runs(runs: Iterable[Run]) -> dict[str, list[Group]]:
    """Groups by upstream, in the order of the ablation ladder, then by label; runs by seed."""
    gathered: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        gathered.setdefault((run.upstream, run.label), []).append(run)
    upstreams: dict[str, list[Group]] = {}
    for (upstream, label), members in sorted(
        gathered.items(), key=lambda item: (item[0][0], _rung(item[0][1]))
    ):
        members.sort(key=lambda run: (run.seed is None, run.seed or 0, str(run.path)))
        upstreams.setdefault(upstream, []).append(Group(upstream, label, members))
    return upstreams


def _rung(label: str) -> tuple[int, str]:
    mode = label.partition(",")[0]
    return (MODES.index(mode) if mode in MODES else len(MODES), label)


def choose_baseline(groups: Sequence[Group], wanted: str | None = None) -> Group:
    """The group the others are held against: ``wanted`` if given, else ``observe``, else the first.

    The first is one of mode ``observe`` wherever there is one, since groups are in the order of the ladder.

    Raises:
        ReportError: no group has the wanted label.
    """
    by_label = {group.label: group for group in groups}
    if wanted is not None:
        if wanted not in by_label:
            raise ReportError(f"no run is labelled {wanted!r}; the labels here are {', '.join(by_label)}")
        return by_label[wanted]
    return by_label.get("observe", groups[0])


def compare(
    runs: Sequence[Run],
    *,
    thresholds: Sequence[float] | None = None,
    window: int = stats.WINDOW,
    baseline: str | None = None,
) -> dict[str, Any]:
    """Compare runs, upstream by upstream, and batch size by batch size where arms have runs of several.

    Args:
        runs: as :func:`runs.load` gives them; those without a finished epoch are named and left out.
        thresholds: reward levels; None lets :func:`stats.levels` choose them from the data.
        window: of the moving average, in epochs.
        baseline: label of the group to hold the others against; None takes ``observe``, else the first.

    Returns:
        ``{"format", "window", "notes", "comparisons": [one per upstream, or batch size], "mixed_models"}``, JSON-ready,
        without non-finite numbers.

    Raises:
        ReportError: no run has an epoch, or no run is labelled as the wanted baseline.
    """
    notes = [f"`{run.path.name}`: {note}" for run in runs for note in run.notes]
    started = [run for run in runs if run.epochs]
    notes += [
        f"`{run.path.name}` has no finished epoch yet and is left out" for run in runs if not run.epochs
    ]
    if not started:
        raise ReportError("none of these runs has a finished epoch yet; there is nothing to compare")
    upstreams = group_runs(started)
    if len(upstreams) > 1:
        notes.append(
            f"runs of several upstreams ({', '.join(upstreams)}): each upstream is compared with its own baseline only"
        )
    comparisons, models = [], []
    for upstream, groups in upstreams.items():
        by_size = by_batch_size(groups)
        if len(by_size) > 1:
            told = " and ".join(map(str, by_size))
            notes.append(
                f"{upstream}: runs of {told} samples an epoch; each batch size is compared by itself, and the mixed "
                "model, where runs are evaluated, is over both"
            )
        for size, members in by_size.items():
            chosen = choose_baseline(members, baseline)
            comparisons.append(
                _compare_upstream(members, chosen, thresholds, window)
                | {"batch_size": size if len(by_size) > 1 else None}
            )
        models += _mixed_models(groups, choose_baseline(groups, baseline), thresholds)
        if len(by_size) > 1:
            notes += quality.evaluated([run for group in groups for run in group.runs])[1]
    return {
        "format": 1,
        "window": window,
        "notes": notes,
        "comparisons": comparisons,
        "mixed_models": models,
    }


def by_batch_size(groups: Sequence[Group]) -> dict[int | None, list[Group]]:
    """The groups by samples an epoch, ascending; all together where no label has runs of several sizes."""
    sizes = {group.label: {samples_per_epoch(run.info) for run in group.runs} for group in groups}
    if all(len(held) == 1 for held in sizes.values()):
        return {None: list(groups)}
    ascending = sorted(
        {size for held in sizes.values() for size in held}, key=lambda size: (size is None, size or 0)
    )
    return {
        size: [
            replace(group, runs=[run for run in group.runs if samples_per_epoch(run.info) == size])
            for group in groups
            if size in sizes[group.label]
        ]
        for size in ascending
    }


def _mixed_models(
    groups: Sequence[Group], baseline: Group, thresholds: Sequence[float] | None
) -> list[dict[str, Any]]:
    """One mixed model for each arm but the baseline, over the evaluated runs of both, of all batch sizes."""
    held, _ = quality.evaluated([run for group in groups for run in group.runs])
    if not held:
        return []
    paths = {run.path for run in held}
    arms = {group.label: [run for run in group.runs if run.path in paths] for group in groups}
    return [
        mixed_model.describe(groups[0].upstream, arms, baseline.label, label, thresholds)
        for label in arms
        if label != baseline.label and arms[label] and arms[baseline.label]
    ]


def _compare_upstream(
    groups: list[Group], baseline: Group, thresholds: Sequence[float] | None, window: int
) -> dict[str, Any]:
    rewards = {g.label: g.curve("reward_mean") for g in groups}
    smoothed = {label: stats.moving_average(curve, window) for label, curve in rewards.items()}
    common = stats.common_epochs(list(rewards.values()))
    last = common[-1] if common else None
    chosen = list(thresholds) if thresholds is not None else _levels(rewards, smoothed)
    warnings = differences(groups) + _seed_warnings(groups)
    cut = _where_to_cut(groups, last)
    if cut is not None:
        warnings.append(
            "runs without an end of their own were stopped at different epochs: the tables after that of the "
            f"thresholds are over the first {cut + 1} epochs, which every run has"
        )
    measured = [group if cut is None else group.until(cut) for group in groups]
    reference = measured[groups.index(baseline)]
    comparison = {
        "upstream": groups[0].upstream,
        "baseline": baseline.label,
        "baseline_is_observe": baseline.mode == "observe",
        "warnings": warnings,
        "last_common_epoch": last,
        "thresholds": {
            "chosen_from_data": thresholds is None,
            "levels": [_threshold(level, groups, baseline, smoothed, window) for level in chosen],
        },
        "groups": [
            _describe(group, until, reference, last, window)
            for group, until in zip(groups, measured, strict=True)
        ],
    }
    _add_quality(comparison, groups, baseline, thresholds)
    _add_validation(comparison, groups)
    _add_kl(comparison, groups, window)
    return comparison


def _where_to_cut(groups: Sequence[Group], last_common: int | None) -> int | None:
    """The epoch after which no run counts in a mean: where endless runs were stopped here and there."""
    runs = [run for group in groups for run in group.runs]
    if any(run.endless for run in runs) and len({len(run.epochs) for run in runs}) > 1:
        return last_common
    return None


def _add_quality(
    comparison: dict[str, Any],
    groups: Sequence[Group],
    baseline: Group,
    thresholds: Sequence[float] | None,
) -> None:
    """What ``evaluate`` measured, where it was run."""
    held, warnings = quality.evaluated([run for group in groups for run in group.runs])
    comparison["warnings"] += warnings
    paths = {run.path for run in held}
    arms = {group.label: [run for run in group.runs if run.path in paths] for group in groups}
    described = quality.describe(arms, baseline.label, thresholds)
    if described is not None:
        comparison["quality"] = described


def _add_validation(comparison: dict[str, Any], groups: Sequence[Group]) -> None:
    """The validation reward of each group, where an upstream's runs have any."""
    runs = [run for group in groups for run in group.runs]
    if not validation.has_evaluations(runs):
        return
    at = comparison["last_common_evaluation"] = validation.last_common_evaluation(runs)
    for group, described in zip(groups, comparison["groups"], strict=True):
        evaluated = [run for run in group.runs if run.validation()]
        described["validation"] = validation.describe_validation(group.runs, at)
        described["validation"]["curve"] = _curve(evaluated, [run.validation() for run in evaluated], 1)
        comparison["warnings"] += validation.warnings(group.label, group.runs, at)


def _add_kl(comparison: dict[str, Any], groups: Sequence[Group], window: int) -> None:
    """The KL of each group, and its runs' rewards against it, where an upstream's runs have any."""
    runs = [run for group in groups for run in group.runs]
    if not validation.has_kl(runs):
        return
    last = comparison["last_common_kl_epoch"] = validation.last_common_kl(runs)
    for group, described in zip(groups, comparison["groups"], strict=True):
        described["kl"] = validation.describe_kl(group.runs, last, window)
        ways = [validation.reward_against_kl(run, window) for run in group.runs]
        described["reward_against_kl"] = [way for way in ways if way is not None]
        for key in validation.KL:
            described["curves"][key] = _curve(group.runs, [run.series(key) for run in group.runs], window)


def _levels(rewards: dict[str, Series], smoothed: dict[str, Series]) -> list[float]:
    held = [label for label, curve in rewards.items() if curve]
    return stats.levels(
        [rewards[label][min(rewards[label])] for label in held],
        [max(smoothed[label].values()) for label in held],
    )


def _threshold(
    level: float, groups: list[Group], baseline: Group, smoothed: dict[str, Series], window: int
) -> dict[str, Any]:
    """Epochs to reach one level: on the moving average of the seed-mean curve, and on each seed's own."""
    reference = stats.epochs_to_reach(smoothed[baseline.label], level)
    resampled = {group.label: _resampled_epochs(group, level, window) for group in groups}
    reference_seeds = _seeds_to_reach(baseline, level, window)
    arms = []
    for group in groups:
        epochs = stats.epochs_to_reach(smoothed[group.label], level)
        own = resampled[group.label]
        arm: dict[str, Any] = {"label": group.label, "epochs": epochs}
        arm["epochs_interval"] = _interval(stats.bootstrap(len(group.runs), own.__getitem__))
        if group is not baseline:
            arm["speedup_percent"] = stats.speedup_percent(reference, epochs)
            arm["speedup_interval"] = _speedup_interval(baseline, group, resampled)
        arm["seeds"] = []
        for run, reached in zip(group.runs, _seeds_to_reach(group, level, window), strict=True):
            entry: dict[str, Any] = {"run": run.path.name, "seed": run.seed, "epochs": reached}
            if group is not baseline:
                twins = [
                    r
                    for other, r in zip(baseline.runs, reference_seeds, strict=True)
                    if other.seed == run.seed
                ]
                entry["speedup_percent"] = (
                    stats.speedup_percent(twins[0], reached) if len(twins) == 1 else None
                )
            arm["seeds"].append(entry)
        arms.append(arm)
    return {"reward": level, "arms": arms}


def _resampled_epochs(group: Group, level: float, window: int) -> dict[tuple[int, ...], float]:
    """Epochs to reach a level by resample of the group's seeds, infinite for never; empty with too few seeds.

    As of the group itself: of the moving average of the mean over a resample's seeds. Both are linear, so the seeds are
    smoothed first and once.
    """
    if len(group.runs) < stats.LEAST_SEEDS:
        return {}
    series = [run.series("reward_mean") for run in group.runs]
    epochs = stats.common_epochs(series)
    smoothed = [stats.moving_average({e: s[e] for e in epochs}, window) for s in series]
    needed = level * len(smoothed)
    return {
        chosen: next((e + 1 for e in epochs if math.fsum(smoothed[i][e] for i in chosen) >= needed), math.inf)
        for chosen, _ in stats.resamples(len(smoothed))
    }


def _speedup_interval(
    baseline: Group, group: Group, resampled: dict[str, dict[tuple[int, ...], float]]
) -> dict[str, float | None] | None:
    """That of the speed-up where both arms have the same seeds, each resample taking the same ones of both."""
    if [run.seed for run in baseline.runs] != [run.seed for run in group.runs]:
        return None

    def speedup(chosen: tuple[int, ...]) -> float | None:
        ends = [resampled[arm.label][chosen] for arm in (baseline, group)]
        return stats.speedup_percent(ends[0], ends[1]) if all(map(math.isfinite, ends)) else None

    return _interval(stats.bootstrap(len(group.runs), speedup))


def _interval(held: tuple[float, float] | None) -> dict[str, float | None] | None:
    """For JSON: an end that is never reached is None."""
    if held is None:
        return None
    low, high = (end if math.isfinite(end) else None for end in held)
    return {"low": low, "high": high}


def _seeds_to_reach(group: Group, level: float, window: int) -> list[int | None]:
    return [
        stats.epochs_to_reach(stats.moving_average(run.series("reward_mean"), window), level)
        for run in group.runs
    ]


def _describe(
    group: Group, measured: Group, reference: Group, last_common: int | None, window: int
) -> dict[str, Any]:
    """One group.

    Args:
        group: whole, for its curves.
        measured: the same as far as its numbers go.
        reference: the baseline, as far as its numbers go.
        last_common: the last epoch that every group has.
        window: of the moving average.
    """
    runs = measured.runs
    return {
        "label": group.label,
        "runs": [_describe_run(run) for run in group.runs],
        "reward": _reward(measured, last_common, window),
        "clipping": {key: _mean_of_runs(runs, key) for key in ("fraction_outside", "fraction_masked")}
        | {
            f"on_policy_{key}": stats.mean(v for run in runs for v in run.on_policy(key).values())
            for key in ("fraction_outside", "fraction_masked", "ratio_mean", "ratio_std")
        },
        "gradients": _gradients(runs),
        "log_ratio": {
            "ratio_mean": _mean_of_runs(runs, "ratio_mean"),
            "ratio_std": _mean_of_runs(runs, "ratio_std"),
            "error_mean": _mean_of_runs(runs, "log_ratio_error_mean"),
            "error_max": _highest(runs, "log_ratio_error_max"),
        },
        "time": _time(measured, reference),
        "peak_memory_bytes": _highest(runs, "peak_memory_bytes"),
        "tape_bytes": _highest(runs, "tape_bytes"),
        "per_timestep": _per_timestep(runs),
        "curves": {
            key: _curve(group.runs, [run.series(key) for run in group.runs], window) for key in CURVES
        },
    }


def _describe_run(run: Run) -> dict[str, Any]:
    clone = run.info.get("clone") if isinstance(run.info.get("clone"), dict) else None
    hardware = run.info.get("hardware") if isinstance(run.info.get("hardware"), dict) else {}
    return {
        "name": run.path.name,
        "seed": run.seed,
        "status": run.info.get("status"),
        "epochs": len(run.epochs),
        "planned_epochs": planned_epochs(run.info),
        "notes": run.notes,
        "upstream_commit": clone.get("commit") if clone else None,
        "patched_tree": clone.get("patched_tree") if clone else None,
        "device": hardware.get("name") if hardware else None,
        "resolved": run.info.get("resolved"),
    }


def _mean_of_runs(runs: Sequence[Run], key: str) -> float | None:
    """Mean over every epoch of every run."""
    return stats.mean(v for run in runs for v in run.series(key).values())


def _highest(runs: Sequence[Run], key: str) -> float | None:
    return max((v for run in runs for v in run.series(key).values()), default=None)


def _reward(group: Group, last_common: int | None, window: int) -> dict[str, Any]:
    smoothed = stats.moving_average(group.curve("reward_mean"), window)
    seeds = [stats.moving_average(run.series("reward_mean"), window) for run in group.runs]
    if not smoothed:
        return {
            "final": None,
            "final_low": None,
            "final_high": None,
            "at_last_common_epoch": None,
            "best": None,
        }
    last = max(smoothed)
    return {
        "final_epoch": last,
        "final": smoothed[last],
        "final_low": min(s[last] for s in seeds),
        "final_high": max(s[last] for s in seeds),
        "at_last_common_epoch": smoothed.get(last_common) if last_common is not None else None,
        "best": max(smoothed.values()),
    }


def _gradients(runs: Sequence[Run]) -> dict[str, Any]:
    """Means over the first and the last epochs of each run, then mean and extremes over the runs (Figure 11)."""
    layers = sorted(
        {str(line["grad_layer"]) for run in runs for line in run.epochs if line.get("grad_layer")}
    )
    described: dict[str, Any] = {
        "layer": ", ".join(layers) or None,
        "grad_norm_mean": _mean_of_runs(runs, "grad_norm"),
    }
    for key in ("grad_norm", "grad_abs_mean", "grad_abs_var"):
        for when, index in (("early", 0), ("late", 1)):
            values = []
            for run in runs:
                series = run.series(key)
                window = stats.early_late(list(series))[index] if series else []
                values.append(stats.mean(series[epoch] for epoch in window))
            described[f"{key}_{when}"] = stats.spread(values)
    return described


def _time(group: Group, baseline: Group) -> dict[str, Any]:
    described: dict[str, Any] = {}
    for part in ("sampling", "training", "total"):
        own, reference = (
            stats.median(v for run in g.runs for v in run.series(f"seconds_{part}").values())
            for g in (group, baseline)
        )
        described[f"{part}_median_s"] = own
        described[f"{part}_ratio"] = own / reference if own is not None and reference else None
    return described


def _per_timestep(runs: Sequence[Run]) -> dict[str, Any]:
    """Clip statistics per timestep over the first and the last epochs, each sample counted once."""
    described = {}
    for when, index in (("early", 0), ("late", 1)):
        counts: dict[float, float] = {}
        sums: dict[str, dict[float, float]] = {"fraction_outside": {}, "fraction_masked": {}}
        for run in runs:
            window = set(stats.early_late([line["epoch"] for line in run.epochs])[index])
            for line in run.epochs:
                if line["epoch"] in window:
                    _add_timesteps(line.get("per_timestep"), counts, sums)
        timesteps = sorted(counts, reverse=True)
        described[when] = {
            "timestep": timesteps,
            "count": [counts[t] for t in timesteps],
            **{key: [held[t] / counts[t] for t in timesteps] for key, held in sums.items()},
        }
    return described


def _add_timesteps(table: object, counts: dict[float, float], sums: dict[str, dict[float, float]]) -> None:
    if not isinstance(table, dict):
        return
    columns = [table.get(key, []) for key in ("timestep", "count", *sums)]
    for t, count, *fractions in zip(*columns, strict=False):
        if is_number(t) and is_number(count) and count > 0 and all(is_number(f) for f in fractions):
            counts[t] = counts.get(t, 0) + count
            for held, fraction in zip(sums.values(), fractions, strict=True):
                held[t] = held.get(t, 0.0) + count * fraction


def _curve(runs: Sequence[Run], series: Sequence[Series], window: int) -> dict[str, Any]:
    """A curve of some runs: mean, moving average and extremes where all have a value, and each run's own."""
    mean = stats.mean_series(series)
    smoothed = stats.moving_average(mean, window)
    seeds = [stats.moving_average(raw, window) for raw in series]
    epochs = sorted(mean)
    return {
        "epoch": epochs,
        "mean": [mean[e] for e in epochs],
        "smoothed": [smoothed[e] for e in epochs],
        "low": [min(s[e] for s in seeds) for e in epochs],
        "high": [max(s[e] for s in seeds) for e in epochs],
        "seeds": [
            {
                "run": run.path.name,
                "seed": run.seed,
                "epoch": sorted(raw),
                "value": [raw[e] for e in sorted(raw)],
            }
            for run, raw in zip(runs, series, strict=True)
        ],
    }


def differences(groups: Sequence[Group]) -> list[str]:
    """One warning per setting in which the runs of one upstream differ though the comparison takes it for equal.

    Compared are the trainer's config, the clip range, the clone, the versions and the hardware.
    """
    runs = [(group.label, run) for group in groups for run in group.runs]
    flat = [(label, _settings(run)) for label, run in runs]
    warnings = []
    for key in sorted({key for _, settings in flat for key in settings} - _HARMLESS):
        by_value: dict[str, list[str]] = {}
        for label, settings in flat:
            labels = by_value.setdefault(json.dumps(settings.get(key), sort_keys=True), [])
            if label not in labels:
                labels.append(label)
        if len(by_value) > 1:
            told = "; ".join(f"{value} in {', '.join(labels)}" for value, labels in by_value.items())
            warnings.append(f"`{key}` differs: {told}")
    return warnings


def _settings(run: Run) -> dict[str, Any]:
    kept = {key: run.info.get(key) for key in ("trainer", "clip_range", "versions", "hardware")}
    clone = run.info.get("clone")
    if isinstance(clone, dict):
        kept["clone"] = {key: clone.get(key) for key in ("commit", "patched_tree", "modified")}
    return flatten(kept)


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _seed_warnings(groups: Sequence[Group]) -> list[str]:
    warnings = []
    seeds = {group.label: [run.seed for run in group.runs] for group in groups}
    for label, held in seeds.items():
        if len(set(held)) < len(held):
            warnings.append(f"{label} holds the same seed more than once: {', '.join(map(str, held))}")
    if len({tuple(held) for held in seeds.values()}) > 1:
        told = "; ".join(f"{label}: {', '.join(map(str, held))}" for label, held in seeds.items())
        warnings.append(
            f"the seeds differ between the arms ({told}), so part of the difference is the seeds'"
        )
    lengths = {group.label: [len(run.epochs) for run in group.runs] for group in groups}
    if len({n for held in lengths.values() for n in held}) > 1:
        told = "; ".join(f"{label}: {', '.join(map(str, held))}" for label, held in lengths.items())
        warnings.append(
            f"the runs have different numbers of epochs ({told}); a seed-mean curve ends with its shortest run, "
            "and 'never' means not within the epochs a run has"
        )
    return warnings
