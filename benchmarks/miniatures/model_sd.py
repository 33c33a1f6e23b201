"""The miniature's architecture: Stable Diffusion 1.x with small numbers, on disk as diffusers lays it out.

Every class is SD 1.x's own (UNet2DConditionModel with cross attention, AutoencoderKL, CLIPTextModel,
CLIPTokenizer), and the scheduler's config is SD 1.5's to the letter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.miniatures.layout import write_pipeline
from benchmarks.miniatures.text_encoders import clip_config
from benchmarks.miniatures.tokenizer import MAX_LENGTH, write_tokenizer
from pcpo_overlay.tools.miniature import IMAGE_SIZE, require
from pcpo_overlay.tools.miniature.sd import LATENT_CHANNELS, LATENT_SIZE

SCALING_FACTOR = 0.18215
"""SD 1.x's own: training folds the latents' statistics into the autoencoder so that it fits exactly."""

SCHEDULER: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
"""scheduler_config.json of SD 1.5."""

INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
"""model_index.json, without safety checker."""

TEXT_WIDTH = 64

UNET: dict[str, Any] = {
    "sample_size": LATENT_SIZE,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "block_out_channels": (24, 48),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
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
    "block_out_channels": (8, 16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "scaling_factor": SCALING_FACTOR,
}


def build_unet() -> Any:
    """A fresh UNet2DConditionModel: latents (N, 4, 8, 8), text states (N, 16, 64)."""
    require("diffusers")
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**UNET)


def build_vae() -> Any:
    """A fresh AutoencoderKL: images (N, 3, 32, 32) in [-1, 1] to latents (N, 4, 8, 8) and back."""
    require("diffusers")
    from diffusers import AutoencoderKL

    return AutoencoderKL(**VAE)


def build_text_encoder() -> Any:
    """A fresh CLIPTextModel: token ids (N, 16) to states (N, 16, 64)."""
    require("transformers")
    from transformers import CLIPTextModel

    return CLIPTextModel(clip_config(TEXT_WIDTH, heads=4, length=MAX_LENGTH, feed_forward=2 * TEXT_WIDTH))


def build_tokenizer(folder: Path) -> Any:
    """The tokenizer written to `folder` and read back from it."""
    require("transformers")
    from transformers import CLIPTokenizer

    write_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(folder)


def save_pipeline(folder: Path, *, unet: Any, vae: Any, text_encoder: Any) -> Path:
    """Write the pipeline's folder as StableDiffusionPipeline reads it, without safety checker.

    The JSON files hold only what diffusers 0.17 knows too, so that old and new versions read the same.
    An existing folder is replaced only once the new one is complete.
    """
    return write_pipeline(
        folder,
        diffusers_version="0.17.1",
        models={"unet": (unet, UNET), "vae": (vae, VAE), "text_encoder": (text_encoder, None)},
        tokenizers={"tokenizer": write_tokenizer},
        scheduler=SCHEDULER,
        index=INDEX,
    )
