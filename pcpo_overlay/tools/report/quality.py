"""Chapter: what ``evaluate`` measured of checkpoints, compared where the arms have the same reward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pcpo_overlay.tools import palette
from pcpo_overlay.tools.faults import printable
from pcpo_overlay.tools.report import draw, levels, stats, text
from pcpo_overlay.tools.report.arms import Material, Shown, ShownArm
from pcpo_overlay.tools.report.stats import Curve, Estimate
from pcpo_overlay.tools.report.text import Told, estimated, number, signed, table
from pcpo_overlay.tools.runs import policies
from pcpo_overlay.tools.runs.run import Run

if TYPE_CHECKING:
    import pandas as pd

TITLE = "Epochs to reach an evaluated reward"
DEFINITIONS = {
    "quality": "What `evaluate` measured on images drawn from checkpoints, equally many of each of the "
    "miniature's prompts, with the run's steps, guidance and eta or noise level, upstream's native sampler in all arms "
    "and the same noise for every policy. reward: the mean of the run's own reward over these images. "
    "accuracy: the share that the miniature's classifier reads as prompted.",
    "evaluated reward": "That mean, so of one sampler for all arms: it compares arms that draw with different ones, "
    "which the training reward does not.",
    "diversity": "Mean distance of two images of one prompt in the features of that classifier's last but one "
    "layer, mean over the prompts. It falls where a policy collapses.",
    "styles": "Of the animals alone: the effective number of styles that a prompt's images are drawn in, exp of the "
    "entropy of their mean probabilities under a style classifier, mean over the prompts; 1 where all have one style, "
    "8 where all are equally frequent.",
    "Fréchet distance": "That of FID, in the same features: between a policy's images and the base model's, of "
    "all prompts together, and of each prompt by itself (mean over the prompts). 0 is the base model. As in "
    "Appendix B.3 of the paper it measures drift: at the same reward, lower is better. It falls with more "
    "samples, a prompt's own especially where they are fewer than the features (64 of digits, 128 of animals): "
    "compare it among equal numbers of samples only.",
    "matched reward": "A run's policy when its evaluated reward first reaches a level, with everything "
    "interpolated linearly between the last checkpoint below and the first at the level; the closer the "
    "checkpoints, the less hangs on that. Unless given with --thresholds the levels are four, evenly spaced "
    "strictly between the base model's reward and the lowest of the runs' best. Numbers are means over seeds, in "
    "brackets their bootstrap interval; a difference is taken seed by seed.",
}
#: What may be compared, in this order: over all prompts, but ``KEY_prompt``, the mean of the prompts' own.
TITLES = {
    "accuracy": "accuracy",
    "diversity": "diversity",
    "frechet_prompt": "Fréchet distance, by prompt",
    "frechet": "Fréchet distance, all prompts",
    "styles": "styles a prompt",
    "fid": "FID",
    "fid_prompt": "FID, by prompt",
    "fd-dinov2": "FD-DINOv2",
    "fd-dinov2_prompt": "FD-DINOv2, by prompt",
    "fd-digit": "Fréchet distance of digits",
    "fd-digit_prompt": "Fréchet distance of digits, by prompt",
    "is": "IS",
    "is_prompt": "IS, by prompt",
    "lpips": "LPIPS diversity",
    "hpsv2": "HPSv2",
    "hpsv2.1": "HPSv2.1",
    "aesthetic": "Aesthetic",
    "clipscore": "CLIPScore",
    "pickscore": "PickScore",
    "imagereward": "ImageReward",
    "ocr": "OCR",
    "digit": "digit probability",
}
NO_MATCH = (
    "No level of reward: at least one run's evaluated reward never rose above that of the model it began as."
)


def matched_levels(runs: Sequence[Run], given: Sequence[float] | None = None) -> list[float]:
    """Those given, or levels that every one of these evaluated runs passes, by the rule of :func:`stats.levels`."""
    ways = [policies.points(run) for run in runs]
    chosen = stats.levels([way[0].reward for way in ways], [max(p.reward for p in way) for way in ways])
    return chosen if given is None else list(given)


@dataclass(frozen=True)
class Metrics:
    """What was measured, of :data:`TITLES`, as means over seeds with their bootstrap intervals."""

    runs: int
    values: dict[str, Estimate]


@dataclass(frozen=True)
class ArmAtLevel(levels.Reached, Metrics):
    """An arm where its evaluated reward reaches a level; ``difference`` is to the baseline, seed by seed."""

    difference: Metrics | None


@dataclass(frozen=True)
class QualityLevel:
    """A level of evaluated reward, and each arm there."""

    reward: float
    arms: list[ArmAtLevel]


@dataclass(frozen=True)
class ArmAtEnd(Metrics):
    """An arm at the last checkpoint that every run has."""

    label: str
    reward: Estimate


@dataclass(frozen=True)
class LastCheckpoint:
    """That checkpoint, in epochs of training before it, with the model that the runs began as."""

    epoch: int | None
    base: dict[str, float] | None
    arms: list[ArmAtEnd]


@dataclass(frozen=True)
class Way:
    """A run's policies, epoch by epoch."""

    run: str
    seed: int | None
    epoch: list[float]
    values: dict[str, list[float]]


