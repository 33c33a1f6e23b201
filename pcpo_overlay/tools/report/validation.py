"""Chapter: validation reward, KL to the reference policy, and the one against the other, where a trainer has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pcpo_overlay.tools import palette
from pcpo_overlay.tools.report import draw, stats
from pcpo_overlay.tools.report.arms import Material, Shown
from pcpo_overlay.tools.report.chapter import Chapter, Column, Measures, by_run
from pcpo_overlay.tools.report.stats import Curve
from pcpo_overlay.tools.report.text import of_arms, three
from pcpo_overlay.tools.runs.arms import last_common
from pcpo_overlay.tools.runs.run import Run

if TYPE_CHECKING:
    import pandas as pd

VALIDATION_DEFINITIONS = {
    "validation reward": "Mean reward on the test prompts, with upstream's own evaluation, after so many epochs of "
    "training: 0 is the model as it was given. Not smoothed.",
}
KL_DEFINITIONS = {
    "KL": "Upstream's KL term between the trained policy and the reference, on the training's own samples, mean "
    "over the backward passes of an epoch. running mean: over all of them from the first epoch on, which is what "
    "the paper's Figure 5 plots. late: over the last 5 epochs, fewer where they would overlap the first.",
    "reward against KL": "As in the paper's Figure 5 c, d: a point is the policy after so many epochs of training, "
    "by the running mean of the KL over those epochs (0 before the first) and its validation reward. Of a run that "
    "was not evaluated after any training the training reward stands in, on the moving average: that of an epoch "
    "is of the policy before its training. Up and to the left is better: more reward for less departure from the "
    "reference.",
}
_NOTE = "Mean over seeds, in brackets the lowest and the highest; not smoothed."
_AT = "at_last_common_evaluation"


def _losses(run: Run, material: Material) -> pd.Series:
    return run.series("kl_loss").loc[: material.last_common]


VALIDATION = Chapter(
    "Validation reward",
    _NOTE,
    {
        _AT: Column(
            "reward at the last common evaluation",
            by_run(lambda run, m: run.validation().get(m.last_common)), None, ends=True,
        ),
        "best": Column(
            "best until then",
            by_run(lambda run, m: max(run.validation().loc[: m.last_common], default=None)), None, ends=True,
        ),
    },
)  # fmt: skip
KL = Chapter(
    "KL",
    _NOTE,
    {
        "running_mean": Column(
            "KL, running mean",
            by_run(lambda run, m: run.series("kl_running_mean").get(m.last_common)), three, ends=True,
        ),
        "loss_mean": Column(
            "KL, mean of epochs", by_run(lambda run, m: stats.mean(_losses(run, m))), three, ends=True
        ),
        "loss_late": Column(
            "KL, late", by_run(lambda run, m: stats.at_end(_losses(run, m), 1, m.window)), three, ends=True
        ),
    },
    curves={"kl_loss": "KL", "kl_running_mean": "KL, running mean"},
)  # fmt: skip


@dataclass(frozen=True)
class Validation:
    """Validation rewards, each arm's over its evaluated runs, with its curve.

    ``last_common_evaluation`` is the last that every evaluated run has, in epochs of training before it; numbers go as
    far as that, curves beyond.
    """

    last_common_evaluation: int | None
    arms: list[Measures]
    curves: list[Curve]


@dataclass(frozen=True)
class Way:
    """A run's way through the plane of KL and reward, from no training on; ``source`` is that of the reward."""

    run: str
    seed: int | None
    source: str
    epochs: list[int]
    kl: list[float]
    reward: list[float]


@dataclass(frozen=True)
class KLs:
    """KLs; ``last_common_epoch``, counted from 0, is the last that every run has which recorded any."""

    last_common_epoch: int | None
    arms: list[Measures]
    reward_against_kl: list[list[Way]]


def describe_validation(material: Material) -> Validation | None:
    """The validation rewards, where any run was evaluated."""
    evaluated = [[run for run in arm.runs if len(run.validation())] for arm in material.arms]
    if not any(evaluated):
        return None
    at = last_common([run.validation() for runs in evaluated for run in runs])
    return Validation(
        at,
        VALIDATION.describe(replace(material, measured=material.arms, last_common=at)),
        [stats.curve(runs, Run.validation, 1) for runs in evaluated],
    )


