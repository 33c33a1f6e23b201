"""What PCPO keeps of a rollout, in bytes, beside the model's own training state; and what makes a training step small.

    python -m benchmarks.tape_memory

Fills a tape with tensors of each trainer's real shapes, asks it for its size, and the system for the peak of a process
that fills and first reads it; needs torch alone and some hundred megabytes of memory. The training state is 16 bytes a
parameter (float32 weights, gradients and two Adam moments), over eight ranks where the trainer shards it.

Then the gradient of one optimizer step of the digits miniature (extra ``miniature``) in the ways that save memory, each
in a process of its own: by how much it grew at the most, and how long it took.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.measuring.machine import describe, header
from benchmarks.measuring.tables import mib
from pcpo_overlay.losses import log_hinge_loss, log_ratio
from pcpo_overlay.tape import Tape

SEED = 0
#: Samples of one optimizer step, and how often its time is taken.
SAMPLES, REPEATS = 64, 5
BYTES_A_PARAMETER = 16


@dataclass(frozen=True)
class Rollout:
    """One iteration of one rank, as the trainer's own launch script sets it up.

    Attributes:
        shape: of one sample's latents, as the network predicts them.
        steps: recorded ones: those that can be trained.
        samples: of one rank.
        pred: dtype of the prediction; the noise is float32.
        parameters: of the trained network.
        ranks: over which the training state is sharded.
    """

    name: str
    shape: tuple[int, ...]
    steps: int
    samples: int
    pred: torch.dtype
    parameters: float
    ranks: int


ROLLOUTS = (
    Rollout("DDPO, SD 1.5, 512x512, 50 steps, 8 samples", (4, 64, 64), 50, 8, torch.float16, 0.86e9, 1),
    Rollout(
        "Flow-GRPO, SD3.5-M, 512x512, 10 steps, 18 samples", (16, 64, 64), 9, 18, torch.float32, 2.5e9, 1
    ),
    Rollout("DanceGRPO, FLUX, 720x720, 16 steps, 12 samples", (2025, 64), 15, 12, torch.bfloat16, 11.9e9, 8),
)


@dataclass(frozen=True)
class Measured:
    """A tape of one rollout, in bytes: what it holds, and by how much the process grew at the most, in two epochs.

    The peaks are None where the system does not tell them.
    """

    held: int
    peak_first: int | None
    peak_later: int | None


def measure(rollout: Rollout) -> Measured:
    """Record two epochs and look a step up in each; to be run in a process of its own."""
    tape = Tape()
    peaks: list[int | None] = []
    shape = (rollout.samples, *rollout.shape)
    for _ in range(2):
        tape.clear()
        before = _resident(start_anew=True)
        for _ in range(rollout.steps):
            # ones, since pages of zeros need not be there
            tape.record(
                torch.ones(shape, dtype=rollout.pred), torch.ones(shape), *torch.ones(2, rollout.samples)
            )
        tape.lookup(tape.close_rollout()[:1], 0)
        after = _resident()
        peaks.append(None if before is None or after is None else after - before)
    return Measured(tape.nbytes, *peaks)


@dataclass(frozen=True)
class Step:
    """One way to take the gradient of an optimizer step's samples.

    Attributes:
        batch: samples at once; the gradients of several batches are accumulated.
        checkpointing: whether activations are computed again in the backward pass.
    """

    name: str
    batch: int
    checkpointing: bool


STEPS = (
    Step("as it is", SAMPLES, False),
    Step("gradient checkpointing", SAMPLES, True),
    Step("a quarter of the batch, 4 times the accumulation", SAMPLES // 4, False),
    Step("both", SAMPLES // 4, True),
)


@dataclass(frozen=True)
class Taken:
    """What a step took: bytes by which the process grew at the most, None where the system does not tell; the shortest
    of some times in seconds; and the gradient, (P,)."""

    peak: int | None
    seconds: float
    gradient: torch.Tensor


def take(step: Step) -> Taken:
    """Take the gradient of :data:`SAMPLES` samples on one thread; to be run in a process of its own."""
    from diffusers import UNet2DConditionModel

    from pcpo_overlay.tools.miniature import sd_path

    torch.set_num_threads(1)
    net = UNet2DConditionModel.from_pretrained(sd_path() / "unet").train()
    if step.checkpointing:
        net.enable_gradient_checkpointing()
    random = torch.Generator().manual_seed(SEED)
    config = net.config
    shape = (SAMPLES, config.in_channels, config.sample_size, config.sample_size)
    x, pred_old, z = (torch.randn(shape, generator=random) for _ in range(3))
    words = torch.randn(SAMPLES, 77, config.cross_attention_dim, generator=random)
    t, w = torch.full((SAMPLES,), 500), torch.ones(SAMPLES)
    advantage = torch.randn(SAMPLES, generator=random)

    def gradient() -> None:
        net.zero_grad()
        for part in torch.arange(SAMPLES).split(step.batch):
            pred = net(x[part], t[part], words[part]).sample
            log_rho = log_ratio(pred, pred_old[part], z[part], w[part])
            (log_hinge_loss(log_rho, advantage[part], 1e-4).sum() / SAMPLES).backward()

    before = _resident(start_anew=True)
    gradient()
    after = _resident()
    seconds = []
    for _ in range(REPEATS):
        began = time.process_time()
        gradient()
        seconds.append(time.process_time() - began)
    flat = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    return Taken(None if before is None or after is None else after - before, min(seconds), flat)


def _steps() -> None:
    print("| step | peak | seconds | gradient, off by |")
    print("|---|---|---|---|")
    first = None
    for step in STEPS:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            taken = pool.submit(take, step).result()
        first = taken.gradient if first is None else first
        off = float((taken.gradient - first).norm() / first.norm())
        print(f"| {step.name} | {mib(taken.peak)} | {taken.seconds:.2f} | {off:.0e} |")


def _resident(start_anew: bool = False) -> int | None:
    """Peak resident bytes of this process; started anew from what is resident now. None where there is no /proc."""
    process = Path("/proc/self")
    try:
        if start_anew:
            # what imports freed is resident, and would take in what is measured
            with suppress(OSError, AttributeError):  # not glibc
                ctypes.CDLL(None).malloc_trim(0)
            (process / "clear_refs").write_text("5")
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tape_memory", description=__doc__)
    parser.add_argument(
        "what", nargs="*", choices=["tape", "steps", []], help="one of the tables (default: both)"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    what = _parse(argv).what or ["tape", "steps"]
    print(header(describe(SEED, clock="process")) + "\n")
    if "tape" in what:
        _tapes()
    if "steps" in what:
        _steps()


def _tapes() -> None:
    print(
        "| rollout | by hand | a sample | tape | peak, first epoch | later | training state of a rank | share |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for r in ROLLOUTS:
        # a process each: what one leaves to the allocator is not the next one's peak
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            found = pool.submit(measure, r).result()
        values = torch.Size(r.shape).numel()
        by_hand = r.samples * r.steps * (values * (r.pred.itemsize + 4) + 2 * 4)
        assert found.held == by_hand
        state = r.parameters * BYTES_A_PARAMETER / r.ranks
        formula = f"{r.samples} x {r.steps} x ({values} x ({r.pred.itemsize} + 4) + 8) B"
        peaks = " | ".join(mib(peak) for peak in (found.peak_first, found.peak_later))
        print(
            f"| {r.name} | {formula} | {mib(by_hand // r.samples)} | {mib(by_hand)} | {peaks} "
            f"| {state / 2**30:.1f} GiB | {by_hand / state:.2%} |"
        )
    print()


if __name__ == "__main__":
    main()