@dataclass(frozen=True)
class Quality:
    """How images were drawn, and what was measured of how many policies a run.

    It is told at levels and at the last checkpoint, by arm, and by run.
    """

    metrics: list[str]
    settings: dict[str, Any]
    policies: list[int]
    levels: list[QualityLevel]
    last: LastCheckpoint
    rewards: list[Curve]
    ways: list[list[Way]]


def describe(material: Material) -> Quality | None:
    """The quality of the evaluated runs; None where no run was evaluated, or some were with other settings."""
    arms, _ = policies.evaluated(material.arms)
    return describe_arms(arms, material.arms[material.baseline].label, material.thresholds) if arms else None


def describe_arms(
    arms: Mapping[str, Sequence[Run]], baseline: str, thresholds: Sequence[float] | None = None
) -> Quality:
    """The quality of some arms.

    Args:
        arms: runs by label, all evaluated with the same settings, and some at all; an arm may have none.
        baseline: the label of the arm that the others are held against.
        thresholds: levels of reward; None lets :func:`matched_levels` choose them.
    """
    runs = [run for members in arms.values() for run in members]
    settings = runs[0].quality[0].get("settings", {})
    known = policies.measured(runs)[1:]
    metrics = sorted(known, key=lambda key: list(TITLES).index(key) if key in TITLES else len(TITLES))
    return Quality(
        metrics,
        {key: settings.get(key) for key in ("samples", "seed", "sampler", "reward")},
        [len(run.quality) for run in runs],
        [_level(arms, baseline, level, metrics) for level in matched_levels(runs, thresholds)],
        _last({label: [policies.way(run) for run in members] for label, members in arms.items()}, metrics),
        [stats.curve(members, lambda run: policies.way(run)["reward"], 1) for members in arms.values()],
        [[_way(run, metrics) for run in members] for members in arms.values()],
    )


def _way(run: Run, metrics: Sequence[str]) -> Way:
    held = policies.points(run)
    values = {key: [point.values[key] for point in held] for key in ("reward", *metrics)}
    return Way(run.name, run.seed, [point.epoch for point in held], values)


def _metrics(held: pd.DataFrame, metrics: Sequence[str]) -> dict[str, Any]:
    return {"runs": len(held), "values": {key: stats.estimate(held[key].tolist()) for key in metrics}}


def _level(
    arms: Mapping[str, Sequence[Run]], baseline: str, level: float, metrics: Sequence[str]
) -> QualityLevel:
    reached = {label: policies.matched(members, level, metrics) for label, members in arms.items()}
    described = []
    for label, own in reached.items():
        shared = own - reached.get(baseline, own[:0])  # NaN where the baseline has no such seed
        difference = None if label == baseline else Metrics(**_metrics(shared.dropna(), metrics))
        epochs = stats.estimate(own["epoch"].tolist())
        described.append(
            ArmAtLevel(label=label, epochs=epochs, difference=difference, **_metrics(own, metrics))
        )
    return QualityLevel(level, described)


