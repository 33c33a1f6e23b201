"""Validation reward, KL to the reference policy, and the one against the other, for upstreams that have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pcpo_overlay.tools.report import stats
from pcpo_overlay.tools.runs.run import Run

#: What an epoch holds of the KL: its own mean, and the mean over all epochs from the first to it.
KL = ("kl_loss", "kl_running_mean")


def has_evaluations(runs: Sequence[Run]) -> bool:
    """Whether any run was evaluated."""
    return any(run.validation() for run in runs)


def has_kl(runs: Sequence[Run]) -> bool:
    """Whether any run recorded a KL."""
    return any(run.series(key) for run in runs for key in KL)


def last_common_evaluation(runs: Sequence[Run]) -> int | None:
    """The last evaluation that every run has which was evaluated at all: epochs of training before it."""
    return max(stats.common_epochs([s for run in runs if (s := run.validation())]), default=None)


def last_common_kl(runs: Sequence[Run]) -> int | None:
    """The last epoch, counted from 0, that every run has which recorded a running mean of the KL."""
    return max(stats.common_epochs([s for run in runs if (s := run.series("kl_running_mean"))]), default=None)


def describe_validation(runs: Sequence[Run], at: int | None) -> dict[str, Any]:
    """An arm's validation reward, mean and extremes over its runs, each up to the same evaluation.

    Args:
        runs: of one arm.
        at: that evaluation, see :func:`last_common_evaluation`.
    """
    held = [s for run in runs if (s := run.validation())]
    return {
        "runs": len(held),
        "at_last_common_evaluation": stats.spread([s[at] for s in held if at in s]),
        "best": stats.spread(
            [max((v for e, v in s.items() if at is None or e <= at), default=None) for s in held]
        ),
    }


def describe_kl(runs: Sequence[Run], last: int | None, window: int) -> dict[str, Any]:
    """An arm's KL, mean and extremes over its runs, each up to the same epoch.

    Args:
        runs: of one arm.
        last: that epoch, see :func:`last_common_kl`.
        window: how many epochs "late" is.
    """
    ends, means, lates = [], [], []
    for run in runs:
        running = run.series("kl_running_mean")
        if last is not None and last in running:
            ends.append(running[last])
        loss = {e: v for e, v in run.series("kl_loss").items() if last is None or e <= last}
        if loss:
            means.append(stats.mean(loss.values()))
            late = stats.early_late(list(loss), window)[1]
            lates.append(stats.mean(loss[epoch] for epoch in late))
    return {
        "running_mean": stats.spread(ends),
        "loss_mean": stats.spread(means),
        "loss_late": stats.spread(lates),
    }


def reward_against_kl(run: Run, window: int) -> dict[str, Any] | None:
    """A run's way through the plane of KL and reward (the paper's Figure 5 c, d); None without KL.

    A point is the policy after so many epochs of training: the reward it was evaluated with, and the running mean of
    the KL over those epochs, 0 before the first. Where no evaluation followed any training the training reward stands
    in, smoothed: an epoch's samples were drawn before its training, so that of epoch ``e``, counted from 0, is of the
    policy after ``e``.

    Args:
        run: any.
        window: of the training reward's moving average.
    """
    kl = run.series("kl_running_mean")
    if not kl:
        return None
    validation = run.validation()
    if not any(after > 0 for after in validation):
        validation = {}
    rewards = validation or stats.moving_average(run.series("reward_mean"), window)
    points = [
        (after, kl[after - 1] if after else 0.0, rewards[after])
        for after in sorted(rewards)
        if after == 0 or after - 1 in kl
    ]
    return {
        "run": run.path.name,
        "seed": run.seed,
        "source": "validation" if validation else "training",
        "epochs": [after for after, _, _ in points],
        "kl": [x for _, x, _ in points],
        "reward": [y for _, _, y in points],
    }


def warnings(label: str, runs: Sequence[Run], at: int | None) -> list[str]:
    """What a reader has to know about an arm in a comparison where some run was evaluated."""
    if at is None:
        return [
            f"{label}: its validation reward is not compared, since the runs have no evaluation in common"
        ]
    missing = [f"`{run.path.name}`" for run in runs if at not in run.validation()]
    if not missing:
        return []
    return [
        f"{label}: no evaluation in {', '.join(missing)}, so the arm's validation reward is that of "
        f"{len(runs) - len(missing)} of {len(runs)} runs"
    ]
