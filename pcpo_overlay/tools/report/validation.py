"""Chapter: validation reward, KL to the reference policy, and the one against the other, where a trainer has them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pcpo_overlay.tools import palette
from pcpo_overlay.tools.report import draw, stats
from pcpo_overlay.tools.report.arms import Material, Shown
from pcpo_overlay.tools.report.stats import Curve, Estimate
from pcpo_overlay.tools.report.text import number, of_arms, over_seeds
from pcpo_overlay.tools.runs.arms import Arm, last_common
from pcpo_overlay.tools.runs.run import Run

if TYPE_CHECKING:
    pass

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
#: What an epoch holds of the KL: its own mean, and the mean over all epochs from the first to it.
_KL = ("kl_loss", "kl_running_mean")


@dataclass(frozen=True)
class ArmValidation:
    """An arm's validation reward, mean and extremes over its evaluated runs, each up to the same evaluation."""

    runs: int
    at_last_common_evaluation: Estimate
    best: Estimate
    curve: Curve


@dataclass(frozen=True)
class Validation:
    """Validation rewards; ``last_common_evaluation`` is the last that every evaluated run has, in epochs before it."""

    last_common_evaluation: int | None
    arms: list[ArmValidation]


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
class ArmKL:
    """An arm's KL, mean and extremes over its runs, each up to the same epoch."""

    running_mean: Estimate
    loss_mean: Estimate
    loss_late: Estimate
    curves: dict[str, Curve]
    reward_against_kl: list[Way]


@dataclass(frozen=True)
class KLs:
    """KLs; ``last_common_epoch``, counted from 0, is the last that every run has which recorded any."""

    last_common_epoch: int | None
    arms: list[ArmKL]


def describe_validation(material: Material) -> Validation | None:
    """The validation rewards, where any run was evaluated."""
    held = [s for run in material.runs if len(s := run.validation())]
    at = last_common(held)
    return Validation(at, [_arm_validation(arm, at) for arm in material.arms]) if held else None


def _arm_validation(arm: Arm, at: int | None) -> ArmValidation:
    runs = [run for run in arm.runs if len(run.validation())]
    held = [run.validation() if at is None else run.validation().loc[:at] for run in runs]
    return ArmValidation(
        len(runs),
        stats.spread(s.get(at) for s in held),
        stats.spread(stats.highest(s) for s in held),
        stats.curve(runs, Run.validation, 1),
    )


def warnings(arms: Sequence[Arm], named: Sequence[str], validation: Validation) -> list[str]:
    """What a reader has to know about an arm in a comparison where some run was evaluated."""
    at = validation.last_common_evaluation
    if at is None:
        told = "its validation reward is not compared, since the runs have no evaluation in common"
        return [f"{name}: {told}" for name in named]
    missing = [[f"`{run.name}`" for run in arm.runs if at not in run.validation().index] for arm in arms]
    return [
        f"{name}: no evaluation in {', '.join(lacking)}, so the arm's validation reward is that of "
        f"{len(arm.runs) - len(lacking)} of {len(arm.runs)} runs"
        for arm, name, lacking in zip(arms, named, missing, strict=True)
        if lacking
    ]


def describe_kl(material: Material) -> KLs | None:
    """The KLs, where any run recorded one."""
    if not any(len(run.series(key)) for run in material.runs for key in _KL):
        return None
    last = last_common([s for run in material.runs if len(s := run.series("kl_running_mean"))])
    return KLs(last, [_arm_kl(arm, last, material.window) for arm in material.arms])


def _arm_kl(arm: Arm, last: int | None, window: int) -> ArmKL:
    losses = [run.series("kl_loss").loc[:last] for run in arm.runs]
    return ArmKL(
        stats.spread(run.series("kl_running_mean").get(last) for run in arm.runs),
        stats.spread(map(stats.mean, losses)),
        stats.spread(stats.mean(loss[stats.early_late(loss.index, window)[1]]) for loss in losses),
        {key: stats.curve(arm.runs, key, window) for key in _KL},
        [way for run in arm.runs if (way := _way(run, window)) is not None],
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


def tables(shown: Shown, validation: Validation | None, kl: KLs | None) -> list[tuple[str, str]]:
    """Title and Markdown of what there is."""
    columns: dict[str, list[str]] = {}

    def column(head: str, held: Iterable[Estimate], told: Callable[[float | None], str]) -> None:
        columns[head] = [over_seeds(e, arm.seeds, told) for arm, e in zip(shown.arms, held, strict=True)]

    if validation is not None:
        at = validation.last_common_evaluation
        told = (
            "reward at the last common evaluation" if at is None else f"reward after epoch {at} (last common)"
        )
        column(told, (arm.at_last_common_evaluation for arm in validation.arms), shown.reward)
        column("best until then", (arm.best for arm in validation.arms), shown.reward)
    if kl is not None:
        three = functools.partial(number, digits=3)
        until = "" if kl.last_common_epoch is None else f" to epoch {kl.last_common_epoch + 1}"
        column(f"KL, running mean{until}", (arm.running_mean for arm in kl.arms), three)
        column("KL, mean of epochs", (arm.loss_mean for arm in kl.arms), three)
        column("KL, late", (arm.loss_late for arm in kl.arms), three)
    if not columns:
        return []
    title = " and ".join(["Validation reward"] * (validation is not None) + ["KL"] * (kl is not None))
    note = "Mean over seeds, in brackets the lowest and the highest; not smoothed."
    return [(title, f"{of_arms(shown.names, columns)}\n\n{note}")]


def figures(shown: Shown, validation: Validation | None, kl: KLs | None) -> dict[str, Any]:
    """Validation reward by epochs of training, and reward against KL."""
    drawn = {}
    if validation is not None:
        figure = palette.new_figure(7, 4.4)
        axes = figure.subplots()
        held = [arm.curve for arm in validation.arms]
        draw.curves(axes, shown, held, "", first=0, xlabel="epochs of training", window=1)
        axes.set_ylabel("validation reward")
        small = draw.caption(shown, "each evaluation, not smoothed")
        drawn["validation"] = draw.finished(figure, axes, "Reward on the test prompts", small)
    if kl is not None and any(way.kl for arm in kl.arms for way in arm.reward_against_kl):
        drawn["pareto"] = _pareto(shown, kl)
    return drawn


def _pareto(shown: Shown, kl: KLs) -> Any:
    """As in the paper's Figure 5 c and d: a line per run, from a hollow marker to a large one."""
    figure = palette.new_figure(7, 4.8)
    axes = figure.subplots()
    sources = set()

    def end(x: Any, y: Any, shape: str, **options: Any) -> None:
        axes.scatter(x, y, s=64, marker=shape, linewidths=1.3, zorder=3, **options)

    for arm, held in zip(shown.arms, kl.arms, strict=True):
        look = arm.look
        for n, way in enumerate(way for way in held.reward_against_kl if way.kl):
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
