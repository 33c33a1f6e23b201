"""The miniature SD3's architecture: Stable Diffusion 3 with small numbers, on disk as diffusers lays it out.

Every class is SD3's own (SD3Transformer2DModel, a 16-channel AutoencoderKL without quant convolutions, two
CLIPTextModelWithProjection, T5EncoderModel), the scheduler's config is SD3's to the letter, and the prompts are
encoded as SD3 does it: the two CLIP states side by side, padded with zeros to T5's width, then T5's states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pcpo_overlay.tools.miniature import IMAGE_SIZE, require, sd3_path
from pcpo_overlay.tools.miniature.layout import read_pipeline, write_pipeline
from pcpo_overlay.tools.miniature.text_encoders import build_t5, clip_config
from pcpo_overlay.tools.miniature.tokenizer import write_t5_tokenizer, write_tokenizer
from pcpo_overlay.variance import flow_grpo_scale

LATENT_SIZE = 8
LATENT_CHANNELS = 16
SCALING_FACTOR, SHIFT_FACTOR = 1.5305, 0.0609
"""SD3's own: the transformer sees ``(latent - shift) * scale``. Training makes that fit exactly."""

CLIP_LENGTH = 77
T5_LENGTH = 128
"""Tokens of a prompt for T5 in Flow-GRPO's trainer; no part of the architecture."""

SCHEDULER: dict[str, Any] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.29.0.dev0",
    "num_train_timesteps": 1000,
    "shift": 3.0,
}
"""scheduler_config.json of SD3."""

T5_WIDTH = 64
CLIP_WIDTHS = (24, 32)
"""Unequal, and together less than T5's width, as in SD3 (768 + 1280 < 4096)."""

CLIP_HEADS = (2, 2)

TRANSFORMER: dict[str, Any] = {
    "sample_size": LATENT_SIZE,
    "patch_size": 2,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "num_layers": 4,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": T5_WIDTH,
    "caption_projection_dim": 64,
    "pooled_projection_dim": sum(CLIP_WIDTHS),
    "pos_embed_max_size": LATENT_SIZE // 2,
}