def _last(arms: Mapping[str, Sequence[pd.DataFrame]], metrics: Sequence[str]) -> LastCheckpoint:
    """The numbers at the last checkpoint that every run has, and of the base model."""
    import pandas as pd

    every = [way for ways in arms.values() for way in ways]
    last = max(set.intersection(*(set(way.index[way.index > 0].tolist()) for way in every)), default=None)
    columns = ["reward", *metrics]
    base = next((way.loc[0, columns].to_dict() for way in every if 0 in way.index), None)
    described = []
    for label, ways in arms.items():
        held = pd.DataFrame([way.loc[last] for way in ways if last is not None], columns=columns)
        reward = stats.estimate(held["reward"].tolist())
        described.append(
            ArmAtEnd(label=label, reward=reward, **_metrics(held, metrics) | {"runs": len(ways)})
        )
    return LastCheckpoint(last, base, described)


def tables(shown: Shown, quality: Quality) -> dict[str, str]:
    """Markdown by title."""
    at_levels = {
        TITLE: _epochs_table,
        "Quality at matched reward": _quality_table,
        "Quality at matched reward, difference to the baseline": _difference_table,
    }
    made = {title: of(shown, quality) if quality.levels else NO_MATCH for title, of in at_levels.items()}
    return {**made, "Quality at the last checkpoint": _last_table(shown, quality)}


def _epochs_table(shown: Shown, quality: Quality) -> str:
    """Levels down, arms across: epochs to reach an evaluated reward, and the speed-up against the baseline."""
    some, cells = False, []
    for level in quality.levels:
        reference, row = level.arms[shown.baseline], []
        for arm, own in zip(shown.arms, level.arms, strict=True):
            few = f" ({own.runs} of {arm.seeds})" if 0 < own.runs < arm.seeds else ""
            some = some or bool(few)
            speedup = stats.speedup_percent(reference.epochs.mean, own.epochs.mean)
            told = text.percent(speedup if own.runs == reference.runs else None)
            row.append((estimated(own.epochs, text.epochs) + few, told))
        cells.append(row)
    note = "Mean over seeds, in brackets the bootstrap interval of 95%; speed-up: of the means."
    note += " In parentheses: how many seeds reach it, of which the mean is." if some else ""
    made = levels.table("evaluated reward", shown, quality.levels, cells)
    return f"{made}\n\n{note} {_drawn(quality)}"


def _arms(shown: Shown, quality: Quality) -> Iterator[tuple[str, ShownArm, ArmAtLevel]]:
    """Every level, and every arm there."""
    for name, level in zip(levels.names(quality.levels), quality.levels, strict=True):
        for arm, own in zip(shown.arms, level.arms, strict=True):
            yield name, arm, own


def _table(
    head: Sequence[str],
    metrics: Sequence[str],
    rows: Iterable[tuple[list[str], Metrics]],
    left: int,
    told: Told = number,
) -> str:
    """Cases down, metrics across."""
    cells = [[*case, *(estimated(held.values[key], told) for key in metrics)] for case, held in rows]
    return table([*head, *(TITLES.get(key, printable(key)) for key in metrics)], cells, left)


def _quality_table(shown: Shown, quality: Quality) -> str:
    rows = (
        ([name, arm.name, f"{own.runs} of {arm.seeds}", estimated(own.epochs)], own)
        for name, arm, own in _arms(shown, quality)
    )
    made = _table(["reward", "arm", "seeds", "epochs"], quality.metrics, rows, left=2)
    return f"{made}\n\n{_drawn(quality)}"


def _difference_table(shown: Shown, quality: Quality) -> str:
    rows = [
        ([name, arm.name, str(held.runs)], held)
        for name, arm, own in _arms(shown, quality)
        if (held := own.difference) is not None
    ]
    if not rows:
        return "There is no other arm than the baseline."
    made = _table(["reward", "arm", "seeds"], quality.metrics, rows, 2, signed)
    few = all(held.runs < stats.LEAST_SEEDS for _, held in rows)
    told = f"\n\nNo bootstrap intervals: they take {stats.LEAST_SEEDS} seeds that both arms have."
    return made + (told if few else "")


