"""Networks of real sizes with random weights: what is timed does not depend on what they have learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring.loss_step import CASES, Case

#: The low-rank factors that are trained, as the trainers' own: rank and layers.
LORA: dict[str, Any] = {"r": 4, "target_modules": ["to_k", "to_q", "to_v", "to_out.0"]}


@dataclass(frozen=True)
class Network:
    """A network as one of the trainers trains it.

    Attributes:
        name: for a reader, with what was left out of the real one.
        case: the trainer, the shape of a batch's latents, and the number of sampling steps.
        parameters: float32 or bfloat16 weights.
        autocast: dtype of the forward pass.
        lora: whether low-rank factors are trained in place of the whole network.
        make: on a device, without weights from elsewhere.
        call: ``(network, latents, timestep) -> prediction``.
    """

    name: str
    case: Case
    parameters: torch.dtype
    autocast: torch.dtype
    lora: bool
    make: Callable[[bool], torch.nn.Module]
    call: Callable[[torch.nn.Module, Tensor, Tensor], Tensor]

    def trained(self, device: torch.device, tiny: bool) -> torch.nn.Module:
        """The network with what is trained of it, in training mode and with gradient checkpointing."""
        torch.manual_seed(0)
        with torch.device(device):
            network: Any = self.make(tiny)
        network.to(self.parameters)
        network.enable_gradient_checkpointing()
        if self.lora:
            from peft import LoraConfig

            network.requires_grad_(False)
            network.add_adapter(LoraConfig(**LORA))
            for parameter in network.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.float()
        trained: torch.nn.Module = network.train()
        return trained


def _told(network: torch.nn.Module, latents: Tensor, *shape: int) -> Tensor:
    """A prompt's embedding: the same numbers each time."""
    like = next(network.parameters())
    return torch.full((latents.shape[0], *shape), 0.1, device=like.device, dtype=like.dtype)


def _unet(tiny: bool) -> Any:
    from diffusers import UNet2DConditionModel

    if tiny:
        return UNet2DConditionModel(
            sample_size=64, block_out_channels=(32, 32), layers_per_block=1, cross_attention_dim=32, norm_num_groups=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), attention_head_dim=4,
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )  # fmt: skip
    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def _call_unet(network: Any, latents: Tensor, timestep: Tensor) -> Tensor:
    told = _told(network, latents, 77, network.config.cross_attention_dim)
    found: Tensor = network(latents, timestep, told, return_dict=False)[0]
    return found


def _sd3(tiny: bool) -> Any:
    from diffusers import SD3Transformer2DModel

    small = {
        "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4, "joint_attention_dim": 32,
        "caption_projection_dim": 32, "pooled_projection_dim": 32, "dual_attention_layers": (0,),
    }  # fmt: skip
    real = {
        "num_layers": 24, "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096,
        "caption_projection_dim": 1536, "pooled_projection_dim": 2048, "dual_attention_layers": tuple(range(13)),
    }  # fmt: skip
    return SD3Transformer2DModel(
        sample_size=128, in_channels=16, out_channels=16, pos_embed_max_size=384, qk_norm="rms_norm",
        **(small if tiny else real),
    )  # fmt: skip


def _call_sd3(network: Any, latents: Tensor, timestep: Tensor) -> Tensor:
    config = network.config
    found: Tensor = network(
        hidden_states=latents,
        timestep=timestep.expand(latents.shape[0]),
        encoder_hidden_states=_told(network, latents, 205, config.joint_attention_dim),
        pooled_projections=_told(network, latents, config.pooled_projection_dim),
        return_dict=False,
    )[0]
    return found


#: Blocks of the real FLUX.1: 19 of two streams and 38 of one.
FLUX_BLOCKS = (4, 8)


def _flux(tiny: bool) -> Any:
    from diffusers import FluxTransformer2DModel

    small = {
        "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
        "joint_attention_dim": 32, "pooled_projection_dim": 32, "axes_dims_rope": (4, 6, 6),
    }  # fmt: skip
    double, single = FLUX_BLOCKS
    real = {"num_layers": double, "num_single_layers": single}
    return FluxTransformer2DModel(guidance_embeds=True, **(small if tiny else real))


def _call_flux(network: Any, latents: Tensor, timestep: Tensor) -> Tensor:
    config, batch = network.config, latents.shape[0]
    side = int(latents.shape[1] ** 0.5)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    places = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).to(latents.device)
    like = next(network.parameters())
    found: Tensor = network(
        hidden_states=latents,
        timestep=timestep.expand(batch) / 1000,
        guidance=torch.full((batch,), 3.5, device=latents.device, dtype=like.dtype),
        encoder_hidden_states=_told(network, latents, 512, config.joint_attention_dim),
        pooled_projections=_told(network, latents, config.pooled_projection_dim),
        txt_ids=torch.zeros(512, 3, device=latents.device),
        img_ids=places.to(like.dtype),
        return_dict=False,
    )[0]
    return found


def _case(name: str, shape: tuple[int, ...], tiny: tuple[int, ...] | None) -> Case:
    """A case of the loss steps, whole or at a size for a CPU."""
    (case,) = (case for case in CASES if case.name == name and case.shape == shape)
    return case if tiny is None else replace(case, shape=tiny, steps=4)


def networks(tiny: bool) -> tuple[Network, ...]:
    """In the order in which they are measured: the most used first. A CPU has no float16 to speak of."""
    sd = _case("DDPO, SD 512x512", (4, 4, 64, 64), (2, 4, 16, 16) if tiny else None)
    sd3 = _case("Flow-GRPO, SD3 512x512", (8, 16, 64, 64), (2, 16, 16, 16) if tiny else None)
    flux = _case("DanceGRPO, FLUX 720x720", (1, 2025, 64), (1, 16, 64) if tiny else None)
    bf16, fp32 = torch.bfloat16, torch.float32
    half = bf16 if tiny else torch.float16
    blocks = "{} and {} of its 19 and 38 blocks".format(*FLUX_BLOCKS)
    return (
        Network(f"SD 1.5, LoRA, {'bf16' if tiny else 'fp16'}", sd, half, half, True, _unet, _call_unet),
        Network("SD 1.5, whole network, bf16", sd, fp32, bf16, False, _unet, _call_unet),
        Network("SD3.5 medium, LoRA, bf16", sd3, bf16, bf16, True, _sd3, _call_sd3),
        Network(f"FLUX.1, {blocks}, whole network, bf16", flux, bf16, bf16, False, _flux, _call_flux),
    )
