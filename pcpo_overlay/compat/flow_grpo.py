"""What flow_grpo needs where accelerate wraps nothing, and what its Qwen-Image-Edit trainer needs to take a step."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any


def install() -> None:
    """accelerate wraps the network of a single process in nothing; flow_grpo asks the wrapper for it."""
    if importlib.util.find_spec("peft") is not None:  # for the KL term
        from peft import PeftModel

        if not hasattr(PeftModel, "module"):
            PeftModel.module = property(lambda self: self)
    if importlib.util.find_spec("diffusers") is not None:  # for FLUX's guidance, in full fine-tuning too
        from diffusers import FluxTransformer2DModel

        if not hasattr(FluxTransformer2DModel, "module"):
            FluxTransformer2DModel.module = property(lambda self: self)
    if Path(sys.argv[0]).name == "train_qwenimage_edit.py":
        _return_the_optimizer(importlib.import_module("flow_grpo.fsdp_utils"))


def _return_the_optimizer(fsdp_utils: Any) -> None:
    """That script takes for its optimizer what registers the offloading of it (``fsdp_optimizer_offload``, which all of
    its configurations turn on): the hooks, which cannot take a step.
    """
    register = fsdp_utils.register_optimizer_offload_hooks
    if hasattr(register, "__wrapped__"):
        return

    @functools.wraps(register)
    def registered(optimizer: Any) -> Any:
        register(optimizer)
        return optimizer

    fsdp_utils.register_optimizer_offload_hooks = registered
