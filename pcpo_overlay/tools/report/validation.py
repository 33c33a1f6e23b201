"""Chapter: validation reward, KL to the reference policy, and the one against the other, where a trainer has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pcpo_overlay.tools import palette
from pcpo_overlay.tools.report import draw, stats
from pcpo_overlay.tools.report.arms import Material, Shown
from pcpo_overlay.tools.report.stats import Curve, Estimate
from pcpo_overlay.tools.report.text import estimated, number, table
from pcpo_overlay.tools.report.text import reward as told
from pcpo_overlay.tools.runs.arms import Arm, common
from pcpo_overlay.tools.runs.run import Run

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
    if not held:
        return None
    at = _last_common(held)
    return Validation(at, [_arm_validation(arm, at) for arm in material.arms])


def _last_common(many: Sequence[Any]) -> int | None:
    shared = common(many).index
    return int(shared[-1]) if len(shared) else None


def _arm_validation(arm: Arm, at: int | None) -> ArmValidation:
    runs = [run for run in arm.runs if len(run.validation())]
    held = [run.validation() for run in runs]
    until = [s if at is None else s[s.index <= at] for s in held]
    return ArmValidation(
        len(runs),
        stats.spread(float(s[at]) for s in held if at is not None and at in s.index),
        stats.spread(float(s.max()) if len(s) else None for s in until),
        stats.curve(runs, Run.validation, 1),
    )


def warnings(arms: Sequence[Arm], named: Sequence[str], validation: Validation) -> list[str]:
    """What a reader has to know about an arm in a comparison where some run was evaluated."""
    at, made = validation.last_common_evaluation, []
    for arm, name in zip(arms, named, strict=True):
        if at is None:
            made.append(
                f"{name}: its validation reward is not compared, since the runs have no evaluation in common"
            )
            continue
        missing = [f"`{run.name}`" for run in arm.runs if at not in run.validation().index]
        if missing:
            made.append(
                f"{name}: no evaluation in {', '.join(missing)}, so the arm's validation reward is that of "
                f"{len(arm.runs) - len(missing)} of {len(arm.runs)} runs"
            )
    return made


def describe_kl(material: Material) -> KLs | None:
    """The KLs, where any run recorded one."""
    if not any(len(run.series(key)) for run in material.runs for key in _KL):
        return None
    last = _last_common([s for run in material.runs if len(s := run.series("kl_running_mean"))])
    return KLs(last, [_arm_kl(arm, last, material.window) for arm in material.arms])


def _arm_kl(arm: Arm, last: int | None, window: int) -> ArmKL:
    ends, means, lates = [], [], []
    for run in arm.runs:
        running, loss = run.series("kl_running_mean"), run.series("kl_loss")
        if last is not None and last in running.index:
            ends.append(float(running[last]))
        loss = loss if last is None else loss[loss.index <= last]
        means.append(stats.mean(loss))
        lates.append(stats.mean(loss[stats.early_late(loss.index, window)[1]]))
    return ArmKL(
        stats.spread(ends),
        stats.spread(means),
        stats.spread(lates),
        {key: stats.curve(arm.runs, key, window) for key in _KL},
        [way for run in arm.runs if (way := _way(run, window)) is not None],
    )


def _way(run: Run, window: int) -> Way | None:
    """A point is the policy after so many epochs of training: its reward, and the running mean of the KL until then.

    An epoch's samples were drawn before its training, so the training reward of epoch ``e``, counted from 0, is of the
    policy after ``e``.
    """
    kl = run.series("kl_running_mean")
    if not len(kl):
        return None
    validation = run.validation()
    validated = any(after > 0 for after in validation.index)
    rewards = validation if validated else stats.moving_average(run.series("reward_mean"), window)
    rewards = rewards[[after == 0 or after - 1 in kl.index for after in rewards.index]]
    after = [int(epoch) for epoch in rewards.index]
    source = "validation" if validated else "training"
    return Way(
        run.name, run.seed, source, after, [float(kl[e - 1]) if e else 0.0 for e in after], rewards.tolist()
    )


def tables(shown: Shown, validation: Validation | None, kl: KLs | None) -> list[tuple[str, str]]:
    """Title and Markdown of what there is."""
    columns: list[tuple[str, list[str]]] = []

    def column(head: str, held: Sequence[Estimate], is_reward: bool) -> None:
        def cell(value: float | None) -> str:
            return told(value, shown.digits) if is_reward else number(value, 3)

        columns.append(
            (
                head,
                [
                    estimated(e, cell) if arm.seeds > 1 and e.mean is not None else cell(e.mean)
                    for arm, e in zip(shown.arms, held, strict=True)
                ],
            )
        )

    if validation is not None:
        at = validation.last_common_evaluation
        head = (
            "reward at the last common evaluation" if at is None else f"reward after epoch {at} (last common)"
        )
        column(head, [arm.at_last_common_evaluation for arm in validation.arms], True)
        column("best until then", [arm.best for arm in validation.arms], True)
    if kl is not None:
        until = "" if kl.last_common_epoch is None else f" to epoch {kl.last_common_epoch + 1}"
        column(f"KL, running mean{until}", [arm.running_mean for arm in kl.arms], False)
        column("KL, mean of epochs", [arm.loss_mean for arm in kl.arms], False)
        column("KL, late", [arm.loss_late for arm in kl.arms], False)
    if not columns:
        return []
    title = " and ".join(
        name for name, held in (("Validation reward", validation), ("KL", kl)) if held is not None
    )
    rows = [[arm.name, *(cells[n] for _, cells in columns)] for n, arm in enumerate(shown.arms)]
    text = table(["arm", *(name for name, _ in columns)], rows, left=1)
    return [(title, f"{text}\n\nMean over seeds, in brackets the lowest and the highest; not smoothed.")]


def figures(shown: Shown, validation: Validation | None, kl: KLs | None) -> dict[str, Any]:
    """Validation reward by epochs of training, and reward against KL."""
    drawn = {}
    if validation is not None:
        figure = palette.new_figure(7, 4.4)
        axes = figure.subplots()
        held = [arm.curve for arm in validation.arms]
        draw.curves(axes, shown, held, "", first=0, xlabel="epochs of training", window=1)
        axes.set_ylabel("validation reward")
        small = "; ".join(
            filter(None, ["each evaluation, not smoothed", draw.caption(shown, smoothed=False)])
        )
        draw.heading(figure, "Reward on the test prompts", small)
        palette.legend_below(figure, axes)
        drawn["validation"] = figure
    if kl is not None and any(way.kl for arm in kl.arms for way in arm.reward_against_kl):
        drawn["pareto"] = _pareto(shown, kl)
    return drawn


def _pareto(shown: Shown, kl: KLs) -> Any:
    """As in the paper's Figure 5 c and d: a line per run, from a hollow marker to a large one."""
    figure = palette.new_figure(7, 4.8)
    axes = figure.subplots()
    sources = set()
    for arm, held in zip(shown.arms, kl.arms, strict=True):
        look = arm.look
        for n, way in enumerate(way for way in held.reward_against_kl if way.kl):
            sources.add(way.source)
            axes.plot(
                way.kl, way.reward, color=look.colour, linestyle=look.line, linewidth=1.5, marker=look.marker,
                label=None if n else arm.legend, markersize=3.5 if len(way.kl) <= draw.MARKED else 0,
            )  # fmt: skip
            _end(axes, way.kl[0], way.reward[0], look.marker, facecolor="white", edgecolor=look.colour)
            _end(axes, way.kl[-1], way.reward[-1], look.marker, facecolor=look.colour, edgecolor="black")
    _end(axes, [], [], "o", facecolor="white", edgecolor="#555555", label="start of a run")
    _end(axes, [], [], "o", facecolor=palette.NEUTRAL, edgecolor="black", label="its end")
    palette.plain(
        axes,
        xlabel="KL to the reference policy, mean over the epochs so far",
        ylabel=_reward_axis(sources, shown.window),
    )
    draw.heading(figure, "Reward against KL, one line per run", "up and to the left is better")
    palette.legend_below(figure, axes)
    return figure


def _end(axes: Any, x: Any, y: Any, shape: str, **options: Any) -> None:
    axes.scatter(x, y, s=64, marker=shape, linewidths=1.3, zorder=3, **options)


def _reward_axis(sources: set[str], window: int) -> str:
    training = f"training reward, moving average of {window} epochs"
    if sources == {"validation"}:
        return "validation reward"
    return training if sources == {"training"} else f"validation reward; where there is none,\n{training}"
