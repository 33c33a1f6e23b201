"""What ``evaluate`` measured of checkpoints, compared where the arms have the same reward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pcpo_overlay.tools.report import stats
from pcpo_overlay.tools.runs.run import Run

#: What is measured by prompt.
PER_PROMPT = ("accuracy", "diversity", "frechet", "reward")
#: What the tables compare: over all prompts, but ``frechet_prompt``, which is the mean of the prompts' own distances.
METRICS = ("accuracy", "diversity", "frechet_prompt", "frechet")


@dataclass(frozen=True)
class Point:
    """A policy on its run's way; between two checkpoints everything is interpolated.

    Attributes:
        epoch: epochs of training before it.
        values: ``reward`` and :data:`METRICS`.
        prompts: :data:`PER_PROMPT` by prompt.
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
        distances = [values["frechet"] for values in prompts.values()]
        values = {**line["overall"], "frechet_prompt": stats.mean(distances)}
        held.append(Point(line["epoch"], values, prompts))
    return held


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
        return {key: a[key] + share * (b[key] - a[key]) for key in b}

    return Point(
        before.epoch + share * (after.epoch - before.epoch),
        between(before.values, after.values),
        {prompt: between(before.prompts[prompt], after.prompts[prompt]) for prompt in after.prompts},
    )


def levels(runs: Sequence[Run]) -> list[float]:
    """Levels of reward that every one of these evaluated runs passes, by the rule of :func:`stats.levels`."""
    ways = [points(run) for run in runs]
    return stats.levels([way[0].reward for way in ways], [max(p.reward for p in way) for way in ways])


def evaluated(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs whose evaluations can be compared, and what a reader has to know about the others.

    Returns:
        None of them where they were evaluated with different settings.
    """
    held = [run for run in runs if len(run.quality) > 1]
    if not held:
        return [], []
    if len({run.quality[0].get("digest") for run in held}) > 1:
        return [], [
            "the runs were evaluated with different settings (samples, seed, sampler, reward or base model), so their "
            "quality is not compared; evaluate them all alike: "
            + "; ".join(f"`{run.path.name}`: {_told(run)}" for run in held)
        ]
    missing = [f"`{run.path.name}`" for run in runs if run not in held]
    if not missing:
        return held, []
    return held, [f"not evaluated, and so not in the tables on quality: {', '.join(missing)}"]


def _told(run: Run) -> str:
    settings = run.quality[0].get("settings", {})
    sampler = ", ".join(f"{key} {value}" for key, value in settings.get("sampler", {}).items())
    return f"{settings.get('samples')} samples, seed {settings.get('seed')}, {sampler}"


def describe(
    arms: Mapping[str, Sequence[Run]], baseline: str, thresholds: Sequence[float] | None = None
) -> dict[str, Any] | None:
    """The quality of evaluated runs, for the document.

    Args:
        arms: runs by label, all evaluated with the same settings; an arm may have none.
        baseline: the label of the arm that the others are held against.
        thresholds: levels of reward; None lets :func:`levels` choose them.

    Returns:
        None where no arm has a run.
    """
    runs = [run for members in arms.values() for run in members]
    if not runs:
        return None
    chosen = list(thresholds) if thresholds is not None else levels(runs)
    settings = runs[0].quality[0].get("settings", {})
    return {
        "settings": {key: settings.get(key) for key in ("samples", "seed", "sampler", "reward")},
        "policies": [len(run.quality) for run in runs],
        "levels": [_level(arms, baseline, level) for level in chosen],
        "last": _last(arms),
        "ways": {label: [_way(run) for run in members] for label, members in arms.items()},
    }


def _level(arms: Mapping[str, Sequence[Run]], baseline: str, level: float) -> dict[str, Any]:
    reached: dict[str, dict[tuple[int | None, int], Point]] = {}
    for label, members in arms.items():
        reached[label] = {}
        seeds: Counter[int | None] = Counter()  # a seed may be there twice
        for run in members:
            seeds[run.seed] += 1
            point = at_reward(points(run), level)
            if point is not None:
                reached[label][run.seed, seeds[run.seed]] = point
    described = []
    for label, by_seed in reached.items():
        entry = {
            "label": label,
            "runs": len(by_seed),
            "epochs": stats.estimate([point.epoch for point in by_seed.values()]),
            **{key: stats.estimate([point.values[key] for point in by_seed.values()]) for key in METRICS},
        }
        if label != baseline:
            entry["difference"] = _difference(by_seed, reached.get(baseline, {}))
        described.append(entry)
    return {"reward": level, "arms": described}


def _difference(arm: Mapping[Any, Point], baseline: Mapping[Any, Point]) -> dict[str, Any]:
    """An arm's metrics minus the baseline's, seed by seed over the seeds that both have."""
    seeds = [seed for seed in arm if seed in baseline]
    return {
        "runs": len(seeds),
        **{
            key: stats.estimate([arm[seed].values[key] - baseline[seed].values[key] for seed in seeds])
            for key in METRICS
        },
    }


def _last(arms: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """The numbers at the last checkpoint that every run has, and of the base model."""
    runs = [run for members in arms.values() for run in members]
    by_run = {run.path: {int(p.epoch): p for p in points(run)} for run in runs}
    common = stats.common_epochs([{epoch: p.reward for epoch, p in held.items()} for held in by_run.values()])
    last = max((epoch for epoch in common if epoch > 0), default=None)
    keys = ("reward", *METRICS)
    base = next((held[0] for held in by_run.values() if 0 in held), None)
    return {
        "epoch": last,
        "base": None if base is None else {key: base.values[key] for key in keys},
        "arms": [
            {
                "label": label,
                "runs": len(members),
                **{
                    key: stats.estimate(
                        [] if last is None else [by_run[run.path][last].values[key] for run in members]
                    )
                    for key in keys
                },
            }
            for label, members in arms.items()
        ],
    }


def _way(run: Run) -> dict[str, Any]:
    way = points(run)
    return {
        "run": run.path.name,
        "seed": run.seed,
        "epoch": [point.epoch for point in way],
        **{key: [point.values[key] for point in way] for key in ("reward", *METRICS)},
    }
