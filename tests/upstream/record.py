"""Run a training script of upstream's in this process and record what it did.

    python record.py OUT scripts/train.py [ARGS...]

OUT.<rank>.pt holds the logged metrics, every rollout's latents and log probabilities and what else its sampler returns
step by step, the gradients of the optimizer steps before clipping, of how many backward passes they are, and the final
weights; OUT.hooks.<rank>.json which of the patches' lines called a hook. Nothing of upstream is edited: functions are
wrapped by name from outside, the same way for an unpatched and a patched clone. The compatibility layer is installed
for both. What the environment can ask for besides is in ``asked.py``.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import asked
import qwen_image
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pcpo_overlay import compat
from pcpo_overlay.tools.launch import standins, without_cuda

RECORD: dict[str, Any] = {"logs": [], "rollouts": [], "gradients": [], "passes": [], "weights": {}}
_models: list[torch.nn.Module] = []
_trained: list[torch.nn.Parameter] = []
#: flow_grpo's scripts, and the pipeline that each samples with.
FLOW_GRPO = {
    "scripts/train_sd3.py": "sd3_pipeline_with_logprob",
    "scripts/train_sd3_GRPO_Guard.py": "sd3_pipeline_with_logprob",
    "scripts/train_sd3_fast.py": "sd3_pipeline_with_logprob_fast",
    "scripts/train_flux.py": "flux_pipeline_with_logprob",
    "scripts/train_flux_fast.py": "flux_pipeline_with_logprob_fast",
    "scripts/train_flux_kontext.py": "flux_kontext_pipeline_with_logprob",
    "scripts/train_wan2_1.py": "wan_pipeline_with_logprob",
    "scripts/train_qwenimage.py": "qwenimage_pipeline_with_logprob",
    "scripts/train_qwenimage_edit.py": "qwenimage_edit_pipeline_with_logprob",
}
#: Scripts that shard by FSDP themselves and have no use for accelerate.
WITHOUT_ACCELERATE = ("scripts/train_qwenimage.py", "scripts/train_qwenimage_edit.py")
#: Whose sampler is its model's own.
BAGEL = "scripts/train_bagel.py"
HERE = Path(__file__).resolve().parent


def plain(value: Any) -> Any:
    """Logged values as they were, tensors and arrays copied; images are told by their number."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, list):
        return f"{len(value)} images"
    return value


def wrap_accelerate() -> None:
    from accelerate import Accelerator

    log, prepare, clip = Accelerator.log, Accelerator.prepare, Accelerator.clip_grad_norm_

    def recording_log(
        self: Any, values: dict[str, Any], step: int | None = None, *args: Any, **kw: Any
    ) -> Any:
        RECORD["logs"].append((step, {k: plain(v) for k, v in values.items()}))
        return log(self, values, step, *args, **kw)

    def recording_prepare(self: Any, *objects: Any, **kw: Any) -> Any:
        result = prepare(self, *objects, **kw)
        prepared = result if isinstance(result, tuple) else (result,)
        _models.extend(o for o in prepared if isinstance(o, torch.nn.Module))
        return result

    def recording_clip(self: Any, parameters: Any, *args: Any, **kw: Any) -> Any:
        parameters = list(parameters)
        RECORD["gradients"].append([None if p.grad is None else p.grad.clone() for p in parameters])
        RECORD["passes"].append(asked.passes())
        asked.enough(RECORD["gradients"])
        return clip(self, parameters, *args, **kw)

    Accelerator.log = recording_log
    Accelerator.prepare = recording_prepare
    Accelerator.clip_grad_norm_ = recording_clip
    if os.environ.get("RECORD_ALLOW_FP16"):  # accelerate refuses float16 on a CPU, torch does not
        without_cuda.float16()


def wrap_clip() -> None:
    """Of a script without accelerate, which clips by torch's own function: gradients, and whose they are."""
    clip = torch.nn.utils.clip_grad_norm_

    def recording_clip(parameters: Any, *args: Any, **kw: Any) -> Any:
        _trained[:] = [p for p in parameters if p.requires_grad]
        RECORD["gradients"].append([None if p.grad is None else p.grad.clone() for p in _trained])
        RECORD["passes"].append(asked.passes())
        asked.enough(RECORD["gradients"])
        return clip(_trained, *args, **kw)

    torch.nn.utils.clip_grad_norm_ = recording_clip


def without_saving() -> None:
    """In one process, which is not how upstream launches these scripts, nothing is saved: nothing is sharded there, and
    after a backward pass torch's FSDP no longer finds the parameters of its root that are not trained.
    """
    fsdp_utils: Any = importlib.import_module("flow_grpo.fsdp_utils")
    fsdp_utils.save_fsdp_checkpoint = lambda *args: None


