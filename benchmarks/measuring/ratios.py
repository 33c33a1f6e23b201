"""Ratios before the first update, by timestep: what they should be, what they are, and the tables of both."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import first_update
from benchmarks.measuring.miniature_run import Miniatures, Run
from benchmarks.measuring.tables import Section
from pcpo_overlay.tools.ab.upstreams import UPSTREAMS

BASELINE = "observe"
MODES = (BASELINE, "match", "full")
MATCHED = "full,precision=match"
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


@dataclass(frozen=True)
class Setting:
    """A trainer in one precision.

    Attributes:
        upstream: its short name.
        dtype: fp32, bf16 or fp16, of the autocast.
        network: what is trained, LoRA or the whole network.
        overrides: of the script's settings.
        config: the value of ``--config`` in place of the miniature's own.
        resamples: whether the trainer computes in another precision than its sampler, so that only ``precision=match``
            can give the same output twice.
    """

    upstream: str
    dtype: str
    network: str
    overrides: tuple[str, ...]
    config: str | None = None
    resamples: bool = False

    @property
    def name(self) -> str:
        """For headings and messages."""
        return f"{self.upstream}, {self.dtype}, {self.network}"

    @property
    def modes(self) -> tuple[str, ...]:
        """The arms."""
        return (*MODES, MATCHED) if self.resamples else MODES

    def is_exact(self, mode: str) -> bool:
        """Whether every ratio of the mode has to be exactly 1."""
        return mode == MATCHED if self.resamples else mode != BASELINE


_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
#: Samples of a batch; a CPU is slow in float16.
_BATCH = {"fp32": 16, "bf16": 16, "fp16": 8}


def _ddpo(dtype: str) -> tuple[str, ...]:
    """One batch, sampled and trained at one size, so that the network can give the same bits twice."""
    return (
        f"--config.mixed_precision={_PRECISION[dtype]}", "--config.sample.num_steps=10",
        f"--config.sample.batch_size={_BATCH[dtype]}", "--config.sample.num_batches_per_epoch=1",
        f"--config.train.batch_size={_BATCH[dtype]}", "--config.train.gradient_accumulation_steps=1",
    )  # fmt: skip


def _flow_grpo(dtype: str) -> tuple[str, ...]:
    """The first of two batches; the evaluation before it is as short as can be."""
    return (
        f"--config.mixed_precision={_PRECISION[dtype]}", "--config.sample.num_steps=10",
        f"--config.sample.train_batch_size={_BATCH[dtype]}", "--config.sample.num_batches_per_epoch=2",
        f"--config.train.batch_size={_BATCH[dtype]}", "--config.train.gradient_accumulation_steps=1",
        "--config.sample.eval_num_steps=1",
    )  # fmt: skip


#: Two batches of eight, as the miniature's are.
_SD = (
    "--config.sample.num_steps=10", "--config.num_generations=2", "--config.train.gradient_accumulation_steps=2",
)  # fmt: skip
#: One at a time, every step of the schedule but the last.
_FLUX = (
    "--train_batch_size=4", "--train_sp_batch_size=4", "--num_generations=4", "--timestep_fraction=1.0",
    "--gradient_accumulation_steps=16",
)  # fmt: skip


def _settings() -> tuple[Setting, ...]:
    made: list[Setting] = []
    for dtype in _PRECISION:
        given = _ddpo(dtype)
        made.append(Setting("ddpo", dtype, "whole network", given))
        made.append(
            Setting("ddpo", dtype, "LoRA", (*given, "--config.use_lora=True"), resamples=dtype != "fp32")
        )
    with_lora = f"{UPSTREAMS['flow_grpo'].config}:jpeg_compressibility"
    for dtype in _PRECISION:
        if dtype != "bf16":  # upstream's evaluation fails there on images that NumPy has no type for
            made.append(Setting("flow_grpo", dtype, "whole network", _flow_grpo(dtype)))
        made.append(Setting("flow_grpo", dtype, "LoRA", _flow_grpo(dtype), config=with_lora))
    # DanceGRPO's scripts run in bfloat16 alone: FLUX has no other autocast, and SD draws its latents so, whatever its
    # config says.
    made.append(Setting("dancegrpo_sd", "bf16", "whole network", _SD))
    made.append(Setting("dancegrpo_flux", "bf16", "whole network", _FLUX))
    made.append(Setting("dancegrpo_flux_lora", "bf16", "LoRA", _FLUX))
    return tuple(made)


SETTINGS = _settings()


@dataclass(frozen=True)
class Ratios:
    """Every ratio of a run before its first update.

    Attributes:
        timestep: (n,) float64.
        log_rho, ratio: (n,) float64.
        outside, masked: (n,) bool.
    """

    timestep: torch.Tensor
    log_rho: torch.Tensor
    ratio: torch.Tensor
    outside: torch.Tensor
    masked: torch.Tensor

    @staticmethod
    def read(file: Path) -> Ratios:
        """What ``first_update.py`` kept."""
        found = json.loads(file.read_text(encoding="utf-8"))
        floats = {k: torch.tensor(found[k], dtype=torch.float64) for k in ("timestep", "log_rho", "ratio")}
        flags = {k: torch.tensor(found[k], dtype=torch.bool) for k in ("outside", "masked")}
        return Ratios(**floats, **flags)

    @property
    def timesteps(self) -> list[float]:
        """In rollout order."""
        return [float(t) for t in torch.unique(self.timestep).flip(0)]

    def at(self, timestep: float) -> Ratios:
        """Those of one timestep."""
        here = self.timestep == timestep
        return Ratios(*(getattr(self, column)[here] for column in self.__dataclass_fields__))

    @property
    def is_exact(self) -> bool:
        """Whether every ratio is 1, to the last bit, and nothing is outside or masked."""
        return bool((self.log_rho == 0).all()) and not bool(self.outside.any() or self.masked.any())

    def quantiles(self) -> list[float]:
        """``ratio - 1`` at :data:`QUANTILES`, of which nothing is lost near 0."""
        off = torch.expm1(self.log_rho)
        found: list[float] = torch.quantile(off, torch.tensor(QUANTILES, dtype=torch.float64)).tolist()
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain values by timestep."""
        rows = [(t, self.at(t)) for t in self.timesteps]
        return {
            "timestep": self.timesteps,
            "count": [here.ratio.numel() for _, here in rows],
            "ratio_minus_1": [here.quantiles() for _, here in rows],
            "outside": [float(here.outside.double().mean()) for _, here in rows],
            "masked": [float(here.masked.double().mean()) for _, here in rows],
        }


