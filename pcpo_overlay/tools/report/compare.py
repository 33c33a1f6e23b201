"""From runs to one document: comparisons, each with its chapters, and what does not match up."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pcpo_overlay.tools.report import (
    clipping,
    cost,
    gradients,
    mixed_model,
    overview,
    quality,
    ratio,
    reward,
    settings,
    speed,
    stats,
    validation,
)
from pcpo_overlay.tools.report.arms import Material, ReportError, Shown, choose_baseline, shown_arms
from pcpo_overlay.tools.report.chapter import Measures
from pcpo_overlay.tools.report.text import digits_apart
from pcpo_overlay.tools.runs import differences, policies
from pcpo_overlay.tools.runs.arms import (
    Arm,
    by_batch_size,
    by_upstream,
    gradient_layers,
    last_common,
    stopped_apart,
)
from pcpo_overlay.tools.runs.run import Run

#: Of ``report.json``; 2 has the numbers by chapter, 3 those of quality by metric.
FORMAT = 3


@dataclass
class Comparison:
    """The arms of one upstream, or of one batch size of it, against their baseline: a field a chapter, lists by arm.

    Attributes:
        shown: what tables and figures share; not in the JSON.
        batch_size: samples an epoch, where arms have runs of several.
        samplers_differ: whether the arms draw with different samplers, so that training rewards do not compare them.
        last_common_epoch: the last, counted from 0, that every arm has.
        figures: file by name, once they are drawn.
    """

    shown: Shown
    upstream: str
    baseline: str
    baseline_is_observe: bool
    batch_size: int | None
    samplers_differ: bool
    warnings: list[str]
    last_common_epoch: int | None
    arms: list[settings.ArmTold]
    quality: quality.Quality | None
    kl: validation.KLs | None
    validation: validation.Validation | None
    thresholds: speed.Speed
    reward: list[Measures]
    timesteps: list[clipping.EarlyLate]
    clipping: list[Measures]
    gradients: list[Measures]
    gradient_layers: list[str]
    ratio: list[Measures]
    cost: list[Measures]
    figures: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The upstream, with the batch size where there are several."""
        return self.upstream + ("" if self.batch_size is None else f", {self.batch_size} samples an epoch")

    def tables(self) -> dict[str, str]:
        """Markdown by title, what the arms are evaluated with first."""
        shown = self.shown
        layers = f" First layer: `{'`, `'.join(self.gradient_layers)}`." if self.gradient_layers else ""
        return {
            **(quality.tables(shown, self.quality) if self.quality else {}),
            **validation.tables(shown, self.validation, self.kl),
            **speed.tables(shown, self.thresholds),
            **reward.tables(shown, self.reward, self.last_common_epoch),
            **clipping.CHAPTER.table(shown, self.clipping),
            **gradients.CHAPTER.table(shown, self.gradients, layers),
            **ratio.CHAPTER.table(shown, self.ratio),
            **cost.CHAPTER.table(shown, self.cost),
            **settings.tables(self.arms),
        }

    def main_table(self) -> tuple[str, str]:
        """The table that says which arm is faster, with its title: of evaluated rewards where there are any."""
        title = quality.TITLE if self.quality is not None else speed.TITLE
        return title, self.tables()[title]

    def draw(self) -> dict[str, Any]:
        """The figures by name; those that nothing was recorded for are absent or None.

        Raises:
            ImportError: matplotlib is missing; the message names the extra to install.
        """
        shown = self.shown
        return {
            **overview.figures(shown, self),
            **(quality.figures(shown, self.quality) if self.quality else {}),
            **validation.figures(shown, self.validation, self.kl),
            **reward.figures(shown, self.reward, [level.reward for level in self.thresholds.levels]),
            **clipping.figures(shown, self.clipping, self.timesteps),
            **gradients.figures(shown, self.gradients),
            "ratio": ratio.CHAPTER.figure(shown, self.ratio),
            **cost.figures(shown, self.cost),
        }

    def as_dict(self) -> dict[str, Any]:
        """For JSON: a chapter that it has not is left out."""
        kept = dataclasses.asdict(self)
        return {k: v for k, v in kept.items() if k != "shown" and (v is not None or k in _NULLABLE)}


_NULLABLE = {"batch_size", "last_common_epoch"}


@dataclass
class Document:
    """What ``report.json`` holds."""

    window: int
    notes: list[str]
    comparisons: list[Comparison]
    mixed_models: list[mixed_model.MixedModel]
    definitions: dict[str, str]
    format: int = FORMAT

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self) | {"comparisons": [held.as_dict() for held in self.comparisons]}


