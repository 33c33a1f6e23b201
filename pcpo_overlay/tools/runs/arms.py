"""The arms of a comparison: runs that differ in nothing but their seed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pcpo_overlay.config import MODES
from pcpo_overlay.tools.faults import printable
from pcpo_overlay.tools.runs.run import Run
from pcpo_overlay.trainers import TRAINERS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Arm:
    """Runs of one upstream with one label, one per seed."""

    upstream: str
    label: str
    runs: list[Run]

    @property
    def mode(self) -> str:
        """The mode without its options."""
        return self.label.partition(",")[0]

    def until(self, epoch: int) -> Arm:
        """The same runs as they were after this epoch."""
        return replace(self, runs=[run.until(epoch) for run in self.runs])

    def mean(self, key: str) -> pd.Series:
        """Mean over the seeds by epoch, at the epochs that every seed has."""
        return common([run.series(key) for run in self.runs]).mean(axis=1)


def common(many: Sequence[pd.Series]) -> pd.DataFrame:
    """Several series as columns, at the epochs that every one of them has.

    Not at the others: where one seed ends early, the mean over the rest would jump though no run did.
    """
    import pandas as pd

    if len(many) < 2:
        return pd.DataFrame(dict(enumerate(many)))
    return pd.concat(many, axis=1, join="inner", keys=range(len(many))).sort_index()


def by_upstream(runs: Iterable[Run]) -> dict[str, list[Arm]]:
    """Arms by upstream, in the order of the ablation ladder, then by label, numbers by their size; runs by seed."""
    gathered: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        gathered.setdefault((compared_with(run.upstream), run.label), []).append(run)
    upstreams: dict[str, list[Arm]] = {}
    for (upstream, label), members in sorted(
        gathered.items(), key=lambda item: (item[0][0], _rung(item[0][1]))
    ):
        members.sort(key=lambda run: (run.seed is None, run.seed or 0, str(run.path)))
        upstreams.setdefault(upstream, []).append(Arm(upstream, label, members))
    return upstreams


def compared_with(upstream: str) -> str:
    """The trainer by whose name its runs are compared: its own, or that of the one it is a rival of."""
    trainer = TRAINERS.get(upstream)
    return trainer.rival_of or upstream if trainer else upstream


_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)")


def _rung(label: str) -> tuple[int, list[str | float]]:
    """The mode's, and the label with its numbers as such: a power of -1 comes before -0.5, and that before 0.5."""
    mode = label.partition(",")[0]
    parts: list[str | float] = [float(part) if n % 2 else part for n, part in enumerate(_NUMBER.split(label))]
    return (MODES.index(mode) if mode in MODES else len(MODES), parts)


def by_batch_size(arms: Sequence[Arm]) -> dict[int | None, list[Arm]]:
    """The arms by samples an epoch, ascending; all together where no label has runs of several sizes."""
    sizes = {arm.label: {run.samples_per_epoch for run in arm.runs} for arm in arms}
    if all(len(held) == 1 for held in sizes.values()):
        return {None: list(arms)}
    ascending = sorted(
        {size for held in sizes.values() for size in held}, key=lambda size: (size is None, size or 0)
    )
    return {
        size: [
            replace(arm, runs=[run for run in arm.runs if run.samples_per_epoch == size])
            for arm in arms
            if size in sizes[arm.label]
        ]
        for size in ascending
    }


def last_common(many: Sequence[pd.Series]) -> int | None:
    """The last epoch that every one of them has."""
    shared = common(many).index
    return int(shared[-1]) if len(shared) else None


def stopped_apart(arms: Sequence[Arm]) -> bool:
    """Whether endless runs were stopped here and there, so that numbers are to be of the epochs that all have."""
    runs = [run for arm in arms for run in arm.runs]
    return any(run.endless for run in runs) and len({len(run.epochs) for run in runs}) > 1


def gradient_layers(arms: Sequence[Arm]) -> list[str]:
    """The names of the layers whose gradients were recorded by themselves."""
    lines = (line for arm in arms for run in arm.runs for line in run.epochs)
    return sorted({printable(line["grad_layer"]) for line in lines if line.get("grad_layer")})
