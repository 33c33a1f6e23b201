"""The policies of a run that ``evaluate`` drew from, and the one between them that has a given reward."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pcpo_overlay.tools.faults import printable
from pcpo_overlay.tools.runs.arms import Arm
from pcpo_overlay.tools.runs.run import Run

if TYPE_CHECKING:
    import pandas as pd

#: What is of a set of images: over all of them another number than the mean of the prompts' own, ``KEY_prompt``.
OF_SETS = ("frechet", "fid", "fd-dinov2", "fd-digit", "is")


@dataclass(frozen=True)
class Point:
    """A policy on its run's way; between two checkpoints everything is interpolated.

    Attributes:
        epoch: epochs of training before it.
        values: what was measured of all its images, the reward among it, and of :data:`OF_SETS` the prompts' mean.
        prompts: the same by prompt.
    """

    epoch: float
    values: Mapping[str, float]
    prompts: Mapping[str, Mapping[str, float]]

    @property
    def reward(self) -> float:
        """The mean training reward of its images."""
        return self.values["reward"]


def points(run: Run) -> list[Point]:
    """The evaluated policies of a run, in the order of training."""
    held = []
    for line in run.quality:
        prompts = line["prompts"]
        means = {
            f"{key}_prompt": math.fsum(values[key] for values in prompts.values()) / len(prompts)
            for key in OF_SETS
            if all(key in values for values in prompts.values())
        }
        held.append(Point(line["epoch"], {**line["overall"], **means}, prompts))
    return held


def measured(runs: Sequence[Run]) -> list[str]:
    """What is known of every evaluated policy of these runs, the reward first."""
    known = [list(point.values) for run in runs for point in points(run)]
    shared = set.intersection(*map(set, known)) if known else set()
    return ["reward", *(key for key in (known[0] if known else ()) if key in shared - {"reward"})]


def at_reward(way: Sequence[Point], level: float) -> Point | None:
    """The policy of a run when its reward first reached a level.

    That is on the line from the last checkpoint before the first that stands at the level or above, to that one. So the
    reward is the same in every run though checkpoints are epochs apart, and an arm that learns faster, whose checkpoint
    lies further above the level, is not blamed for what that cost.

    Args:
        way: in the order of training.
        level: of reward.

    Returns:
        None where no checkpoint is at the level, or the first of all already is above it.
    """
    above = next((n for n, point in enumerate(way) if point.reward >= level), None)
    if above is None:
        return None
    after = way[above]
    if after.reward == level:
        return after
    if above == 0:
        return None
    before = way[above - 1]
    share = (level - before.reward) / (after.reward - before.reward)

    def between(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
        return {key: a[key] + share * (b[key] - a[key]) for key in b if key in a}

    return Point(
        before.epoch + share * (after.epoch - before.epoch),
        between(before.values, after.values),
        {prompt: between(before.prompts[prompt], after.prompts[prompt]) for prompt in after.prompts},
    )


def matched(runs: Sequence[Run], level: float, keys: Sequence[str]) -> pd.DataFrame:
    """What was measured, of ``keys``, of those runs that reached a level when they did, and their epoch then.

    A row is a run, named by its seed and which of that seed's runs it is, since a seed may be there twice.
    """
    import pandas as pd

    seeds = [run.seed for run in runs]
    held = {
        f"{run.seed}.{seeds[:n].count(run.seed)}": at_reward(points(run), level) for n, run in enumerate(runs)
    }
    rows = {name: {**point.values, "epoch": point.epoch} for name, point in held.items() if point is not None}
    return pd.DataFrame(list(rows.values()), list(rows), ["epoch", *keys], dtype="float64")


def way(run: Run) -> pd.DataFrame:
    """What was measured of a run's policies by epochs of training before them; of a repeated one the last counts."""
    import pandas as pd

    held = {int(point.epoch): point.values for point in points(run)}
    return pd.DataFrame(list(held.values()), pd.Index(list(held), dtype="int64"), dtype="float64")


def evaluated(arms: Sequence[Arm]) -> tuple[dict[str, list[Run]], list[str]]:
    """The runs whose evaluations can be compared, by label, and what a reader has to know about the others.

    Returns:
        No arm where none was evaluated, or some with different settings; else all arms, of which some may have no run.
    """
    runs = [run for arm in arms for run in arm.runs]
    held = [run for run in runs if len(run.quality) > 1]
    if len({run.quality[0].get("digest") for run in held}) > 1:
        return {}, [
            "the runs were evaluated with different settings (samples, seed, sampler, reward or base model), so their "
            "quality is not compared; evaluate them all alike: "
            + "; ".join(f"`{run.name}`: {_settings(run)}" for run in held)
        ]
    if not held:
        return {}, []
    missing = ", ".join(f"`{run.name}`" for run in runs if len(run.quality) < 2)
    told = [f"not evaluated, and so not in the tables on quality: {missing}"] if missing else []
    return {arm.label: [run for run in arm.runs if len(run.quality) > 1] for arm in arms}, told


def _settings(run: Run) -> str:
    settings = run.quality[0].get("settings", {})
    sampler = ", ".join(f"{key} {value}" for key, value in (settings.get("sampler") or {}).items())
    return printable(f"{settings.get('samples')} samples, seed {settings.get('seed')}, {sampler}")