def describe_kl(material: Material) -> KLs | None:
    """The KLs, where any run recorded one."""
    if not any(len(run.series(key)) for run in material.runs for key in KL.curves):
        return None
    last = last_common([s for run in material.runs if len(s := run.series("kl_running_mean"))])
    ways = [[_way(run, material.window) for run in arm.runs] for arm in material.arms]
    return KLs(
        last,
        KL.describe(replace(material, measured=material.arms, last_common=last)),
        [[way for way in held if way is not None] for held in ways],
    )


def _way(run: Run, window: int) -> Way | None:
    """A point is the policy after so many epochs of training: its reward, and the running mean of the KL until then.

    An epoch's samples were drawn before its training, so the training reward of epoch ``e``, counted from 0, is of the
    policy after ``e``.
    """
    kl, rewards = run.series("kl_running_mean"), run.validation()
    if not len(kl):
        return None
    validated = any(after > 0 for after in rewards.index)
    if not validated:
        rewards = stats.moving_average(run.series("reward_mean"), window)
    rewards = rewards[[after == 0 or after - 1 in kl.index for after in rewards.index]]
    after = rewards.index.tolist()
    departed = [float(kl[e - 1]) if e else 0.0 for e in after]
    source = "validation" if validated else "training"
    return Way(run.name, run.seed, source, after, departed, rewards.tolist())


def tables(shown: Shown, validation: Validation | None, kl: KLs | None) -> dict[str, str]:
    """Markdown of what there is, by title: one table."""
    heads: Mapping[str, str]
    titles, columns = [], []
    if validation is not None:
        at = validation.last_common_evaluation
        heads = {} if at is None else {_AT: f"reward after epoch {at} (last common)"}
        titles.append(VALIDATION.title)
        columns += VALIDATION.cells(shown, validation.arms, heads)
    if kl is not None:
        last = kl.last_common_epoch
        heads = {} if last is None else {"running_mean": f"KL, running mean to epoch {last + 1}"}
        titles.append(KL.title)
        columns += KL.cells(shown, kl.arms, heads)
    return {" and ".join(titles): f"{of_arms(shown.names, columns)}\n\n{_NOTE}"} if columns else {}


def figures(shown: Shown, validation: Validation | None, kl: KLs | None) -> dict[str, Any]:
    """Validation reward by epochs of training, and reward against KL."""
    drawn = {}
    if validation is not None:
        figure = palette.new_figure(7, 4.4)
        axes = figure.subplots()
        draw.curves(axes, shown, validation.curves, "", first=0, xlabel="epochs of training", window=1)
        axes.set_ylabel("validation reward")
        small = draw.caption(shown, "each evaluation, not smoothed")
        drawn["validation"] = draw.finished(figure, axes, "Reward on the test prompts", small)
    if kl is not None and any(way.kl for ways in kl.reward_against_kl for way in ways):
        drawn["pareto"] = _pareto(shown, kl)
    return drawn


def _pareto(shown: Shown, kl: KLs) -> Any:
    """As in the paper's Figure 5 c and d: a line per run, from a hollow marker to a large one."""
    figure = palette.new_figure(7, 4.8)
    axes = figure.subplots()
    sources = set()

    def end(x: Any, y: Any, shape: str, **options: Any) -> None:
        axes.scatter(x, y, s=64, marker=shape, linewidths=1.3, zorder=3, **options)

    for arm, ways in zip(shown.arms, kl.reward_against_kl, strict=True):
        look = arm.look
        for n, way in enumerate(way for way in ways if way.kl):
            sources.add(way.source)
            axes.plot(
                way.kl, way.reward, color=look.colour, linestyle=look.line, linewidth=1.5, marker=look.marker,
                label=None if n else arm.legend, markersize=3.5 if len(way.kl) <= draw.MARKED else 0,
            )  # fmt: skip
            end(way.kl[0], way.reward[0], look.marker, facecolor="white", edgecolor=look.colour)
            end(way.kl[-1], way.reward[-1], look.marker, facecolor=look.colour, edgecolor="black")
    end([], [], "o", facecolor="white", edgecolor="#555555", label="start of a run")
    end([], [], "o", facecolor=palette.NEUTRAL, edgecolor="black", label="its end")
    told = {
        "validation": "validation reward",
        "training": f"training reward, moving average of {shown.window} epochs",
    }
    rewards = "; where there is none,\n".join(told[source] for source in told if source in sources)
    palette.plain(axes, "", "KL to the reference policy, mean over the epochs so far", rewards)
    return draw.finished(figure, axes, "Reward against KL, one line per run", "up and to the left is better")
