"""The loss step alone, upstream's own against the patched one, at the shapes of the paper's models.

A loss step is what lies between the network's output and its gradient: the sampler's step with its log probability and
the clipped loss, or prediction matching and the log hinge, forward and backward. Both arms run upstream's own step
function and its own lines from the ratio to the loss, taken from the clone: as it is at its commit, and as patched.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from benchmarks.measuring.clones import Clone, Code
from benchmarks.measuring.pairs import alternate, ratio_of
from benchmarks.measuring.tables import Section, judge, seconds
from pcpo_overlay import compat, hooks
from pcpo_overlay.config import parse
from pcpo_overlay.objective import Trained
from pcpo_overlay.ranks import TorchRanks
from pcpo_overlay.record.gradients import GradientMetrics
from pcpo_overlay.record.recorder import Recorder
from pcpo_overlay.record.run_folder import VARIABLE as RUN_DIR
from pcpo_overlay.session import Off, Session
from pcpo_overlay.trainers import TRAINERS

#: What tells seconds on a CPU: the wall's, or the process's own.
Clock = Callable[[], float]
#: `observe` does all that upstream does and one pass more, for the exact KL divergence of the two policies. Its goal is
#: for the training step (:mod:`benchmarks.measuring.training`), of which a loss step is a small part.
GOALS = {"full": 1.0}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CLIP_RANGE = 1e-4
ADV_CLIP_MAX = 5.0
#: Weights of the two rewards, where a trainer has two: those of its own script.
VQ_COEF, MQ_COEF = 1.0, 0.0
#: In units of the prediction: how far the live policy is from the one that sampled.
MOVED = 1e-3


# -------------------------------------------------------------- the trainers


class Sampler:
    """A step function in rollouts and in training, called as the trainer calls it.

    Args:
        code: of the file that has it.
        patched: whether the hooks are in it.
    """

    steps: int
    timesteps: Tensor  # (steps,)

    def __init__(self, case: Case, code: Code, patched: bool, device: torch.device) -> None:
        raise NotImplementedError

    def draw(self, index: int, pred: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(next latents, log probability)`` of step ``index`` of a rollout."""
        raise NotImplementedError

    def log_prob(self, pred: Tensor, sample: dict[str, Any], j: int) -> Tensor:
        """The new log probability of column ``j`` of the samples, or under prediction matching the log ratio."""
        raise NotImplementedError