def compare(
    runs: Sequence[Run],
    *,
    thresholds: Sequence[float] | None = None,
    window: int = stats.WINDOW,
    baseline: str | None = None,
) -> Document:
    """Compare runs, upstream by upstream, and batch size by batch size where arms have runs of several.

    Args:
        runs: those without a finished epoch are named and left out.
        thresholds: reward levels; None lets :func:`stats.levels` choose them from the data.
        window: of the moving average, in epochs.
        baseline: label or name of the arm to hold the others against; None takes ``observe``, else the first.

    Raises:
        ReportError: no run has an epoch, or no run is labelled as the wanted baseline.
    """
    notes = [f"`{run.name}`: {note}" for run in runs for note in run.notes]
    started = [run for run in runs if run.epochs]
    notes += [f"`{run.name}` has no finished epoch yet and is left out" for run in runs if not run.epochs]
    if not started:
        raise ReportError("none of these runs has a finished epoch yet; there is nothing to compare")
    upstreams = by_upstream(started)
    if len(upstreams) > 1:
        notes.append(
            f"runs of several upstreams ({', '.join(upstreams)}): each upstream is compared with its own baseline only"
        )
    comparisons, models = [], []
    for upstream, arms in upstreams.items():
        by_size = by_batch_size(arms)
        if len(by_size) > 1:
            told = " and ".join(map(str, by_size))
            notes.append(
                f"{upstream}: runs of {told} samples an epoch; each batch size is compared by itself, and the mixed "
                "model, where runs are evaluated, is over both"
            )
            notes += policies.evaluated(arms)[1]
        for size, members in by_size.items():
            told_size = size if len(by_size) > 1 else None
            comparisons.append(
                _compare(members, choose_baseline(members, baseline), told_size, thresholds, window)
            )
        models += mixed_model.describe_all(arms, choose_baseline(arms, baseline), thresholds)
    return Document(window, notes, comparisons, models, _definitions(comparisons, models))


def _compare(
    arms: list[Arm], baseline: Arm, size: int | None, thresholds: Sequence[float] | None, window: int
) -> Comparison:
    last = last_common([arm.mean("reward_mean") for arm in arms])
    looks = shown_arms({arm.label: len(arm.runs) for arm in arms})
    names = [arm.name for arm in looks]
    samplers = differences.of_samplers(arms, names)
    warnings = samplers + differences.of_settings(arms, names) + differences.of_seeds(arms, names)
    cut = last if stopped_apart(arms) else None
    if cut is not None:
        warnings.append(
            "runs without an end of their own were stopped at different epochs: the tables after that of the "
            f"thresholds are over the first {cut + 1} epochs, which every run has"
        )
    measured = [arm if cut is None else arm.until(cut) for arm in arms]
    warnings += policies.evaluated(arms)[1] + differences.of_validations(arms, names)
    warnings += differences.of_versions(measured, names)
    place = arms.index(baseline)
    material = Material(arms, measured, place, thresholds, window, last)
    reached = speed.describe(material)
    digits = digits_apart(level.reward for level in reached.levels)
    lengths_differ = any(len({len(run.epochs) for run in arm.runs}) > 1 for arm in arms)
    return Comparison(
        Shown(arms[0].upstream, looks, place, window, digits, bool(samplers), lengths_differ),
        arms[0].upstream, baseline.label, baseline.mode == "observe", size, bool(samplers), warnings, last,
        settings.describe(arms, names), quality.describe(material), validation.describe_kl(material),
        validation.describe_validation(material), reached, reward.CHAPTER.describe(material),
        clipping.by_timestep(material), clipping.CHAPTER.describe(material), gradients.CHAPTER.describe(material),
        gradient_layers(measured), ratio.CHAPTER.describe(material), cost.CHAPTER.describe(material),
    )  # fmt: skip


def _definitions(
    comparisons: Sequence[Comparison], models: Sequence[mixed_model.MixedModel]
) -> dict[str, str]:
    """What each number of a report is: in the Markdown and, word for word, in the JSON."""
    chosen: dict[str, str] = {}
    for chapter in (reward, speed, clipping, gradients, ratio, cost):
        chosen |= chapter.DEFINITIONS
    chosen |= validation.VALIDATION_DEFINITIONS if any(c.validation for c in comparisons) else {}
    chosen |= validation.KL_DEFINITIONS if any(c.kl for c in comparisons) else {}
    chosen |= quality.DEFINITIONS if any(c.quality for c in comparisons) else {}
    return chosen | (mixed_model.DEFINITIONS if models else {})
