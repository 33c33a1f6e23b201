"""What the upstreams need of their pinned libraries and today's no longer have; active only where it is missing.

``python -m pcpo_overlay.compat SCRIPT [ARGS...]`` runs an unpatched upstream script on the same footing as a patched
one, for comparisons.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import runpy
import sys
import types
from pathlib import Path
from typing import Any

_WEIGHTS = "pytorch_lora_weights.safetensors"


def install(upstream: str = "ddpo") -> None:
    """Supply everything that is missing; calling it again, or where nothing is missing, does nothing.

    Args:
        upstream: short name of the trainer; ``imp`` is for all of them.
    """
    _imp()
    if upstream.startswith("dancegrpo"):
        _pinned_tuples()
    if upstream == "flow_grpo":
        _network_of_one_process()
    if upstream != "ddpo" or importlib.util.find_spec("diffusers") is None:
        return
    _randn_tensor()
    _lora_attention()
    _float32_images()
    _prompts_without_guidance()
    _save_state_on_one_rank()


def _imp() -> None:
    """``imp.load_source`` for config files, gone in Python 3.12."""
    if sys.version_info < (3, 12) or "imp" in sys.modules:
        return

    def load_source(name: str, path: str) -> types.ModuleType:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    imp = types.ModuleType("imp", "load_source, as Python had it before 3.12; supplied by pcpo_overlay.")
    vars(imp)["load_source"] = load_source
    sys.modules["imp"] = imp


def _pinned_tuples() -> None:
    """Since torch 2.11 pinning a batch no longer makes lists of its tuples; DanceGRPO refuses captions in a tuple."""
    from torch.utils.data._utils import pin_memory as pinning

    pin = pinning.pin_memory
    if isinstance(pin(("",)), list):
        return

    def pin_memory(data: Any, device: Any = None) -> Any:
        pinned = pin(data, device)
        return list(pinned) if type(pinned) is tuple else pinned

    pinning.pin_memory = pin_memory


def _network_of_one_process() -> None:
    """accelerate wraps the network of a single process in nothing; flow_grpo's KL term asks the wrapper for it."""
    if importlib.util.find_spec("peft") is None:
        return
    from peft import PeftModel

    if not hasattr(PeftModel, "module"):
        PeftModel.module = property(lambda self: self)


def _randn_tensor() -> None:
    """``diffusers.utils.randn_tensor`` moved to ``diffusers.utils.torch_utils``."""
    import diffusers.utils

    if not hasattr(diffusers.utils, "randn_tensor"):
        from diffusers.utils.torch_utils import randn_tensor

        diffusers.utils.randn_tensor = randn_tensor


def _lora_attention() -> None:
    """``LoRAAttnProcessor`` became an empty stub, and saving and loading it went with it."""
    from diffusers.models import attention_processor

    stub = attention_processor.LoRAAttnProcessor
    import torch

    if issubclass(stub, torch.nn.Module):
        return
    from diffusers import UNet2DConditionModel

    from pcpo_overlay.compat.lora import LoRAAttnProcessor, load_lora, lora_layers

    attention_processor.LoRAAttnProcessor = LoRAAttnProcessor
    save, load = UNet2DConditionModel.save_attn_procs, UNet2DConditionModel.load_attn_procs

    def save_attn_procs(self: Any, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        layers = lora_layers(self)
        if not layers:
            save(self, save_directory, *args, **kwargs)
            return
        from safetensors.torch import save_file

        Path(save_directory).mkdir(parents=True, exist_ok=True)
        state = {f"{n}.{k}": v.contiguous() for n, m in layers.items() for k, v in m.state_dict().items()}
        save_file(state, Path(save_directory) / _WEIGHTS, metadata={"format": "pt"})

    def load_attn_procs(self: Any, source: Any, *args: Any, **kwargs: Any) -> None:
        path = Path(source) / _WEIGHTS if isinstance(source, (str, os.PathLike)) else None
        if path is None or not path.is_file():
            load(self, source, *args, **kwargs)
            return
        from safetensors.torch import load_file

        load_lora(self, load_file(path))

    UNet2DConditionModel.save_attn_procs = save_attn_procs
    UNet2DConditionModel.load_attn_procs = load_attn_procs


def _float32_images() -> None:
    """Images in bfloat16 have no NumPy form; the trainer makes one of every image it logs."""
    from diffusers.image_processor import VaeImageProcessor

    postprocess = VaeImageProcessor.postprocess
    if getattr(postprocess, "_pcpo", False):
        return
    import torch

    def float32_postprocess(self: Any, image: Any, *args: Any, **kwargs: Any) -> Any:
        result = postprocess(self, image, *args, **kwargs)
        return (
            result.float() if isinstance(result, torch.Tensor) and result.dtype == torch.bfloat16 else result
        )

    float32_postprocess._pcpo = True  # type: ignore[attr-defined]
    VaeImageProcessor.postprocess = float32_postprocess


def _prompts_without_guidance() -> None:
    """``_encode_prompt`` of today prepends the negative prompt also where guidance is off (guidance_scale <= 1)."""
    from diffusers import StableDiffusionPipeline

    encode_prompt = StableDiffusionPipeline._encode_prompt
    if getattr(encode_prompt, "_pcpo", False) or not hasattr(StableDiffusionPipeline, "encode_prompt"):
        return

    def without_guidance(
        self: Any,
        prompt: Any,
        device: Any,
        num_images_per_prompt: int,
        do_classifier_free_guidance: bool,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        embeds = encode_prompt(
            self, prompt, device, num_images_per_prompt, do_classifier_free_guidance, *args, **kwargs
        )
        negative = kwargs.get("negative_prompt_embeds")
        if do_classifier_free_guidance or negative is None:
            return embeds
        return embeds[negative.shape[0] * num_images_per_prompt :]

    without_guidance._pcpo = True  # type: ignore[attr-defined]
    StableDiffusionPipeline._encode_prompt = without_guidance


def _save_state_on_one_rank() -> None:
    """accelerate 1.x waits for every rank inside ``save_state``, which ddpo-pytorch calls on the main one alone."""
    if importlib.util.find_spec("accelerate") is None:
        return
    from accelerate import Accelerator
    from accelerate import __version__ as version

    save_state = Accelerator.save_state
    if int(version.split(".")[0]) < 1 or getattr(save_state, "_pcpo", False):
        return

    def save_state_alone(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.num_processes == 1 or not _calls_on_main_process_alone():
            return save_state(self, *args, **kwargs)
        self.wait_for_everyone = lambda: None
        try:
            return save_state(self, *args, **kwargs)
        finally:
            del self.wait_for_everyone

    save_state_alone._pcpo = True  # type: ignore[attr-defined]
    Accelerator.save_state = save_state_alone


def _calls_on_main_process_alone() -> bool:
    """Whether the running script is ddpo-pytorch's trainer, whose ``save_state`` is under ``is_main_process``."""
    return "ddpo_pytorch.stat_tracking" in sys.modules


def _upstream_of(script: Path) -> str:
    """Whose script it is, by its name."""
    if script.name == "train_sd3.py":
        return "flow_grpo"
    return "dancegrpo" if script.name.startswith("train_grpo_") else "ddpo"


def main(argv: list[str]) -> None:
    """Run an unpatched upstream script with the compatibility layer installed."""
    if not argv:
        print("usage: python -m pcpo_overlay.compat SCRIPT [ARGS...]", file=sys.stderr)
        raise SystemExit(2)
    install(_upstream_of(Path(argv[0])))
    sys.argv = argv
    sys.path[0] = str(Path(argv[0]).resolve().parent)
    runpy.run_path(argv[0], run_name="__main__")
