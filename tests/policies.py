"""Checkpoints as each trainer saves them, of policies that differ visibly from the model they began as."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pcpo_overlay.tools.miniature import flux, sd, sd3

TARGETS = ["to_k", "to_q", "to_v", "to_out.0"]


def whole_unet(folder: Path, shift: float = 0.02, seed: int = 0) -> Any:
    """ddpo-pytorch's whole network, each weight moved at random by about ``shift`` times itself."""
    unet = sd.load_pipeline().unet
    move(unet, shift, seed)
    unet.save_pretrained(folder / "unet")
    return unet


def move(network: Any, shift: float, seed: int = 0) -> None:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1 + shift * torch.randn(parameter.shape, generator=draw))


def ddpo_lora(folder: Path, size: float = 0.3, seed: int = 0) -> Any:
    """ddpo-pytorch's attention processors, by diffusers' own ``save_attn_procs``."""
    from pcpo_overlay import compat
    from pcpo_overlay.compat.lora import LoRAAttnProcessor

    compat.install()
    unet = sd.load_pipeline().unet
    processors = {}
    for name in unet.attn_processors:
        width = unet.config.block_out_channels[-1 if name.startswith("mid_block") else 0]
        cross = None if name.endswith("attn1.processor") else unet.config.cross_attention_dim
        processors[name] = LoRAAttnProcessor(width, cross)
    unet.set_attn_processor(dict(processors))  # which empties what it is given
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in sorted(processors):
            for _, parameter in sorted(processors[name].named_parameters()):
                parameter.copy_(size * torch.randn(parameter.shape, generator=draw))
    folder.mkdir(parents=True, exist_ok=True)
    unet.save_attn_procs(folder)
    return unet


def flow_lora(folder: Path, size: float = 0.1, seed: int = 0, alpha: float = 8) -> Any:
    """flow_grpo's adapter, by peft's own ``save_pretrained``."""
    from peft import LoraConfig, get_peft_model

    targets = ["attn.to_q", "attn.to_v", "attn.add_k_proj", "attn.to_out.0"]
    network = get_peft_model(
        sd3.load_pipeline().transformer, LoraConfig(r=4, lora_alpha=alpha, target_modules=targets)
    ).eval()
    _fill(network, size, seed)
    network.save_pretrained(folder / "lora")
    return network


def flux_lora(folder: Path, size: float = 0.1, seed: int = 0, alpha: float = 8) -> Any:
    """DanceGRPO's adapter, by diffusers' own ``save_lora_weights``, with what upstream writes beside it."""
    from diffusers import FluxPipeline
    from peft import LoraConfig, get_peft_model_state_dict

    network = flux.load_pipeline().transformer
    network.add_adapter(LoraConfig(r=4, lora_alpha=alpha, target_modules=TARGETS))
    _fill(network, size, seed)
    FluxPipeline.save_lora_weights(folder, transformer_lora_layers=get_peft_model_state_dict(network))
    told = {"lora_rank": 4, "lora_alpha": alpha, "target_modules": TARGETS}
    (folder / "lora_config.json").write_text(json.dumps({"step": 2, "lora_params": told}))
    return network


def _fill(network: Any, size: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(network.named_parameters()):
            if "lora_" in name:
                parameter.copy_(size * torch.randn(parameter.shape, generator=draw))


#: By its name, the miniature of a policy and what saves one.
SAVED: dict[str, tuple[str, Callable[..., Any]]] = {
    "ddpo, whole": ("sd", whole_unet),
    "ddpo, LoRA": ("sd", ddpo_lora),
    "flow_grpo, LoRA": ("sd3", flow_lora),
    "DanceGRPO, LoRA": ("flux", flux_lora),
}
