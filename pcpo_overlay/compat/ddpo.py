"""What ddpo-pytorch needs of its pinned diffusers and accelerate, and today's no longer have."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

_WEIGHTS = "pytorch_lora_weights.safetensors"


def install() -> None:
    """Supply what is missing; nothing where nothing is, or where diffusers is not installed."""
    if importlib.util.find_spec("diffusers") is None:
        return
    _randn_tensor()
    _lora_attention()
    _float32_images()
    _prompts_without_guidance()
    _save_state_on_one_rank()


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
