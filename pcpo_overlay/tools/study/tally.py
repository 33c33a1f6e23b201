"""Wins, ties and losses of the first arm, with intervals clustered by participant.

A participant's answers are not independent, so whole participants are resampled: the interval is that of a percentile
bootstrap over them, of the ratio of sums ``sum_i w_i / sum_i n_i`` with ``w_i`` of ``n_i`` answers of participant i.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pcpo_overlay.tools.report.stats import Estimate, bootstrap, resamples
from pcpo_overlay.tools.study.answers import Vote

if TYPE_CHECKING:
    from numpy.typing import NDArray

OUTCOMES = ("win", "tie", "loss")


@dataclass(frozen=True)
class Tally:
    """One category of one comparison; shares in percent of the answers.

    Attributes:
        against: the place of the arm that the first one was compared with.
        category: its name.
        answers: how many.
        participants: who gave them.
        win, tie, loss: of the first arm.
        lead: win less loss.
    """

    against: int
    category: str
    answers: int
    participants: int
    win: Estimate
    tie: Estimate
    loss: Estimate
    lead: Estimate


def share(votes: Sequence[Vote], value: Callable[[Vote], float]) -> Estimate:
    """The mean of a value over answers, in percent, and its interval over participants.

    There is no interval with fewer than 3 participants, nor where every resample has the same mean: where all of them
    answered alike the bootstrap knows nothing of those who did not come.
    """
    import numpy as np

    if not votes:
        return Estimate()
    of: dict[int, list[float]] = defaultdict(list)
    for vote in votes:
        of[vote.participant].append(100.0 * value(vote))
    total, count = (np.array([f(held) for held in of.values()], dtype=float) for f in (sum, len))
    mean = float(total.sum() / count.sum())
    drawn = [list(chosen) for chosen, _ in resamples(len(of))]
    means: NDArray[np.float64] = np.array([total[chosen].sum() / count[chosen].sum() for chosen in drawn])
    if not len(means) or np.ptp(means) < 1e-9:
        return Estimate(mean)
    return bootstrap(mean, len(of), means.tolist())


def tallies(votes: Sequence[Vote], categories: Sequence[str], arms: int) -> list[Tally]:
    """One for every comparison and category, in their order, those without answers too."""
    found = []
    for against in range(1, arms):
        for category in categories:
            held = [v for v in votes if v.against == against and v.category == category]
            win, tie, loss = (share(held, functools.partial(_is, outcome)) for outcome in OUTCOMES)
            lead = share(held, lambda v: (v.outcome == "win") - (v.outcome == "loss"))
            people = len({v.participant for v in held})
            found.append(Tally(against, category, len(held), people, win, tie, loss, lead))
    return found


def _is(outcome: str, vote: Vote) -> float:
    return float(vote.outcome == outcome)


def left_share(votes: Sequence[Vote]) -> Estimate:
    """How often the left picture was chosen where one was; sides are random, so 50% but for habit."""
    decided = [v for v in votes if v.choice != "same"]
    return share(decided, lambda v: v.choice == "left")
