"""The tracker that a trainer has open, wandb or any of accelerate's: PCPO's metrics go there as well."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from pcpo_overlay.messages import say

#: What its names begin with there.
SECTION = "pcpo/"
#: The metrics of an optimizer step and of an epoch that are worth a chart each.
SHOWN = (
    "loss", "fraction_outside", "fraction_above", "fraction_below", "fraction_masked", "ratio_mean", "ratio_std",
    "ratio_min", "ratio_max", "credit_std", "kl", "kl_loss", "grad_norm", "nonfinite", "reward_mean", "reward_std",
    "groups_without_spread", "on_policy_fraction_outside", "alarms", "seconds_sampling", "seconds_training",
    "peak_memory_bytes", "tape_bytes",
)  # fmt: skip
#: What is drawn of every timestep, and once in how many epochs.
TIMESTEPS = ("fraction_outside", "fraction_masked", "kl")
EVERY = 10
#: wandb takes no more bars in a histogram.
_MOST_BARS = 512


class Tracker:
    """What the main rank sends to the trainer's own tracker, in rows of the trainer's own steps.

    A trainer may open it after the start hook, so it is looked for whenever there is something to send. Nothing is
    imported for it: a trainer without wandb stays without. What fails is said once and left alone from then on.

    Args:
        ranks: accelerate's Accelerator, which keeps its trackers, or what stands in its place.
        mode: with its options, for wandb's table of runs.
    """

    def __init__(self, ranks: Any, mode: str) -> None:
        self._ranks = ranks
        self._mode = mode
        self._configured: Any = None
        self._failed: set[str] = set()

    def log(self, record: Mapping[str, Any], step: int) -> None:
        """Send the numbers of a record that are worth a chart."""
        values = {name: record.get(name) for name in SHOWN}
        values |= {f"reward/{name}": value for name, value in (record.get("rewards") or {}).items()}
        shown = {
            SECTION + name: value
            for name, value in values.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        self._each(
            lambda wandb, run: run.log(shown, step=step), lambda tracker: tracker.log(shown, step=step)
        )

    def log_timesteps(self, table: Mapping[str, Sequence[float]], step: int) -> None:
        """Send what every timestep had, as a histogram over the timesteps: in wandb a map of steps and timesteps.

        Args:
            table: ``per_timestep`` of a record.
        """
        times = list(table["timestep"])[::-1]
        if not 0 < len(times) <= _MOST_BARS:
            return
        inner = [(a + b) / 2 for a, b in pairwise(times)]
        width = inner[0] - times[0] if inner else 0.5
        edges = [times[0] - width, *inner, 2 * times[-1] - inner[-1] if inner else times[-1] + width]
        for name in TIMESTEPS:
            bars = list(table.get(name, ()))[::-1]
            if len(bars) != len(times) or not all(map(math.isfinite, bars)):
                continue
            key = f"{SECTION}timesteps/{name}"
            histogram = {
                "min": edges[0],
                "max": edges[-1],
                "num": sum(bars),
                "sum": sum(n * t for n, t in zip(bars, times, strict=True)),
                "sum_squares": sum(n * t * t for n, t in zip(bars, times, strict=True)),
                "bucket_limits": edges[1:],
                "bucket_counts": bars,
            }

            def to_wandb(wandb: Any, run: Any, key: str = key, bars: list[float] = bars) -> None:
                run.log({key: wandb.Histogram(np_histogram=(bars, edges))}, step=step)

            def to_tracker(tracker: Any, key: str = key, histogram: dict[str, Any] = histogram) -> None:
                if tracker.name == "tensorboard":
                    tracker.tracker.add_histogram_raw(key, **histogram, global_step=step)

            self._each(to_wandb, to_tracker)

    def _each(self, to_wandb: Callable[[Any, Any], None], to_tracker: Callable[[Any], None]) -> None:
        """Send to each tracker that is open; of accelerate's, wandb is the same run."""
        wandb = sys.modules.get("wandb")
        run = getattr(wandb, "run", None)
        if run is not None:
            self._send("wandb", lambda: self._to_wandb(wandb, run, to_wandb))
        for tracker in getattr(self._ranks, "trackers", ()):
            name = getattr(tracker, "name", type(tracker).__name__)
            if name != "wandb":
                self._send(name, lambda tracker=tracker: to_tracker(tracker))  # type: ignore[misc]

    def _to_wandb(self, wandb: Any, run: Any, send: Callable[[Any, Any], None]) -> None:
        """Send, and once before it the mode, as a column of wandb's table of runs."""
        if self._configured is not run:
            self._configured = run
            run.config.update({"pcpo": self._mode}, allow_val_change=True)
        send(wandb, run)

    def _send(self, name: str, send: Callable[[], Any]) -> None:
        if name in self._failed:
            return
        try:
            send()
        except Exception as error:
            self._failed.add(name)
            say(
                f"warning: {name} does not take PCPO's metrics ({type(error).__name__}: {error}); the run folder has "
                "them, the training goes on"
            )