def _last_table(shown: Shown, quality: Quality) -> str:
    last = quality.last
    if last.epoch is None:
        return "The runs have no checkpoint of the same epoch."
    rows: list[tuple[list[str], Metrics]] = [
        ([arm.name, str(own.runs), estimated(own.reward, shown.reward)], own)
        for arm, own in zip(shown.arms, last.arms, strict=True)
    ]
    if last.base is not None:
        base = Metrics(1, {key: Estimate(last.base[key]) for key in quality.metrics})
        rows.insert(0, (["(base model)", "", shown.reward(last.base["reward"])], base))
    made = _table(["arm", "seeds", "reward"], quality.metrics, rows, left=1)
    return f"{made}\n\nAfter {last.epoch} epochs of training, the last that every evaluated run has a checkpoint of."


def _drawn(quality: Quality) -> str:
    """How the images were drawn, and how densely checkpoints lie."""
    settings, counts = quality.settings, sorted(set(quality.policies))
    held = settings["sampler"] or {}
    parts = [str(v) if key == "name" else f"{key.replace('_', ' ')} {v}" for key, v in held.items()]
    sampler, native = ", ".join(parts), "" if "name" in held else "; native sampler in all arms"
    several = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    few = any(arm.runs < stats.LEAST_SEEDS for level in quality.levels for arm in level.arms)
    told = (
        f"{settings['samples']} images a prompt and policy ({sampler}{native}), {several} policies "
        "a run, the model it began as among them."
    )
    return printable(told + (f" Intervals take {stats.LEAST_SEEDS} seeds." if few else ""))


_DRIFT, _DIVERSE, _BETTER = "left is less drift", "right is more diverse", "right is better"
#: What is drawn, the first three of these that were measured.
_PANELS = {
    "accuracy": ("accuracy", _BETTER),
    "diversity": ("diversity within a prompt", _DIVERSE),
    "frechet_prompt": ("Fréchet distance to the base model, by prompt", _DRIFT),
    "digit": ("digit probability", _BETTER),
    "fd-digit": ("Fréchet distance of digits to the base model", _DRIFT),
    "fid": ("FID to the base model", _DRIFT),
    "fd-dinov2": ("FD-DINOv2 to the base model", _DRIFT),
    "lpips": ("LPIPS diversity within a prompt", _DIVERSE),
    "hpsv2.1": ("HPSv2.1", _BETTER),
    "pickscore": ("PickScore", _BETTER),
    "imagereward": ("ImageReward", _BETTER),
    "clipscore": ("CLIPScore", _BETTER),
    "aesthetic": ("Aesthetic", _BETTER),
}


def figures(shown: Shown, quality: Quality) -> dict[str, Any]:
    """What a policy costs at the same reward: differences to the baseline with their intervals."""
    drawn = [key for key in _PANELS if key in quality.metrics][:3]
    if not quality.levels or not drawn:
        return {}
    others = [n for n in range(len(shown.arms)) if n != shown.baseline]
    arms, rows = others or [shown.baseline], levels.names(quality.levels)
    at_level = [[level.arms[n] for level in quality.levels] for n in arms]
    held = [[own.difference if others else own for own in by_level] for by_level in at_level]
    figure = palette.new_figure(12, 1.7 + 0.2 * len(rows) * (len(arms) + 1))
    panels = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
    for n, (axes, key) in enumerate(zip(panels, drawn, strict=True)):
        name, better = _PANELS[key]
        estimates = [[e.values[key] if e is not None and e.runs else None for e in own] for own in held]
        draw.dots(axes, shown, rows, estimates, arms=arms, legend=n == 0)
        below = f"minus the baseline's ({better})" if others else name
        palette.plain(axes, f"({'abc'[n]}) {name}", below, grid="x")
        if others:
            axes.axvline(0, color=shown.arms[shown.baseline].look.colour, linewidth=1.2, zorder=0)
    panels[0].set_ylabel("at an evaluated reward of")
    intervals = any(own.epochs.low is not None for level in quality.levels for own in level.arms)
    small = "line: bootstrap interval of 95%" if intervals else "too few seeds for intervals"
    small += f"; grey line: {shown.names[shown.baseline]}" if others else ""
    title = "What the policies draw when they have the same evaluated reward"
    return {"quality": draw.finished(figure, panels[0], title, f"dot: mean over seeds; {small}")}