def wrap_wandb() -> None:
    """flow_grpo logs through ``wandb.log``, which ``wandb.init`` binds anew."""
    wandb: Any = importlib.import_module("wandb")

    init = wandb.init

    def recording_init(*args: Any, **kw: Any) -> Any:
        run = init(*args, **kw)
        log = wandb.log

        def recording_log(values: dict[str, Any], *args: Any, step: int | None = None, **kw: Any) -> Any:
            RECORD["logs"].append((step, {k: plain(v) for k, v in values.items()}))
            return log(values, *args, step=step, **kw)

        wandb.log = recording_log
        return run

    wandb.init = recording_init


def wrap_pipeline(name: str) -> None:
    """Record what the module ``name`` of upstream's samples: of each result that is a list, a step an entry."""
    module: Any = importlib.import_module(name)
    # Wan's has its module's name.
    function = "pipeline_with_logprob"
    function = function if hasattr(module, function) else name.rpartition(".")[2]
    pipeline_with_logprob = getattr(module, function)

    def recording_pipeline(*args: Any, **kw: Any) -> Any:
        result = pipeline_with_logprob(*args, **kw)
        results = result.values() if isinstance(result, dict) else result
        RECORD["rollouts"].append(
            tuple(torch.stack(kept) for kept in results if isinstance(kept, list) and kept)
        )
        return result

    setattr(module, function, recording_pipeline)


def wrap_bagel() -> None:
    """Bagel's sampler is a method of its model's, shards by accelerate on a GPU, and clips no gradients.

    Its autoencoder, whose size is written in its code, becomes a smaller one of the same layers.
    """
    dance = HERE / "dance" / "standins"
    standins.install(instead=[dance / "replaced"], where_missing=[dance / "missing"])
    without_cuda.install()
    without_cuda.accelerated_fsdp()
    autoencoder: Any = importlib.import_module("flow_grpo.bagel.modeling.autoencoder")
    inferencer: Any = importlib.import_module("flow_grpo.bagel.inferencer").InterleaveInferencer
    params, sample = autoencoder.AutoEncoderParams, inferencer.gen_image
    autoencoder.AutoEncoderParams = lambda **sizes: params(**{**sizes, "ch": 32, "num_res_blocks": 1})

    def recording_sample(*args: Any, **kw: Any) -> Any:
        result = sample(*args, **kw)
        if "all_latents" in result:
            kept = ("all_latents", "all_log_probs")
            RECORD["rollouts"].append(
                (*(torch.stack(result[name]) for name in kept), plain(result["timesteps"]))
            )
        return result

    def before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        _trained[:] = [p for group in optimizer.param_groups for p in group["params"]]
        RECORD["gradients"].append([None if p.grad is None else p.grad.clone() for p in _trained])
        RECORD["passes"].append(asked.passes())
        asked.enough(RECORD["gradients"])

    inferencer.gen_image = recording_sample
    register_optimizer_step_pre_hook(before_step)


def main() -> None:
    from lean import without_unused

    without_unused()
    asked.prepare()
    out, script = Path(sys.argv[1]).resolve(), sys.argv[2]
    sys.argv = sys.argv[2:]
    sys.path.insert(0, str(Path.cwd()))
    if script in WITHOUT_ACCELERATE:
        without_cuda.install()
        wrap_clip()
        if os.environ["WORLD_SIZE"] == "1":
            without_saving()
        if script.endswith("edit.py"):
            qwen_image.edit_small()
    else:
        wrap_accelerate()
    called = asked.watch_hooks() if "PCPO" in os.environ else set()
    if script in FLOW_GRPO or script == BAGEL:
        compat.install("flow_grpo")
        standins.install(instead=[HERE / "flow_standins"])
        wrap_wandb()
        if script == BAGEL:
            wrap_bagel()
        else:
            wrap_pipeline(f"flow_grpo.diffusers_patch.{FLOW_GRPO[script]}")
    else:
        compat.install()
        wrap_pipeline("ddpo_pytorch.diffusers_patch.pipeline_with_logprob")
    sys.path.insert(0, str(Path(script).resolve().parent))
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:  # absl.app.run always exits
        if stop.code:
            raise
    for model in _models:
        RECORD["weights"].update(
            (n, p.detach().clone()) for n, p in model.named_parameters() if p.requires_grad
        )
    RECORD["weights"].update((str(i), p.detach().clone()) for i, p in enumerate(_trained))
    rank = os.environ.get("RANK", "0")
    # beside the record, which is what upstream did: an unpatched run calls no hook
    Path(f"{out}.hooks.{rank}.json").write_text(json.dumps(sorted(called)))
    torch.save(RECORD, f"{out}.{rank}.pt")
    if script == BAGEL:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