def measure(make: Miniatures, settings: Sequence[Setting], jobs: int) -> dict[Setting, dict[str, Ratios]]:
    """Run every mode of every setting to its first update.

    Args:
        make: makes the runs.
        jobs: runs at a time.

    Raises:
        RunFailed: one that ended without.
    """
    tasks = [(setting, mode) for setting in settings for mode in setting.modes]
    plans = []
    for n, (setting, mode) in enumerate(tasks):
        kept = make.scratch / f"{n}.json"
        planned = make.plan(
            UPSTREAMS[setting.upstream],
            mode,
            str(n),
            before=[first_update.__file__, str(kept)],
            overrides=setting.overrides,
            config=setting.config,
            epochs=1,
            jobs=jobs,
        )
        plans.append((f"{setting.name}, {mode}", planned, kept))

    def run(name: str, planned: Any, kept: Path) -> Ratios:
        started = Run(name, planned, stack)
        code = started.process.wait()
        if code or not kept.exists():
            raise started.failed(f"exit code {code}" if code else "it took no optimizer step")
        print(f"on-policy: {name}", file=sys.stderr, flush=True)
        return Ratios.read(kept)

    # The stack goes first: it stops what still runs, so that the pool has nothing to wait for.
    with ThreadPoolExecutor(jobs) as pool, ExitStack() as stack:
        futures = [pool.submit(run, *plan) for plan in plans]
        try:
            results = [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
    found: dict[Setting, dict[str, Ratios]] = {setting: {} for setting in settings}
    for (setting, mode), result in zip(tasks, results, strict=True):
        found[setting][mode] = result
    return found


# ----------------------------------------------------------------- tables


def summary(found: dict[Setting, dict[str, Ratios]]) -> Section:
    """A line for each setting and mode, and every one that should be exactly 1 and is not."""
    section = Section(
        "All timesteps together",
        ("trainer", "dtype", "trained", "mode", "largest `abs(ratio - 1)`", "outside", "masked", "exactly 1"),
    )
    for setting, modes in found.items():
        for mode, ratios in modes.items():
            largest = float(torch.expm1(ratios.log_rho).abs().max())
            exact = ratios.is_exact
            section.rows.append(
                (
                    setting.upstream, setting.dtype, setting.network, f"`{mode}`", number(largest),
                    f"{float(ratios.outside.double().mean()):.1%}",
                    f"{float(ratios.masked.double().mean()):.1%}", "yes" if exact else "no",
                )
            )  # fmt: skip
            section.values.append(
                {
                    "upstream": setting.upstream, "dtype": setting.dtype, "network": setting.network,
                    "mode": mode, "exact": exact, **ratios.as_dict(),
                }
            )  # fmt: skip
            if setting.is_exact(mode) and not exact:
                section.missed.append(
                    f"{setting.name}, `{mode}`: not every ratio is 1, by up to {largest:.2g}"
                )
    return section


def by_timestep(setting: Setting, modes: dict[str, Ratios]) -> Section:
    """The distribution at every timestep, the modes side by side."""
    of_each = ("ratio - 1", "outside", "masked")
    header = ("timestep", "n", *(f"`{mode}`: {what}" for mode in modes for what in of_each))
    section = Section(setting.name, header)
    for t in modes[BASELINE].timesteps if BASELINE in modes else next(iter(modes.values())).timesteps:
        row = [f"{t:.6g}", str(next(iter(modes.values())).at(t).ratio.numel())]
        for ratios in modes.values():
            here = ratios.at(t)
            row += [
                distribution(here),
                *(f"{float(x.double().mean()):.0%}" for x in (here.outside, here.masked)),
            ]
        section.rows.append(row)
    return section


def distribution(ratios: Ratios) -> str:
    """Minimum, 5%, median, 95% and maximum of ``ratio - 1``; 0 where every ratio is exactly 1."""
    if not ratios.ratio.numel():
        return "none"
    return "0" if bool((ratios.log_rho == 0).all()) else " / ".join(map(number, ratios.quantiles()))


def number(value: float) -> str:
    """Two digits; 0 is 0."""
    return "0" if value == 0 else f"{value:.1e}"
