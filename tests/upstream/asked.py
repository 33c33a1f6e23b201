"""What the recorders do to a run beside recording it, where its environment asks; nothing of it is in the package.

``RECORD_FLOAT32``  nothing is computed in half precision: DanceGRPO's trainers autocast to bfloat16 by name, and two
                    formulas for one gradient then agree to no more than bfloat16's eight bits.
``RECORD_OWN_LOSS`` a number D: the trainer backpropagates the objective of ``full`` as :func:`objective` has it, with
                    D in the place of what the trainer divides by, and not what the loss hook returns.
``RECORD_STEPS``    a number: the run ends before that optimizer step, with its gradients on record.
``RECORD_FAIL``     a hook and how: from its first call on the main rank its run folder cannot be written any more.
                    ``begin_epoch:gone``: the folder is moved away, as a mount that is lost; ``log_step:full``: what is
                    appended goes to a device that is full. It is the system that refuses the write, not a stand-in.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

#: The clip range of every trainer at its smallest.
XI = 1e-4
_passes = 0


def prepare() -> None:
    """Count backward passes, and do what the environment asks for; to be called before the script is."""
    count_passes()
    if os.environ.get("RECORD_FLOAT32"):
        float32()
    if divisor := os.environ.get("RECORD_OWN_LOSS"):
        own_loss(float(divisor))
    if fails := os.environ.get("RECORD_FAIL"):
        fail(*fails.split(":"))


def enough(gradients: list[Any]) -> None:
    """End the run where it has as many gradients as were asked for."""
    if len(gradients) == int(os.environ.get("RECORD_STEPS", "0")):
        raise SystemExit


def passes() -> int:
    """Backward passes since the gradients were zeroed."""
    return _passes


def count_passes() -> None:
    tensor: Any = torch.Tensor
    optimizer: Any = torch.optim.Optimizer
    backward, zero_grad = tensor.backward, optimizer.zero_grad

    def counted(self: Tensor, *args: Any, **kw: Any) -> None:
        global _passes
        _passes += 1
        backward(self, *args, **kw)

    def zeroed(self: Any, *args: Any, **kw: Any) -> None:
        global _passes
        _passes = 0
        zero_grad(self, *args, **kw)

    tensor.backward, optimizer.zero_grad = counted, zeroed


def float32() -> None:
    """What says bfloat16 means float32, and no autocast does anything."""
    autocast: Any = torch.autocast
    tensor: Any = torch.Tensor
    module: Any = torch.nn.Module
    original: Callable[..., None] = autocast.__init__

    def init(
        self: Any, device_type: str, dtype: Any = None, enabled: bool = True, *args: Any, **kw: Any
    ) -> None:
        original(self, device_type, dtype, False, *args, **kw)

    autocast.__init__ = init
    # torch's own tables, which are made when they are first asked for, by name
    torch.storage._dtype_to_storage_type_map()
    torch.storage._storage_type_to_dtype_map()
    torch._weights_only_unpickler._get_allowed_globals()
    torch.bfloat16 = torch.float32
    tensor.bfloat16, module.bfloat16 = tensor.float, module.float


def objective(pred: Tensor, recorded: Any, advantage: Tensor, divisor: float) -> Tensor:
    """MATH.md's sections 1 and 7, written out: the loss () of one step on what the tape holds of it.

    Args:
        pred: (B, ...) the live prediction.
        recorded: what ``Tape.lookup`` gave for the step.
        advantage: (B,).
        divisor: what the trainer divides a step's loss by.
    """
    d = pred.float() - recorded.pred_old.float()
    w = recorded.weight
    m1 = (d * recorded.z.float()).flatten(1).mean(1)
    m2 = (d * d).flatten(1).mean(1)
    u = -(w * m1 + 0.5 * w**2 * m2)
    return torch.relu(XI * advantage.abs() - advantage * u).mean() / divisor


def own_loss(divisor: float) -> None:
    """Let the loss hook return :func:`objective` of the step that is being trained."""
    from pcpo_overlay import hooks
    from pcpo_overlay.tape import Tape

    tape: Any = Tape
    called: Any = hooks
    lookup, match_step, loss = tape.lookup, called.match_step, called.loss
    step: dict[str, Any] = {}

    def looked_up(self: Tape, *args: Any) -> Any:
        step["recorded"] = lookup(self, *args)
        return step["recorded"]

    def matched(pred: Tensor, prev_sample: Tensor | None, *rest: Tensor) -> Any:
        if prev_sample is not None and torch.is_grad_enabled():
            step["pred"] = pred
        return match_step(pred, prev_sample, *rest)

    def replaced(
        upstreams: Tensor, log_prob: Tensor, log_prob_old: Tensor, advantage: Tensor, *rest: Any
    ) -> Tensor:
        loss(upstreams, log_prob, log_prob_old, advantage, *rest)
        return objective(step["pred"], step["recorded"], advantage, divisor)

    tape.lookup, called.match_step, called.loss = looked_up, matched, replaced


def fail(hook: str, how: str) -> None:
    """Before the first call of a hook, take from the main rank what it writes its run folder to."""
    if os.environ.get("RANK", "0") != "0":
        return
    from pcpo_overlay import hooks

    original = getattr(hooks, hook)

    def failing(*args: Any, **kwargs: Any) -> Any:
        setattr(hooks, hook, original)
        {"gone": gone, "full": full}[how](Path(os.environ["PCPO_RUN_DIR"]))
        return original(*args, **kwargs)

    setattr(hooks, hook, failing)


def gone(folder: Path) -> None:
    folder.rename(folder.with_name(folder.name + "-lost"))


def full(folder: Path) -> None:
    """Of the open ``metrics.jsonl``: every write from now on is refused for want of space."""
    for opened in Path("/proc/self/fd").iterdir():
        if opened.exists() and opened.resolve() == folder / "metrics.jsonl":
            device = os.open("/dev/full", os.O_WRONLY)
            os.dup2(device, int(opened.name))
            os.close(device)
            return
    raise RuntimeError(f"{folder / 'metrics.jsonl'} is not open")


def watch_hooks() -> set[tuple[str, int]]:
    """File and line of every call of a hook from upstream's code; the set grows while the script runs."""
    from pcpo_overlay import hooks

    called: set[tuple[str, int]] = set()

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            frame = sys._getframe(1)
            file, line = Path(frame.f_code.co_filename).name, frame.f_lineno
            result = function(*args, **kwargs)
            called.add((file, line))
            if function.__name__ == "match_step" and result is not None:
                called.add((file, line + 2))  # what returns it
            return result

        return call

    for name, function in inspect.getmembers(hooks, inspect.isfunction):
        if function.__module__ == hooks.__name__ and not name.startswith("_"):
            setattr(hooks, name, watched(function))
    return called
