"""The miniature of Stable Diffusion 3: loading, and sampling as Flow-GRPO does it.

Prompts are encoded as SD3 does it: the two CLIP states side by side, padded with zeros to T5's width, then T5's states.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pcpo_overlay.tools.miniature import read_pipeline, sd3_path
from pcpo_overlay.tools.miniature.flow import walk

LATENT_SIZE = 8
LATENT_CHANNELS = 16
CLIP_LENGTH = 77
T5_LENGTH = 128
"""Tokens of a prompt for T5 in Flow-GRPO's trainer; no part of the architecture."""

SETTINGS: tuple[dict[str, Any], ...] = (
    {"steps": 10, "guidance": 4.5, "noise_level": 0.7},
    {"steps": 40, "guidance": 4.5, "noise_level": 0.0},
)
"""How it is sampled to be judged: as Flow-GRPO samples to train, and to evaluate."""


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


def load_pipeline(path: Path | None = None) -> Any:
    """The StableDiffusion3Pipeline at `path` (default: the shipped one) in float32.

    Raises:
        FileNotFoundError, ModelError: as :func:`pcpo_overlay.tools.models.read_index`.
    """
    return read_pipeline(path or sd3_path(), "StableDiffusion3Pipeline")


@torch.no_grad()
def sample(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    steps: int = 10,
    guidance: float = 4.5,
    noise_level: float = 0.7,
    seed: int = 0,
    **noise: Any,
) -> Tensor:
    """Images (N, 3, 32, 32) float32 in [0, 1] of one batch of prompts, by Flow-GRPO's sampler.

    The defaults are those of its training samples; its evaluations take 40 steps at `noise_level` 0. As there,
    guidance is towards the prompt and away from the empty one; at 1 there is none, and no pass for the empty one.
    `noise` is what :func:`flow.walk` takes of the fast trainers.

    Raises:
        ValueError: as there.
    """
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

    def predict(latents: Tensor, i: int) -> Tensor:
        timestep = scheduler.timesteps[i].expand(passes * len(prompts))
        predicted = pipeline.transformer(
            latents.repeat(passes, 1, 1, 1), states, pooled, timestep, return_dict=False
        )[0].chunk(passes)
        guided: Tensor = predicted[0] + guidance * (predicted[-1] - predicted[0])
        return guided

    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(len(prompts), LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=generator)
    sigmas = scheduler.sigmas.double()
    latents = walk(predict, latents, sigmas, noise_level=noise_level, generator=generator, **noise)
    config = pipeline.vae.config
    images: Tensor = pipeline.vae.decode(latents / config.scaling_factor + config.shift_factor).sample
    return (images / 2 + 0.5).clamp(0, 1)