def sd_scheduler() -> Any:
    """DDIM on Stable Diffusion 1.x's schedule."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip


class DDIM(Sampler):
    """ddpo-pytorch's, on Stable Diffusion's schedule."""

    def __init__(self, case: Case, code: Code, patched: bool, device: torch.device) -> None:
        self._step = getattr(code.module(), case.trainer.step)
        self._scheduler = sd_scheduler()
        self._scheduler.set_timesteps(case.steps, device=device)
        self.timesteps, self.steps = self._scheduler.timesteps, case.steps

    def draw(self, index: int, pred: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        drawn: tuple[Tensor, Tensor] = self._step(self._scheduler, pred, self.timesteps[index], x, eta=1.0)
        return drawn

    def log_prob(self, pred: Tensor, sample: dict[str, Any], j: int) -> Tensor:
        at = (pred, sample["timesteps"][:, j], sample["latents"][:, j])
        _, found = self._step(self._scheduler, *at, eta=1.0, prev_sample=sample["next_latents"][:, j])
        return found


class FlowGRPO(Sampler):
    """flow_grpo's, on SD3's schedule."""

    def __init__(self, case: Case, code: Code, patched: bool, device: torch.device) -> None:
        from diffusers import FlowMatchEulerDiscreteScheduler

        self._step = getattr(code.module(), case.trainer.step)
        self._scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        self._scheduler.set_timesteps(case.steps, device=device)
        self.timesteps, self.steps = self._scheduler.timesteps, case.steps

    def draw(self, index: int, pred: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        at = self.timesteps[index].unsqueeze(0)
        drawn, log_prob, _, _ = self._step(self._scheduler, pred.float(), at, x.float(), noise_level=0.7)
        return drawn, log_prob

    def log_prob(self, pred: Tensor, sample: dict[str, Any], j: int) -> Tensor:
        at = (pred.float(), sample["timesteps"][:, j], sample["latents"][:, j].float())
        drawn = sample["next_latents"][:, j].float()
        _, found, _, _ = self._step(self._scheduler, *at, prev_sample=drawn, noise_level=0.7)
        return found


class DanceGRPO(Sampler):
    """The step function that DanceGRPO's flow trainers share; the hook that matches stands before its call."""

    def __init__(self, case: Case, code: Code, patched: bool, device: torch.device) -> None:
        self._step = code.function(case.trainer.step, {"torch": torch, "math": math, "pcpo": hooks})
        shift, self._eta = case.trainer.settings["shift"], case.trainer.settings["eta"]
        t = torch.linspace(1, 0, case.steps + 1)
        self._sigmas = shift * t / (1 + (shift - 1) * t)  # on the CPU, as the trainers have them
        self.timesteps = (self._sigmas[:-1] * 1000).long().to(device)
        self.steps = case.steps
        self._index = torch.arange(case.steps, device=device)
        self.patched = patched

    def draw(self, index: int, pred: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        drawn, _, log_prob = self._step(
            pred, x.float(), self._eta, self._sigmas, index, prev_sample=None, grpo=True, sde_solver=True
        )
        return drawn, log_prob

    def log_prob(self, pred: Tensor, sample: dict[str, Any], j: int) -> Tensor:
        drawn = sample["next_latents"][:, j]
        if self.patched:
            matched = hooks.match_step(pred, drawn)
            if matched is not None:
                return matched[1]
        at = (pred, sample["latents"][:, j].float(), self._eta, self._sigmas, self._index[j])
        return self._step(*at, prev_sample=drawn.float(), grpo=True, sde_solver=True)[2]


@dataclass(frozen=True)
class Trainer:
    """Where a trainer's step function and loss are, and how the script calls them.

    Attributes:
        name: its own, in :mod:`pcpo_overlay.trainers`.
        sampler: calls its step function.
        step_file, step: where that is, and its name.
        loss: what the script calls the loss.
        names: what the script calls the new log probability and the step's index.
        settings: of the trainer, as far as PCPO asks.
        autocast: whether its step function runs inside autocast.
        rounds_latents: whether it keeps latents in the network's precision; else in float32 once a step was drawn.
        by_step: whether its samples have an advantage for every step.
    """

    name: str
    sampler: type[Sampler]
    step_file: str
    step: str
    loss: str
    names: tuple[str, str]
    settings: dict[str, Any]
    autocast: bool = False
    rounds_latents: bool = False
    by_step: bool = False

    @property
    def clone(self) -> str:
        """Name of its clone."""
        return TRAINERS[self.name].upstream

    @property
    def script(self) -> str:
        """Its training script, in the clone."""
        return TRAINERS[self.name].script


_DDPO = Trainer(
    "ddpo", DDIM, "ddpo_pytorch/diffusers_patch/ddim_with_logprob.py", "ddim_step_with_logprob", "loss",
    ("log_prob", "j"), {}, autocast=True, rounds_latents=True,
)  # fmt: skip
_FLOW_GRPO = Trainer(
    "flow_grpo", FlowGRPO, "flow_grpo/diffusers_patch/sd3_sde_with_logprob.py", "sde_step_with_logprob", "policy_loss",
    ("log_prob", "j"), {"timestep_fraction": 0.99}, autocast=True, by_step=True,
)  # fmt: skip
_FLUX = Trainer(
    "dancegrpo_flux", DanceGRPO, "fastvideo/train_grpo_flux.py", "flux_step", "loss", ("new_log_probs", "_"),
    {"shift": 3.0, "eta": 0.3},
)  # fmt: skip
_HUNYUAN = Trainer(
    "dancegrpo_hunyuan", DanceGRPO, "fastvideo/train_grpo_hunyuan.py", "flux_step", "final_loss",
    ("new_log_probs", "_"), {"shift": 5.0, "eta": 0.25},
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A trainer at the shape of a batch of its network's outputs, and its number of sampling steps."""

    name: str
    trainer: Trainer
    shape: tuple[int, ...]
    steps: int


CASES = (
    Case("DDPO, SD 512x512", _DDPO, (4, 4, 64, 64), 50),
    Case("DDPO, SD 512x512", _DDPO, (8, 4, 64, 64), 50),
    Case("Flow-GRPO, SD3 512x512", _FLOW_GRPO, (8, 16, 64, 64), 10),
    Case("DanceGRPO, FLUX 720x720", _FLUX, (1, 2025, 64), 16),
    Case("DanceGRPO, HunyuanVideo 480x480, 53 frames", _HUNYUAN, (1, 16, 14, 60, 60), 16),
)


def _loss_lines(case: Case, code: Code) -> Callable[..., Tensor]:
    train = SimpleNamespace(adv_clip_max=ADV_CLIP_MAX, clip_range=CLIP_RANGE)
    scope = {
        "torch": torch,
        "pcpo": hooks,
        "config": SimpleNamespace(train=train),
        "clip_range": CLIP_RANGE,
        "adv_clip_max": ADV_CLIP_MAX,
        "args": SimpleNamespace(gradient_accumulation_steps=4, vq_coef=VQ_COEF, mq_coef=MQ_COEF),
        "train_timesteps": case.steps // 2,
    }
    log_prob, index = case.trainer.names
    return code.loss_lines(case.trainer.loss, [log_prob, index, "sample"], scope)


# ------------------------------------------------------------------ an arm


class Arm:
    """One arm of a case: a batch sampled, and its loss steps ready to run.

    Args:
        mode: of PCPO; None is upstream's code as it is.
        folder: takes the run folder that a session opens.
    """

    def __init__(
        self,
        case: Case,
        dtype: torch.dtype,
        mode: str | None,
        clone: Clone,
        device: torch.device,
        folder: Path,
    ) -> None:
        trainer = case.trainer
        read = clone.as_upstream_wrote_it if mode is None else clone.patched
        self._sampler = trainer.sampler(case, read(trainer.step_file), mode is not None, device)
        self._loss = _loss_lines(case, read(trainer.script))
        inside = trainer.autocast and dtype != torch.float32
        self._autocast: Callable[[], Any] = (
            (lambda: torch.autocast(device.type, dtype)) if inside else contextlib.nullcontext
        )
        self._device = device
        self.session = None if mode is None else _session(case, mode, device, folder)
        self._prepare(case, dtype, device)

    def _prepare(self, case: Case, dtype: torch.dtype, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)

        def randn() -> Tensor:
            return torch.randn(case.shape, generator=generator).to(device, dtype)

        old, x, sampler = randn(), randn(), self._sampler
        kept = dtype if case.trainer.rounds_latents else torch.float32
        batch, trained = case.shape[0], sampler.steps - 1
        advantage = torch.randn(batch, generator=generator).to(device)
        # The second epoch's tape is in place, as all but the first one's are.
        for epoch in range(2):
            latents, log_probs = [x.to(kept)], []
            with self.armed(), torch.no_grad():
                hooks.begin_epoch(epoch)
                hooks.begin_rollout(TorchRanks(device))
                for index in range(sampler.steps):
                    drawn, log_prob = sampler.draw(index, old, latents[-1])
                    latents.append(drawn.to(kept))
                    log_probs.append(log_prob)
                self.sample: dict[str, Any] = {
                    "timesteps": sampler.timesteps[:trained].repeat(batch, 1),
                    "latents": torch.stack(latents[:-1], dim=1)[:, :trained],
                    "next_latents": torch.stack(latents[1:], dim=1)[:, :trained],
                    "log_probs": torch.stack(log_probs, dim=1)[:, :trained],
                    "advantages": advantage[:, None].repeat(1, trained)
                    if case.trainer.by_step
                    else advantage,
                    "vq_advantages": advantage,
                    "mq_advantages": -advantage,
                }
                hooks.end_rollout(self.sample)
        self._pred = (old + (MOVED * randn().float()).to(dtype)).requires_grad_()
        self._trained, self._next = trained, 0

    def armed(self) -> contextlib.AbstractContextManager[None]:
        """While this arm's session is the one that the hooks act on; off for upstream's own code."""
        return hooks.using(self.session or Off())

    def step(self) -> None:
        """One loss step, of the next column of the samples."""
        j, sample = self._next, self.sample
        self._next = (j + 1) % self._trained
        self._pred.grad = None
        if self.session is not None:
            hooks.begin_step(sample, j, sample["timesteps"][:, j])
        with self._autocast():
            log_prob = self._sampler.log_prob(self._pred, sample, j)
        self._loss(log_prob, j, sample).backward()

    def block(self, steps: int, clock: Clock = time.perf_counter) -> float:
        """Seconds a loss step takes, over so many; the metrics they left are put away unmeasured."""
        with self.armed():
            if self._device.type == "cuda":
                started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                torch.cuda.synchronize()
                started.record()
                for _ in range(steps):
                    self.step()
                ended.record()
                torch.cuda.synchronize()
                taken = started.elapsed_time(ended) / 1e3
            else:
                begun = clock()
                for _ in range(steps):
                    self.step()
                taken = clock() - begun
            self.put_away()
        return taken / steps

    def put_away(self) -> None:
        """What follows an optimizer step: the metrics of its loss steps."""
        if self.session is not None:
            hooks.log_step(0, 0, 0)
            self._recorder.epoch_steps.clear()

    @property
    def _recorder(self) -> Recorder:
        assert self.session is not None and self.session.recorder is not None
        return self.session.recorder

    def waits(self) -> int:
        """Calls of a loss step that would wait for a GPU, with the metrics kept as on one."""
        metrics = self._recorder.metrics if self.session else None
        if metrics:
            on_cpu, metrics.on_cpu = metrics.on_cpu, False
        with self.armed(), CountWaits() as count:
            self.step()
        self.put_away_armed()
        if metrics:
            metrics.on_cpu = on_cpu
        return count.waits

    def close(self) -> None:
        """End its run, whose folder may then go."""
        if self.session is not None:
            self.session.finish()

    def put_away_armed(self) -> None:
        """:meth:`put_away` from outside :meth:`armed`."""
        with self.armed():
            self.put_away()


class CountWaits(TorchFunctionMode):
    """Counts what makes the host wait for the device, or would if tensors lay on one."""

    NAMES = frozenset(
        ("cpu", "item", "tolist", "numpy", "nonzero", "__bool__", "__float__", "__int__", "__index__")
    )

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.waits += getattr(func, "__name__", "") in self.NAMES
        return func(*args, **(kwargs or {}))


def _session(case: Case, mode: str, device: torch.device, folder: Path) -> Session:
    """A session as a trainer's start hook leaves it; its banner is not for this report."""
    settings = {
        "sampling_steps": case.steps,
        "vq_coef": VQ_COEF,
        "mq_coef": MQ_COEF,
        "sample": {"num_steps": case.steps},
        "train": {
            "timestep_fraction": case.trainer.settings.get("timestep_fraction", 1.0),
            "cfg": False,
            "clip_range": CLIP_RANGE,
        },
        "clip_range": CLIP_RANGE,
        "seed": 0,
    }
    session = Session(parse(mode))
    before = os.environ.get(RUN_DIR)
    os.environ[RUN_DIR] = tempfile.mkdtemp(dir=folder) + "/run"
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            ranks = TorchRanks(device)
            session.start(case.trainer.name, ranks, settings)
    finally:
        if before is None:
            del os.environ[RUN_DIR]
        else:
            os.environ[RUN_DIR] = before
    return session


# ------------------------------------------------------------- the sections


def measure(
    vendor: Path,
    device: torch.device,
    repeats: int,
    block_s: float,
    rng: random.Random,
    cases: Sequence[Case] = CASES,
    clock: Clock = time.perf_counter,
) -> list[Section]:
    """Loss steps of every case and dtype, and what the metrics cost.

    Args:
        vendor: folder of patched clones.
        repeats: rounds in which every arm is timed once.
        block_s: seconds of one timing.
        rng: draws the order within a round.
        clock: of a CPU; on a GPU it is CUDA's events.
    """
    section = Section(
        "Loss step: upstream's own, and patched",
        ("trainer", "shape", "dtype", "upstream", "`full`", "`observe`", "upstream again", "waits for a GPU"),
        notes=[
            "Upstream: seconds of a loss step, median. The other arms as ratios to it, pair by pair, median and 95% "
            "interval. Waits: calls in a loss step of upstream / `full` that would wait for a GPU."
        ],
    )
    compat.install("ddpo")
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stderr(io.StringIO()):
        for case in cases:
            clone = Clone.find(case.trainer.clone, vendor)
            for dtype_name, dtype in DTYPES.items():
                arms = {
                    name: Arm(case, dtype, mode, clone, device, Path(scratch))
                    for name, mode in (
                        ("upstream", None), ("again", None), ("observe", "observe"), ("full", "full"),
                    )
                }  # fmt: skip
                _add(section, case, dtype_name, arms, repeats, block_s, rng, clock)
                for arm in arms.values():
                    arm.close()
    return [section, metrics_cost(device, repeats, rng)]


def _add(
    section: Section,
    case: Case,
    dtype: str,
    arms: dict[str, Arm],
    repeats: int,
    block_s: float,
    rng: random.Random,
    clock: Clock,
) -> None:
    for arm in arms.values():
        arm.block(2)
    steps = max(1, round(block_s / arms["upstream"].block(3, clock)))
    times = alternate({name: _timer(arm, steps, clock) for name, arm in arms.items()}, repeats, rng)
    base = times["upstream"]
    ratios = {name: ratio_of(times[name], base) for name in ("full", "observe", "again")}
    waits = {name: arms[name].waits() for name in ("upstream", "full")}
    shape = str(case.shape).replace(" ", "")
    section.rows.append(
        (
            case.name, shape, dtype, seconds(statistics.median(base)), str(ratios["full"]),
            str(ratios["observe"]), str(ratios["again"]), f"{waits['upstream']} / {waits['full']}",
        )
    )  # fmt: skip
    judge(section, f"{case.name} {shape} {dtype}", ratios, GOALS)
    section.values.append(
        {
            "case": case.name, "shape": list(case.shape), "dtype": dtype, "steps_a_block": steps,
            "seconds": times, "ratios": {name: vars(ratio) for name, ratio in ratios.items()}, "waits": waits,
        }
    )  # fmt: skip


def _timer(arm: Arm, steps: int, clock: Clock) -> Callable[[], float]:
    return lambda: arm.block(steps, clock)


#: Backward passes of an optimizer step, and samples of each.
_PASSES, _BATCH = 100, 8
_PARAMETERS = 10_000_000


def metrics_cost(device: torch.device, repeats: int, rng: random.Random) -> Section:
    """What the metrics of ``observe`` and ``full`` cost, a backward pass and an optimizer step."""
    from pcpo_overlay.record.metrics import StepMetrics

    metrics = StepMetrics(log_objective=True, on_cpu=device.type == "cpu")
    values = torch.randn(_BATCH, device=device) * CLIP_RANGE
    timesteps = torch.arange(50, device=device).repeat_interleave(_BATCH).reshape(50, _BATCH)
    loss = values.mean()
    # A small layer first, as networks have it: its gradients are looked at one by one.
    widths = [10, *[1000] * 11]
    model = torch.nn.Sequential(*(torch.nn.Linear(*pair, bias=False) for pair in pairwise(widths)))
    for parameter in model.to(device).parameters():
        parameter.grad = torch.randn_like(parameter)

    def clocked(run: Callable[[], Any]) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    def add() -> None:
        for n in range(_PASSES):
            metrics.add(Trained(timesteps[n % 50], values, [values], loss, CLIP_RANGE))

    def reduce() -> Any:
        return metrics.reduce(lambda rows: rows).summary()

    def adding() -> float:
        taken = clocked(add)
        metrics.reduce(lambda rows: rows)
        return taken / _PASSES

    def reducing() -> float:
        add()
        return clocked(reduce)

    arms: dict[str, Callable[[], float]] = {
        "note a backward pass": adding,
        f"sum up an optimizer step of {_PASSES} passes of {_BATCH} samples, 50 timesteps": reducing,
        f"gradient statistics of {_PARAMETERS / 1e6:.0f} million parameters": lambda: clocked(
            lambda: GradientMetrics.of(model)
        ),
        "torch's own gradient clipping of the same, for comparison": lambda: clocked(
            lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
        ),
    }
    for run in arms.values():
        run()
    times = alternate(arms, repeats, rng)
    section = Section("Metrics: what `observe` and `full` do besides", ("what", "seconds, median"))
    for name, taken in times.items():
        section.rows.append((name, seconds(statistics.median(taken))))
        section.values.append({"what": name, "seconds": taken})
    return section
