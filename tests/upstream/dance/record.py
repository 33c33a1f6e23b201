"""Run one of DanceGRPO's training scripts in this process, on CPU, and record what it did.

    python record.py OUT fastvideo/train_grpo_flux.py [ARGS...]

The environment is that of a process which torchrun started. ``OUT.<rank>.pt`` holds, by key:

``rollouts``           per call of the sampler, latents (B, steps + 1, ...) and log probabilities (B, steps)
``rewards``            per gathering, this rank's
``training_log_probs`` per trained step, the new log probability
``gradients``          per clipping, the gradients before it (under FSDP this rank's shards)
``passes``             per clipping, how many backward passes those gradients are of: all since they were zeroed
``logs``               what was logged, without wall-clock times
``steps``              per call of ``train_one_step``, what it returned
``initial``, ``weights`` trainable weights before and after (this rank's shards)

Nothing of upstream is edited: functions are wrapped by name from outside, the same way for an unpatched and a patched
clone. The script's functions can be wrapped because its ``if __name__ == "__main__"`` is run after the rest.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

TESTS = Path(__file__).resolve().parents[1]
WALL_CLOCK = {"step_time", "avg_step_time"}
RECORD: dict[str, Any] = {
    "rollouts": [],
    "rewards": [],
    "training_log_probs": [],
    "gradients": [],
    "passes": [],
    "logs": [],
    "steps": [],
    "initial": {},
    "weights": {},
}
_models: list[torch.nn.Module] = []


def plain(value: Any) -> Any:
    """A value as it is now, tensors copied."""
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def trainable(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of a model's trainable weights, under FSDP of this rank's shards."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def watch(model: torch.nn.Module) -> None:
    """Keep the weights of a model as they are now, and again at the end."""
    if model not in _models:
        _models.append(model)
        RECORD["initial"].update(trainable(model))


def log(values: dict[str, Any], step: int | None) -> None:
    RECORD["logs"].append((step, {k: plain(v) for k, v in values.items() if k not in WALL_CLOCK}))


def wrap_clipping() -> None:
    """Gradients before clipping. FSDP clips shards by itself, whole parameters by torch's function."""
    import asked
    from torch.distributed.fsdp import FullyShardedDataParallel

    def keep(parameters: Any) -> None:
        parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
        RECORD["gradients"].append([None if p.grad is None else p.grad.clone() for p in parameters])
        RECORD["passes"].append(asked.passes())

    torch_clip, fsdp_clip = torch.nn.utils.clip_grad_norm_, FullyShardedDataParallel.clip_grad_norm_

    def recording_torch_clip(parameters: Any, *args: Any, **kwargs: Any) -> Any:
        parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
        keep(parameters)
        asked.enough(RECORD["gradients"])
        return torch_clip(parameters, *args, **kwargs)

    def recording_fsdp_clip(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = len(RECORD["gradients"])
        shards = [None if p.grad is None else p.grad.clone() for p in self.parameters()]
        norm = fsdp_clip(self, *args, **kwargs)
        if len(RECORD["gradients"]) == before:
            RECORD["gradients"].append(shards)
            RECORD["passes"].append(asked.passes())
        asked.enough(RECORD["gradients"])
        return norm

    torch.nn.utils.clip_grad_norm_ = recording_torch_clip
    FullyShardedDataParallel.clip_grad_norm_ = recording_fsdp_clip  # type: ignore[method-assign]


def wrap_wandb() -> None:
    """The seven trainers with argparse log by ``wandb.log``, which ``wandb.init`` binds anew."""
    wandb: Any = importlib.import_module("wandb")

    init = wandb.init

    def recording_init(*args: Any, **kwargs: Any) -> Any:
        run = init(*args, **kwargs)
        wandb_log = wandb.log

        def recording_log(values: dict[str, Any], *args: Any, step: int | None = None, **kwargs: Any) -> Any:
            log(values, step)
            return wandb_log(values, *args, step=step, **kwargs)

        wandb.log = recording_log
        return run

    wandb.init = recording_init


def wrap_accelerate() -> None:
    """The SD trainer gives Accelerator its model and its metrics."""
    from accelerate import Accelerator

    prepare, accelerator_log = Accelerator.prepare, Accelerator.log

    def recording_prepare(self: Any, *objects: Any, **kwargs: Any) -> Any:
        result = prepare(self, *objects, **kwargs)
        for prepared in result if isinstance(result, tuple) else (result,):
            if isinstance(prepared, torch.nn.Module):
                watch(prepared)
        return result

    def recording_log(
        self: Any, values: dict[str, Any], step: int | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        log(values, step)
        return accelerator_log(self, values, step, *args, **kwargs)

    Accelerator.prepare, Accelerator.log = recording_prepare, recording_log


def wrap_functions(script: dict[str, Any]) -> None:
    """Wrap what the script's namespace has of the functions to record."""

    def record(name: str, keep: Callable[[dict[str, Any], Any], None]) -> None:
        function = script.get(name)
        if function is None:
            return
        signature = inspect.signature(function)

        def recording(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            if name == "train_one_step":
                watch(given["transformer"])
            result = function(*args, **kwargs)
            keep(given, result)
            return result

        script[name] = recording

    def rollout(given: dict[str, Any], result: Any) -> None:
        RECORD["rollouts"].append((plain(result[-2]), plain(result[-1])))

    def sd_rollout(given: dict[str, Any], result: Any) -> None:
        RECORD["rollouts"].append((torch.stack(result[-2], dim=1), torch.stack(result[-1], dim=1)))

    record("run_sample_step", rollout)
    record("pipeline_with_logprob", sd_rollout)
    record("gather_tensor", lambda given, result: RECORD["rewards"].append(plain(given["tensor"])))
    record("grpo_one_step", lambda given, result: RECORD["training_log_probs"].append(plain(result)))
    record(
        "ddim_step_with_logprob",
        lambda given, result: RECORD["training_log_probs"].append(plain(result[1])),
    )
    record("train_one_step", lambda given, result: RECORD["steps"].append(result))


def run(script: Path) -> None:
    """Execute a script as ``python script`` does, its functions wrapped before its main part runs."""
    tree = ast.parse(script.read_text(), str(script))
    main_part = tree.body.pop()
    if not isinstance(main_part, ast.If):
        raise ValueError(
            f"{script} does not end with its `if __name__ == ...`, but with line {main_part.lineno}"
        )
    module = types.ModuleType("__main__")
    module.__file__ = str(script)
    sys.modules["__main__"] = module
    exec(compile(tree, str(script), "exec"), vars(module))
    wrap_functions(vars(module))
    exec(compile(ast.Module([main_part], []), str(script), "exec"), vars(module))


def main() -> None:
    out, script = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    sys.argv = [str(script), *sys.argv[3:]]
    sys.path[0] = str(TESTS)
    import asked
    from dance import shim
    from lean import without_unused

    without_unused()
    sys.path[0] = str(script.parent)  # as Python has it for a script
    shim.install()
    asked.prepare()
    called = asked.watch_hooks() if "PCPO" in os.environ else set()
    wrap_clipping()
    wrap_wandb()
    if script.name == "train_grpo_sd.py":
        from pcpo_overlay import compat

        compat.install_for("DanceGRPO")
        wrap_accelerate()
    try:
        run(script)
    except SystemExit as stop:  # absl.app.run always exits
        if stop.code:
            raise
    for model in _models:
        RECORD["weights"].update(trainable(model))
    if script.name == "train_grpo_sd.py":
        # The trainer gathers in a local function; what it gathered is in the log.
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        RECORD["rewards"] = [v["reward"].chunk(world)[rank] for _, v in RECORD["logs"] if "reward" in v]
    torch.save(RECORD, f"{out}.{os.environ['RANK']}.pt")
    Path(f"{out}.hooks.{os.environ['RANK']}.json").write_text(json.dumps(sorted(called)))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
