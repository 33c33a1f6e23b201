"""Seconds and memory of sampling and of an optimizer step at real sizes, and what the host waits for in one."""

from __future__ import annotations

import contextlib
import io
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.networks import Network, networks
from benchmarks.gpu.part import Part, watched
from benchmarks.measuring.clones import Clone
from benchmarks.measuring.loss_step import Arm
from benchmarks.measuring.machine import device
from benchmarks.measuring.pairs import alternate, ratio_of
from pcpo_overlay import compat, hooks
from pcpo_overlay.ranks import TorchRanks

#: None is upstream's code as it is.
ARMS: dict[str, str | None] = {
    "off": None,
    "again": None,
    "observe": "observe",
    "full": "full",
    "tape=cpu": "full,tape=cpu",
}
#: Backward passes of an optimizer step.
PASSES = 4
ROUNDS = 5
#: Seconds that a network needs at the least.
NEEDED = 75


class NetworkArm(Arm):
    """An arm whose predictions come from a network, which all arms share: what is timed is a rollout and a step.

    Args:
        network, optimizer: in training mode, and of what is trained of it.
        given, mode, folder: as :class:`Arm` has them.
    """

    def __init__(
        self,
        given: Network,
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        mode: str | None,
        clone: Clone,
        on: torch.device,
        folder: Path,
    ) -> None:
        self._given, self._network, self._optimizer = given, network, optimizer
        super().__init__(given.case, given.autocast, mode, clone, on, folder)

    def _prepare(self, case: Any, dtype: torch.dtype, device: torch.device) -> None:
        self._case, self._epoch = case, 0
        self._trained = self._sampler.steps - 1
        self._kept = dtype if case.trainer.rounds_latents else torch.float32

    def _predict(self, latents: Tensor, timestep: Tensor) -> Tensor:
        with torch.autocast(self._device.type, self._given.autocast):
            like = latents.to(self._given.parameters)
            return self._given.call(self._network, like, timestep)

    def rollout(self) -> None:
        """Sample a batch, every step of the schedule."""
        sampler, batch = self._sampler, self._case.shape[0]
        generator = torch.Generator().manual_seed(self._epoch)
        latents = [torch.randn(self._case.shape, generator=generator).to(self._device, self._kept)]
        log_probs = []
        with self.armed(), torch.no_grad():
            if self.session is not None:
                hooks.begin_epoch(self._epoch)
                hooks.begin_rollout(TorchRanks(self._device))
            for index in range(sampler.steps):
                pred = self._predict(latents[-1], sampler.timesteps[index])
                drawn, log_prob = sampler.draw(index, pred, latents[-1])
                latents.append(drawn.to(self._kept))
                log_probs.append(log_prob)
            trained = self._trained
            advantage = torch.randn(batch, generator=generator).to(self._device)
            self.sample = {
                "timesteps": sampler.timesteps[:trained].repeat(batch, 1),
                "latents": torch.stack(latents[:-1], dim=1)[:, :trained],
                "next_latents": torch.stack(latents[1:], dim=1)[:, :trained],
                "log_probs": torch.stack(log_probs, dim=1)[:, :trained],
                "advantages": advantage[:, None].repeat(1, trained)
                if self._case.trainer.by_step
                else advantage,
                "vq_advantages": advantage,
                "mq_advantages": -advantage,
            }
            if self.session is not None:
                hooks.end_rollout(self.sample)
        self._epoch += 1

    def optimizer_step(self) -> None:
        """Forward and backward passes, clipping, the update, and what PCPO records of it."""
        sample, trained = self.sample, [p for p in self._network.parameters() if p.requires_grad]
        with self.armed():
            for n in range(PASSES):
                j = n * self._trained // PASSES
                if self.session is not None:
                    hooks.begin_step(sample, j, sample["timesteps"][:, j])
                pred = self._predict(sample["latents"][:, j], sample["timesteps"][0, j])
                with self._autocast():
                    log_prob = self._sampler.log_prob(pred, sample, j)
                self._loss(log_prob, j, sample).backward()
            if self.session is not None:
                hooks.gradients(None, self._network)
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            self._optimizer.step()
            self._optimizer.zero_grad()
            self.put_away()

    @property
    def tape_bytes(self) -> int:
        """What the tape holds of a rollout."""
        return 0 if self.session is None else self.session.tape.nbytes


def run(part: Part) -> None:
    """Every network: times in turn, peaks, and the host's waits."""
    compat.install("ddpo")
    for given in networks(part.tiny):
        if not part.has(1 if part.tiny else NEEDED, network=given.name):
            continue
        with watched(part, network=given.name), tempfile.TemporaryDirectory(prefix="pcpo-gpu-") as scratch:
            _measure(part, given, Path(scratch))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _measure(part: Part, given: Network, scratch: Path) -> None:
    on = device()
    network = given.trained(on, part.tiny)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-9, foreach=on.type == "cuda")
    clone = Clone.find(given.case.trainer.clone, part.vendor)
    with contextlib.redirect_stderr(io.StringIO()):
        arms = {
            name: NetworkArm(given, network, optimizer, mode, clone, on, scratch)
            for name, mode in ARMS.items()
        }
    count = sum(p.numel() for p in network.parameters())
    part.keep(
        network=given.name,
        parameters=count,
        trained=sum(p.numel() for p in trained),
        passes=PASSES,
        tiny=part.tiny,
    )
    peaks = {name: _peak(partial(_once, arm), on) for name, arm in arms.items()}
    for what, do in (("sampling", NetworkArm.rollout), ("optimizer step", NetworkArm.optimizer_step)):
        timed = {name: clocked(partial(do, arm), on) for name, arm in arms.items()}
        times = alternate(timed, 1 if part.tiny else ROUNDS, random.Random(0))
        part.keep(
            network=given.name, what=what, seconds=times, off=statistics.median(times["off"]),
            ratios={name: str(ratio_of(times[name], times["off"])) for name in ARMS if name != "off"}, tiny=part.tiny,
        )  # fmt: skip
    part.keep(
        network=given.name,
        peak_bytes=peaks,
        tape_bytes={name: arm.tape_bytes for name, arm in arms.items()},
        waits={name: _waits(arms[name].optimizer_step, on) for name in ("off", "full")},
    )
    for arm in arms.values():
        arm.close()


def _once(arm: NetworkArm) -> None:
    arm.rollout()
    arm.optimizer_step()


def clocked(do: Callable[[], Any], on: torch.device) -> Callable[[], float]:
    """Seconds of a call, from an idle device to an idle device."""

    def once() -> float:
        _finish(on)
        begun = time.perf_counter()
        do()
        _finish(on)
        return time.perf_counter() - begun

    return once


def _finish(on: torch.device) -> None:
    if on.type == "cuda":
        torch.cuda.synchronize()


def _peak(do: Callable[[], Any], on: torch.device) -> int | None:
    """Bytes that the GPU's allocator holds at the most; None on a CPU, which does not tell."""
    if on.type != "cuda":
        do()
        return None
    torch.cuda.reset_peak_memory_stats()
    do()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated())


@contextlib.contextmanager
def _told_of_waits() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("warn")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _waits(do: Callable[[], Any], on: torch.device) -> int | None:
    """How often the host waits for the GPU, as torch itself tells; None on a CPU, where nothing is waited for."""
    if on.type != "cuda":
        return None
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as said, _told_of_waits():
        warnings.simplefilter("always")
        do()
    return sum("synchroniz" in str(warning.message) for warning in said)
