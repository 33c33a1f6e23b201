"""The miniature SD3's architecture: Stable Diffusion 3 with small numbers, on disk as diffusers lays it out.

Every class is SD3's own (SD3Transformer2DModel, a 16-channel AutoencoderKL without quant convolutions, two
CLIPTextModelWithProjection, T5EncoderModel), and the scheduler's config is SD3's to the letter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.miniatures.layout import write_pipeline
from benchmarks.miniatures.text_encoders import build_t5, clip_config
from benchmarks.miniatures.tokenizer import write_t5_tokenizer, write_tokenizer
from pcpo_overlay.tools.miniature import IMAGE_SIZE, require
from pcpo_overlay.tools.miniature.sd3 import CLIP_LENGTH, LATENT_CHANNELS, LATENT_SIZE

SCALING_FACTOR, SHIFT_FACTOR = 1.5305, 0.0609
"""SD3's own: the transformer sees ``(latent - shift) * scale``. Training makes that fit exactly."""

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
