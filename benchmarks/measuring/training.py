"""Whole training steps and epochs of each patched upstream on its miniature, and the memory they take."""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import in_turn
from benchmarks.measuring.miniature_run import Miniatures
from benchmarks.measuring.pairs import ratio_of
from benchmarks.measuring.tables import Section, judge, mib, seconds
from benchmarks.measuring.turns import Laps, race
from pcpo_overlay.tools.ab.upstreams import UPSTREAMS, Upstream

#: By name: the mode that runs. The second `off` says how far two runs of the same are apart.
ARMS = {"off": "off", "again": "off", "observe": "observe", "full": "full"}
GOALS = {"full": 1.0, "observe": 1.02}

_SD = (
    "--config.sample.num_steps=5", "--config.sample.batch_size=16", "--config.sample.num_batches_per_epoch=3",
    "--config.train.batch_size=16", "--config.train.gradient_accumulation_steps=1",
)  # fmt: skip
_SD3 = (
    "--config.sample.num_steps=5", "--config.sample.train_batch_size=16",
    "--config.sample.num_batches_per_epoch=4", "--config.train.batch_size=16",
    "--config.train.gradient_accumulation_steps=1", "--config.sample.eval_num_steps=1",
    "--config.eval_freq=1000000",
)  # fmt: skip
_DANCE_SD = (
    "--config.sample.num_steps=5", "--config.num_generations=4", "--config.train.gradient_accumulation_steps=1",
)  # fmt: skip
_FLUX = (
    "--train_batch_size=4", "--train_sp_batch_size=4", "--num_generations=4", "--sampling_steps=6",
    "--gradient_accumulation_steps=4",
)  # fmt: skip
#: Settings that make an epoch of a miniature some seconds long, of three or four optimizer steps. A script that is not
#: named runs as its miniature's config has it.
SHORT: Mapping[str, Sequence[str]] = {
    "ddpo": _SD,
    "flow_grpo": _SD3,
    "dancegrpo_sd": _DANCE_SD,
    "dancegrpo_flux": _FLUX,
    "dancegrpo_flux_lora": _FLUX,
}


@dataclass(frozen=True)
class Measured:
    """Arms of one upstream.

    Attributes:
        laps: by arm, from optimizer step to optimizer step.
        steps: optimizer steps of an epoch.
    """

    upstream: str
    laps: dict[str, Laps]
    steps: int

    def epochs(self, arm: str, clock: str) -> list[float]:
        """Seconds of each epoch but the first, from its predecessor's last optimizer step to its own."""
        laps = getattr(self.laps[arm], clock)
        return [
            sum(laps[n : n + self.steps]) for n in range(self.steps, len(laps) - self.steps + 1, self.steps)
        ]

    def training_steps(self, arm: str, clock: str) -> list[float]:
        """Seconds from one optimizer step to the next, where no sampling lies between them; not of the first epoch."""
        laps = getattr(self.laps[arm], clock)
        return [lap for n, lap in enumerate(laps) if n >= self.steps and n % self.steps]


def run(
    vendor: Path,
    rng: random.Random,
    epochs: int,
    upstreams: Sequence[Upstream] = tuple(UPSTREAMS.values()),
    short: Mapping[str, Sequence[str]] = SHORT,
) -> tuple[list[Measured], list[dict[str, Any]]]:
    """Train every arm of every upstream, and read what PCPO kept.

    Args:
        vendor: folder of patched clones.
        rng: draws the order of the arms.
        epochs: of each run, two or more: the first warms up.
        short: settings of the scripts, by upstream.

    Returns:
        what was measured, and a row on memory for each upstream.
    """
    measured, memory = [], []
    for upstream in upstreams:
        print(f"training: {upstream.name}, {len(ARMS)} arms of {epochs} epochs", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="pcpo-overhead-") as scratch:
            make = Miniatures(vendor, Path(scratch))
            plans = {
                name: make.plan(
                    upstream,
                    mode,
                    name,
                    before=[in_turn.__file__],
                    overrides=short.get(upstream.name, ()),
                    epochs=epochs,
                )
                for name, mode in ARMS.items()
            }
            laps = race(plans, rng)
            took = len(laps["off"].wall)
            if took % epochs:
                raise ValueError(f"{upstream.name} took {took} optimizer steps in {epochs} epochs")
            measured.append(Measured(upstream.name, laps, took // epochs))
            memory.append(_memory(upstream.name, laps))
    return measured, memory


def _memory(upstream: str, laps: Mapping[str, Laps]) -> dict[str, Any]:
    lines = (laps["full"].folder / "metrics.jsonl").read_text().splitlines()
    epoch = [record for record in map(json.loads, lines) if record["kind"] == "epoch"][-1]
    return {
        "upstream": upstream,
        "peak": {name: lap.peak for name, lap in laps.items()},
        "tape_bytes": epoch["tape_bytes"],
        "samples": epoch["reward_count"],
    }


# ----------------------------------------------------------------- tables


def training_section(measured: Sequence[Measured], clock: str) -> Section:
    """Training steps and epochs as ratios to ``off``.

    Args:
        clock: ``wall`` or ``process``.
    """
    section = Section(
        "Training: a whole step and a whole epoch on the miniatures",
        ("upstream", "what", "pairs", "`off`", "`full`", "`observe`", "`off` again"),
        notes=[
            "`off`: seconds, median. The other arms as ratios to it, pair by pair, median and 95% interval (under six "
            "pairs all they span). A step is from one optimizer step to the next, an epoch also has the sampling and "
            "the reward. The arms are warm processes that take turns at every optimizer step; first epochs are left "
            "out."
        ],
    )
    for m in measured:
        for what, times in (("step", m.training_steps), ("epoch", m.epochs)):
            base = times("off", clock)
            if not base:
                continue
            ratios = {arm: ratio_of(times(arm, clock), base) for arm in ARMS if arm != "off"}
            section.rows.append(
                (
                    m.upstream, what, str(len(base)), seconds(statistics.median(base)), str(ratios["full"]),
                    str(ratios["observe"]), str(ratios["again"]),
                )
            )  # fmt: skip
            section.values.append(
                {
                    "upstream": m.upstream, "what": what, "seconds": {arm: times(arm, clock) for arm in ARMS},
                    "ratios": {arm: vars(ratio) for arm, ratio in ratios.items()},
                }
            )  # fmt: skip
            judge(section, f"{m.upstream}, {what}", ratios, GOALS)
    return section


def memory_section(memory: Sequence[Mapping[str, Any]], device: str) -> Section:
    """Peak memory of the arms, and what the tape keeps."""
    of = "the GPU allocator's" if device == "cuda" else "resident, of the whole process"
    section = Section(
        "Memory on the miniatures",
        ("upstream", "`off`", "`off` again", "`observe`", "`full`", "tape", "samples", "tape a sample"),
        notes=[
            f"Peak memory ({of}). The tape keeps prediction and noise of every step that can be trained, until the "
            "next epoch: `python -m benchmarks.tape_memory` has it at the trainers' own sizes."
        ],
    )
    for row in memory:
        peaks = [mib(row["peak"][arm]) for arm in ("off", "again", "observe", "full")]
        a_sample = row["tape_bytes"] / row["samples"]
        section.rows.append(
            (row["upstream"], *peaks, mib(row["tape_bytes"]), str(row["samples"]), f"{a_sample:,.0f} B")
        )
        section.values.append(dict(row))
    return section
