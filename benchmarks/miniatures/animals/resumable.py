"""A training that may be stopped at any time and goes on where its last checkpoint was."""

from __future__ import annotations

import copy
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.miniatures.train_sd import average

Report = Callable[[int, Tensor], None]
"""Called after every step with the steps done and the () loss, on which it need not wait."""

WARMUP = 200
COOLDOWN = 0.2
"""Share of the steps, the last ones, over which the learning rate falls to nothing."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast.

    `steps` in all, those of earlier calls included; `lr` the highest learning rate; `ema` how slowly the average of the
    weights forgets; `seconds` between checkpoints; `minutes` that this call may take, None for as long as it takes.
    """

    steps: int
    lr: float
    ema: float = 0.999
    seconds: float = 120.0
    minutes: float | None = None

    def factor(self, step: int) -> float:
        """Of the learning rate at a step: a rise, a plateau, and a linear fall. More steps move the fall alone."""
        return min(1.0, (step + 1) / WARMUP, (self.steps - step) / (COOLDOWN * self.steps))


@dataclass(frozen=True)
class Training:
    """What a training ended with: the `average` of the weights, and the `steps` done of those planned."""

    average: nn.Module
    steps: int
    planned: int

    @property
    def complete(self) -> bool:
        return self.steps >= self.planned


def fit(
    models: nn.Module,
    averages: nn.Module,
    loss_of: Callable[[int], Tensor],
    generator: torch.Generator,
    plan: Plan,
    checkpoint: Path,
    report: Report | None = None,
) -> Training:
    """Minimize a loss by AdamW, from `checkpoint` on where it exists.

    It is written every so many seconds, at the end, and when SIGINT or SIGTERM asks for an end.

    Args:
        models: what is trained; the parameters that need gradients.
        averages: a copy of the models, which becomes the average of their weights.
        loss_of: the () loss of a step, counted from 0.
        generator: what ``loss_of`` draws from; its state is part of the checkpoint.
        plan: how long and how fast.
        checkpoint: the file.
        report: called after every step with the steps done and the loss.
    """
    trained = [p for p in models.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=plan.lr, weight_decay=1e-4, fused=generator.device.type == "cuda"
    )
    averages.load_state_dict(models.state_dict())
    averages.requires_grad_(False).eval()
    means: list[Tensor] = list(averages.parameters())
    values: list[Tensor] = list(models.parameters())
    parts: dict[str, Any] = {"models": models, "averages": averages, "optimizer": optimizer}
    step = _load(parts, generator, checkpoint) if checkpoint.is_file() else 0
    begun = saved = time.monotonic()
    with _stop_asked() as stopped:
        while step < plan.steps and not stopped.is_set():
            for group in optimizer.param_groups:
                group["lr"] = plan.lr * plan.factor(step)
            loss = loss_of(step)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            average(means, values, step, plan.ema)
            step += 1
            if report is not None:
                report(step, loss.detach())
            now = time.monotonic()
            if now - saved > plan.seconds:
                _save(parts, generator, step, checkpoint)
                saved = now
            if plan.minutes is not None and now - begun > 60 * plan.minutes:
                break
    _save(parts, generator, step, checkpoint)
    return Training(averages, step, plan.steps)


def graphed(network: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """A network in training as one CUDA graph, forward and backward, if it is on a GPU.

    There a step of networks of this size takes as long as the host needs to launch its two thousand kernels.

    Args:
        network: with no dropout, and nothing inside that waits for the GPU.
        inputs: its arguments, of the shapes and dtypes that all later ones have.
    """
    if not inputs[0].is_cuda:
        return network
    # of a copy that shares all weights: what is captured takes no other shapes
    return torch.cuda.make_graphed_callables(copy.copy(network), inputs, allow_unused_input=True)


def _save(parts: dict[str, Any], generator: torch.Generator, step: int, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_suffix(".new")
    states = {name: part.state_dict() for name, part in parts.items()}
    torch.save({**states, "generator": generator.get_state(), "step": step}, scratch)
    scratch.replace(file)


def _load(parts: dict[str, Any], generator: torch.Generator, file: Path) -> int:
    states = torch.load(file, weights_only=True, map_location="cpu")
    for name, part in parts.items():
        part.load_state_dict(states[name])
    generator.set_state(states["generator"])
    return int(states["step"])


@contextmanager
def _stop_asked() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, in place of ending the process in the middle of a step."""
    event = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda *_: event.set())
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
