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
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pcpo_overlay.schedules import dancegrpo_sigmas
from pcpo_overlay.tools.miniature import flux_path, require, sd3
from pcpo_overlay.tools.miniature.layout import read_pipeline, write_pipeline
from pcpo_overlay.tools.miniature.text_encoders import build_t5, clip_config
from pcpo_overlay.tools.miniature.tokenizer import write_t5_tokenizer, write_tokenizer

LATENT_SIZE = 8
LATENT_CHANNELS = 16
PATCH = 2
"""Latents are packed in patches of 2x2: 16 tokens of 64 channels."""

SCALING_FACTOR, SHIFT_FACTOR = 0.3611, 0.1159
"""FLUX's own: the transformer sees ``(latent - shift) * scale``. Training makes that fit exactly."""

TRAINER_SIZE = 64
"""The ``--h`` and ``--w`` for which DanceGRPO's trainers have latents of this size."""

CLIP_LENGTH = 77
T5_LENGTH = 16
"""Tokens of a prompt for T5, of which FLUX has 512; all ten prompts fit."""

EMBEDDED_GUIDANCE = 3.5
"""What DanceGRPO's trainers tell the network, in sampling and training."""

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

VAE: dict[str, Any] = {**sd3.VAE, "scaling_factor": SCALING_FACTOR, "shift_factor": SHIFT_FACTOR}

SETTINGS: tuple[dict[str, Any], ...] = ({"steps": 16, "guidance": EMBEDDED_GUIDANCE, "eta": 0.3},)
"""How it is sampled to be judged: as DanceGRPO samples to train, the defaults of :func:`sample`."""


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


class TextStates(NamedTuple):
    """What the transformer is given of a prompt: `states` (N, tokens, 64) of T5 and `pooled` (N, 32) of CLIP."""

    states: Tensor
    pooled: Tensor


def tokenize(tokenizers: Sequence[Any], prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Padded token ids of CLIP (N, 77) and of T5 (N, 16), int64."""
    clip, t5 = (
        tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        for tokenizer, length in zip(tokenizers, (CLIP_LENGTH, T5_LENGTH), strict=True)
    )
    return clip, t5


def encode(text_encoders: Sequence[Any], token_ids: Sequence[Tensor]) -> TextStates:
    """Text states of token ids from :func:`tokenize`, differentiable. No attention mask, as FLUX has none."""
    clip, t5 = text_encoders
    return TextStates(t5(token_ids[1])[0], clip(token_ids[0]).pooler_output)


def pack(latents: Tensor) -> Tensor:
    """(N, 16, 8, 8) latents as the (N, 16, 64) tokens that the transformer reads, channel first within a patch."""
    n, channels, height, width = latents.shape
    patches = latents.unflatten(3, (width // PATCH, PATCH)).unflatten(2, (height // PATCH, PATCH))
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(n, -1, channels * PATCH**2)


def unpack(tokens: Tensor) -> Tensor:
    """The reverse of :func:`pack`."""
    side = LATENT_SIZE // PATCH
    patches = tokens.reshape(tokens.shape[0], side, side, LATENT_CHANNELS, PATCH, PATCH)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(-1, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)


def image_ids() -> Tensor:
    """(16, 3) position of each token: 0, its row, its column."""
    side = LATENT_SIZE // PATCH
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()


def velocity(transformer: Any, tokens: Tensor, text: TextStates, t: Tensor, guidance: Tensor) -> Tensor:
    """The transformer's prediction (N, 16, 64), which points to the noise.

    Args:
        transformer: a FluxTransformer2DModel.
        tokens: (N, 16, 64), packed noisy latents.
        text: N prompts.
        t: (N,) in (0, 1], the share of noise.
        guidance: (N,) what is told to the network of the guidance.
    """
    predicted: Tensor = transformer(
        hidden_states=tokens,
        encoder_hidden_states=text.states,
        pooled_projections=text.pooled,
        timestep=t,
        guidance=guidance,
        txt_ids=torch.zeros(text.states.shape[1], 3),
        img_ids=image_ids(),
        return_dict=False,
    )[0]
    return predicted


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


def load_pipeline(path: Path | None = None) -> Any:
    """The FluxPipeline at `path` (default: the shipped one) in float32.

    Raises:
        FileNotFoundError: no pipeline in that folder.
    """
    return read_pipeline(path or flux_path(), "FluxPipeline")


@torch.no_grad()
def sample(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    steps: int = 16,
    guidance: float = EMBEDDED_GUIDANCE,
    eta: float = 0.3,
    shift: float = 3.0,
    seed: int = 0,
) -> Tensor:
    """Images (N, 3, 32, 32) float32 in [0, 1] of one batch of prompts, by DanceGRPO's sampler, in float32.

    As there, the image is the clean one that the last step predicts, the network is told whole thousandths of the
    time, and `eta` 0 is Euler's method.
    """
    if eta < 0:
        raise ValueError(f"eta must not be negative, got {eta}")
    different = list(dict.fromkeys(prompts))
    text = encode(
        (pipeline.text_encoder, pipeline.text_encoder_2),
        tokenize((pipeline.tokenizer, pipeline.tokenizer_2), different),
    )
    index = torch.tensor([different.index(prompt) for prompt in prompts])
    text = TextStates(text.states[index], text.pooled[index])
    told = torch.full((len(prompts),), float(guidance))

    sigmas = dancegrpo_sigmas(steps, shift)
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(len(prompts), LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=generator)
    tokens = clean = pack(latents)
    for i in range(steps):
        t = float(sigmas[i])
        thousandths = torch.full((len(prompts),), int(t * 1000) / 1000)
        predicted = velocity(pipeline.transformer, tokens, text, thousandths, told)
        clean = tokens - t * predicted
        tokens = sd3.sde_step(
            tokens, predicted, t=t, dt=float(sigmas[i] - sigmas[i + 1]), scale=eta, generator=generator
        )
    config = pipeline.vae.config
    images: Tensor = pipeline.vae.decode(unpack(clean) / config.scaling_factor + config.shift_factor).sample
    return (images / 2 + 0.5).clamp(0, 1)
