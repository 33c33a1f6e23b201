"""The architecture: Stable Diffusion 1.x with small numbers, for pictures of 64x64.

The classes, the tokenizer and SD 1.5's scheduler are those of the digits' miniature; see
:mod:`benchmarks.miniatures.model_sd`.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.miniatures.layout import write_pipeline
from benchmarks.miniatures.model_sd import INDEX, SCALING_FACTOR, SCHEDULER
from benchmarks.miniatures.text_encoders import clip_config
from benchmarks.miniatures.tokenizer import MAX_LENGTH, write_tokenizer
from pcpo_overlay.tools.miniature import require
from pcpo_overlay.tools.miniature.animals import ANIMALS, IMAGE_SIZE

LATENT_CHANNELS, LATENT_SIZE = 4, IMAGE_SIZE // 4
TEXT_WIDTH = 64

UNET: dict[str, Any] = {
    "sample_size": LATENT_SIZE,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "block_out_channels": (32, 64, 96),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 4,
    "cross_attention_dim": TEXT_WIDTH,
}

VAE: dict[str, Any] = {
    "sample_size": IMAGE_SIZE,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": LATENT_CHANNELS,
    "block_out_channels": (16, 32, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "scaling_factor": SCALING_FACTOR,
}


def build_unet() -> Any:
    """A fresh UNet2DConditionModel: latents (N, 4, 16, 16), text states (N, 16, 64)."""
    require("diffusers")
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**UNET)


def build_vae() -> Any:
    """A fresh AutoencoderKL: images (N, 3, 64, 64) in [-1, 1] to latents (N, 4, 16, 16) and back."""
    require("diffusers")
    from diffusers import AutoencoderKL

    return AutoencoderKL(**VAE)


def build_text_encoder() -> Any:
    """A fresh CLIPTextModel: token ids (N, 16) to states (N, 16, 64)."""
    require("transformers")
    from transformers import CLIPTextModel

    return CLIPTextModel(
        clip_config(TEXT_WIDTH, heads=4, length=MAX_LENGTH, feed_forward=2 * TEXT_WIDTH, prompts=ANIMALS)
    )


def tokenize(prompts: Sequence[str]) -> Tensor:
    """Padded token ids (N, 16) int64."""
    require("transformers")
    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder), prompts=ANIMALS)
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    ids: Tensor = tokenizer(
        list(prompts), padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    return ids


def save_pipeline(folder: Path, *, unet: Any, vae: Any, text_encoder: Any) -> Path:
    """Write the pipeline's folder as StableDiffusionPipeline reads it, its weights in half precision."""
    models = [part.to(torch.float16) for part in (unet, vae, text_encoder)]
    return write_pipeline(
        folder,
        diffusers_version="0.17.1",
        models=dict(
            zip(("unet", "vae", "text_encoder"), zip(models, (UNET, VAE, None), strict=True), strict=True)
        ),
        tokenizers={"tokenizer": functools.partial(write_tokenizer, prompts=ANIMALS)},
        scheduler=SCHEDULER,
        index=INDEX,
    )