VAE: dict[str, Any] = {
    "sample_size": IMAGE_SIZE,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": LATENT_CHANNELS,
    "block_out_channels": (8, 16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "scaling_factor": SCALING_FACTOR,
    "shift_factor": SHIFT_FACTOR,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}

SETTINGS: tuple[dict[str, Any], ...] = (
    {"steps": 10, "guidance": 4.5, "noise_level": 0.7},
    {"steps": 40, "guidance": 4.5, "noise_level": 0.0},
)
"""How it is sampled to be judged: as Flow-GRPO samples to train, and to evaluate."""


def build_transformer() -> Any:
    """A fresh SD3Transformer2DModel: latents (N, 16, 8, 8), text states (N, tokens, 64), pooled text (N, 56)."""
    require("diffusers")
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(**TRANSFORMER)


def build_vae() -> Any:
    """A fresh AutoencoderKL: images (N, 3, 32, 32) in [-1, 1] to latents (N, 16, 8, 8) and back."""
    require("diffusers")
    from diffusers import AutoencoderKL

    return AutoencoderKL(**VAE)


def build_text_encoders() -> tuple[Any, Any, Any]:
    """Fresh text encoders: two CLIPTextModelWithProjection of widths 24 and 32, and a T5EncoderModel of width 64."""
    require("transformers")
    from transformers import CLIPTextModelWithProjection

    first, second = (
        CLIPTextModelWithProjection(
            clip_config(width, heads=heads, length=CLIP_LENGTH, feed_forward=4 * width, activation=activation)
        )
        for width, heads, activation in zip(CLIP_WIDTHS, CLIP_HEADS, ("quick_gelu", "gelu"), strict=True)
    )
    return first, second, build_t5(T5_WIDTH)


TOKENIZERS: dict[str, Callable[[Path], None]] = {
    "tokenizer": partial(write_tokenizer, max_length=CLIP_LENGTH),
    "tokenizer_2": partial(write_tokenizer, max_length=CLIP_LENGTH),
    "tokenizer_3": write_t5_tokenizer,
}


def build_tokenizers(folder: Path) -> tuple[Any, Any, Any]:
    """The two CLIPTokenizer and the T5TokenizerFast, written below `folder` and read back from it."""
    require("transformers")
    from transformers import CLIPTokenizer, T5TokenizerFast

    for name, write in TOKENIZERS.items():
        write(folder / name)
    first, second = (CLIPTokenizer.from_pretrained(folder / name) for name in ("tokenizer", "tokenizer_2"))
    return first, second, T5TokenizerFast.from_pretrained(folder / "tokenizer_3")


class TextStates(NamedTuple):
    """What the transformer is given of a prompt: `states` (N, tokens, 64) and `pooled` (N, 56)."""

    states: Tensor
    pooled: Tensor


def tokenize(
    tokenizers: Sequence[Any],
    prompts: Sequence[str],
    *,
    clip_length: int = CLIP_LENGTH,
    t5_length: int = T5_LENGTH,
) -> tuple[Tensor, Tensor, Tensor]:
    """Padded token ids of both CLIP encoders (N, clip_length) and of T5 (N, t5_length), int64."""
    lengths = (clip_length, clip_length, t5_length)
    first, second, third = (
        tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        for tokenizer, length in zip(tokenizers, lengths, strict=True)
    )
    return first, second, third


def encode(text_encoders: Sequence[Any], token_ids: Sequence[Tensor]) -> TextStates:
    """Text states of token ids from :func:`tokenize`, differentiable. No attention mask, as SD3 has none."""
    clip = [
        encoder(ids, output_hidden_states=True)
        for encoder, ids in zip(text_encoders[:2], token_ids[:2], strict=True)
    ]
    t5: Tensor = text_encoders[2](token_ids[2])[0]
    states = torch.cat([output.hidden_states[-2] for output in clip], dim=-1)
    states = F.pad(states, (0, t5.shape[-1] - states.shape[-1]))
    return TextStates(torch.cat([states, t5], dim=1), torch.cat([output[0] for output in clip], dim=-1))


def save_pipeline(folder: Path, *, transformer: Any, vae: Any, text_encoders: Sequence[Any]) -> Path:
    """Write the pipeline's folder as StableDiffusion3Pipeline reads it, without image encoder.

    An existing folder is replaced only once the new one is complete.
    """
    encoders = dict(zip(("text_encoder", "text_encoder_2", "text_encoder_3"), text_encoders, strict=True))
    clip = ["transformers", "CLIPTextModelWithProjection"]
    return write_pipeline(
        folder,
        diffusers_version="0.29.0",
        models={
            "transformer": (transformer, TRANSFORMER),
            "vae": (vae, VAE),
            **{name: (encoder, None) for name, encoder in encoders.items()},
        },
        tokenizers=TOKENIZERS,
        scheduler=SCHEDULER,
        index={
            "_class_name": "StableDiffusion3Pipeline",
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": clip,
            "text_encoder_2": clip,
            "text_encoder_3": ["transformers", "T5EncoderModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "tokenizer_3": ["transformers", "T5TokenizerFast"],
            "transformer": ["diffusers", "SD3Transformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )


def load_pipeline(path: Path | None = None) -> Any:
    """The StableDiffusion3Pipeline at `path` (default: the shipped one) in float32.

    Raises:
        FileNotFoundError: no pipeline in that folder.
    """
    return read_pipeline(path or sd3_path(), "StableDiffusion3Pipeline")


def sde_step(
    latents: Tensor,
    velocity: Tensor,
    *,
    t: float,
    dt: float,
    scale: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One step of Flow-GRPO's SDE from time `t` to ``t - dt``; with `scale` 0 it is Euler's of the flow.

    Args:
        latents, velocity: (N, ...) of one shape; the velocity points to the noise.
        t, dt: in (0, 1], and positive up to `t`.
        scale: the SDE's noise scale ``s_t``; the step's std is ``s_t * sqrt(dt)``.
        generator: draws the noise; none is drawn when `scale` is 0.
    """
    half = scale**2 / (2 * t)
    mean = latents * (1 - half * dt) - velocity * (1 + half * (1 - t)) * dt
    if scale == 0:
        return mean
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
    return mean + scale * dt**0.5 * noise


@torch.no_grad()
def sample(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    steps: int = 10,
    guidance: float = 4.5,
    noise_level: float = 0.7,
    seed: int = 0,
) -> Tensor:
    """Images (N, 3, 32, 32) float32 in [0, 1] of one batch of prompts, by Flow-GRPO's sampler.

    The defaults are those of its training samples; its evaluations take 40 steps at `noise_level` 0. As there,
    guidance is towards the prompt and away from the empty one; at 1 there is none, and no pass for the empty one.
    """
    if noise_level < 0:
        raise ValueError(f"noise_level must not be negative, got {noise_level}")
    different = list(dict.fromkeys(prompts))
    tokenizers = (pipeline.tokenizer, pipeline.tokenizer_2, pipeline.tokenizer_3)
    encoders = (pipeline.text_encoder, pipeline.text_encoder_2, pipeline.text_encoder_3)
    text = encode(encoders, tokenize(tokenizers, ["", *different]))
    passes = 1 if guidance == 1 else 2
    index = torch.tensor([0] * len(prompts) + [1 + different.index(prompt) for prompt in prompts])
    index = index[-passes * len(prompts) :]
    states, pooled = text.states[index], text.pooled[index]

    scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas.double()
    scales = flow_grpo_scale(sigmas, noise_level)
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(len(prompts), LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=generator)
    for i in range(steps):
        timestep = scheduler.timesteps[i].expand(passes * len(prompts))
        predicted = pipeline.transformer(
            latents.repeat(passes, 1, 1, 1), states, pooled, timestep, return_dict=False
        )[0].chunk(passes)
        latents = sde_step(
            latents,
            predicted[0] + guidance * (predicted[-1] - predicted[0]),
            t=float(sigmas[i]),
            dt=float(sigmas[i] - sigmas[i + 1]),
            scale=float(scales[i]),
            generator=generator,
        )
    config = pipeline.vae.config
    images: Tensor = pipeline.vae.decode(latents / config.scaling_factor + config.shift_factor).sample
    return (images / 2 + 0.5).clamp(0, 1)
