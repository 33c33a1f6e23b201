"""What flow_grpo needs where accelerate wraps nothing."""

from __future__ import annotations

import importlib.util


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
