"""The miniature FLUX's architecture: FLUX.1-dev with small numbers, on disk as diffusers lays it out.

Every class is FLUX's own (FluxTransformer2DModel with embedded guidance, a 16-channel AutoencoderKL without quant
convolutions, CLIPTextModel, T5EncoderModel), and the scheduler's config is FLUX.1-dev's to the letter.

Its autoencoder makes images a quarter as large where FLUX's makes them an eighth: a trainer that divides by eight is
asked for 64x64 pixels, has latents of 8x8 and gets images of 32x32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.miniatures import model_sd3
from benchmarks.miniatures.layout import write_pipeline
from benchmarks.miniatures.text_encoders import build_t5, clip_config
from benchmarks.miniatures.tokenizer import write_t5_tokenizer, write_tokenizer
from pcpo_overlay.tools.miniature import require
from pcpo_overlay.tools.miniature.flux import CLIP_LENGTH, LATENT_CHANNELS, PATCH

SCALING_FACTOR, SHIFT_FACTOR = 0.3611, 0.1159
"""FLUX's own: the transformer sees ``(latent - shift) * scale``. Training makes that fit exactly."""

SCHEDULER: dict[str, Any] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.30.0.dev0",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
}
"""scheduler_config.json of FLUX.1-dev."""

T5_WIDTH = 64
CLIP_WIDTH = 32

TRANSFORMER: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": LATENT_CHANNELS * PATCH**2,
    "num_layers": 2,
    "num_single_layers": 4,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": T5_WIDTH,
    "pooled_projection_dim": CLIP_WIDTH,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 6, 6),
}

VAE: dict[str, Any] = {**model_sd3.VAE, "scaling_factor": SCALING_FACTOR, "shift_factor": SHIFT_FACTOR}


def build_transformer() -> Any:
    """A fresh FluxTransformer2DModel: packed latents (N, 16, 64), text (N, tokens, 64), pooled text (N, 32)."""
    require("diffusers")
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(**TRANSFORMER)


def build_vae() -> Any:
    """A fresh AutoencoderKL: images (N, 3, 32, 32) in [-1, 1] to latents (N, 16, 8, 8) and back."""
    require("diffusers")
    from diffusers import AutoencoderKL

    return AutoencoderKL(**VAE)


def build_text_encoders() -> tuple[Any, Any]:
    """Fresh text encoders: a CLIPTextModel of width 32 and a T5EncoderModel of width 64."""
    require("transformers")
    from transformers import CLIPTextModel

    clip = clip_config(CLIP_WIDTH, heads=2, length=CLIP_LENGTH, feed_forward=4 * CLIP_WIDTH)
    return CLIPTextModel(clip), build_t5(T5_WIDTH)


TOKENIZERS: dict[str, Callable[[Path], None]] = {
    "tokenizer": partial(write_tokenizer, max_length=CLIP_LENGTH),
    "tokenizer_2": write_t5_tokenizer,
}


def build_tokenizers(folder: Path) -> tuple[Any, Any]:
    """The CLIPTokenizer and the T5TokenizerFast, written below `folder` and read back from it."""
    require("transformers")
    from transformers import CLIPTokenizer, T5TokenizerFast

    for name, write in TOKENIZERS.items():
        write(folder / name)
    return (
        CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        T5TokenizerFast.from_pretrained(folder / "tokenizer_2"),
    )


def save_pipeline(folder: Path, *, transformer: Any, vae: Any, text_encoders: Sequence[Any]) -> Path:
    """Write the pipeline's folder as FluxPipeline reads it, without image encoder.

    An existing folder is replaced only once the new one is complete.
    """
    clip, t5 = text_encoders
    return write_pipeline(
        folder,
        diffusers_version="0.30.0",
        models={
            "transformer": (transformer, TRANSFORMER),
            "vae": (vae, VAE),
            "text_encoder": (clip, None),
            "text_encoder_2": (t5, None),
        },
        tokenizers=TOKENIZERS,
        scheduler=SCHEDULER,
        index={
            "_class_name": "FluxPipeline",
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "T5EncoderModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "T5TokenizerFast"],
            "transformer": ["diffusers", "FluxTransformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
