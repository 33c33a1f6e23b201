"""The miniature of FLUX.1-dev: loading, and sampling as DanceGRPO does it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pcpo_overlay.schedules import dancegrpo_sigmas
from pcpo_overlay.tools.miniature import flow, flux_path, read_pipeline

LATENT_SIZE = 8
LATENT_CHANNELS = 16
PATCH = 2
"""Latents are packed in patches of 2x2: 16 tokens of 64 channels."""

CLIP_LENGTH = 77
T5_LENGTH = 16
"""Tokens of a prompt for T5, of which FLUX has 512; all ten prompts fit."""

EMBEDDED_GUIDANCE = 3.5
"""What DanceGRPO's trainers tell the network, in sampling and training."""

SETTINGS: tuple[dict[str, Any], ...] = ({"steps": 16, "guidance": EMBEDDED_GUIDANCE, "eta": 0.3},)
"""How it is sampled to be judged: as DanceGRPO samples to train, the defaults of :func:`sample`."""


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


def load_pipeline(path: Path | None = None) -> Any:
    """The FluxPipeline at `path` (default: the shipped one) in float32.

    Raises:
        FileNotFoundError, ModelError: as :func:`pcpo_overlay.tools.models.read_index`.
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
    text = _text(pipeline, prompts)
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
        tokens = flow.sde_step(
            tokens, predicted, t=t, dt=float(sigmas[i] - sigmas[i + 1]), scale=eta, generator=generator
        )
    return _decode(pipeline, clean)


@torch.no_grad()
def sample_by_flow_grpo(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    steps: int = 6,
    guidance: float = EMBEDDED_GUIDANCE,
    noise_level: float = 0.9,
    seed: int = 0,
    **noise: Any,
) -> Tensor:
    """The same by Flow-GRPO's sampler: diffusers' own sigmas, shifted by the number of the picture's tokens.

    The defaults are those of its training samples. `noise` is what :func:`flow.walk` takes of the fast trainers.

    Raises:
        ValueError: as there.
    """
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    text = _text(pipeline, prompts)
    told = torch.full((len(prompts),), float(guidance))
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(len(prompts), LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=generator)
    tokens = pack(latents)

    scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    held = scheduler.config
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    mu = calculate_shift(tokens.shape[1], *(held[name] for name in names))
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist(), mu=mu)
    times = scheduler.timesteps / 1000

    def predict(tokens: Tensor, i: int) -> Tensor:
        return velocity(pipeline.transformer, tokens, text, times[i].expand(len(prompts)), told)

    sigmas = scheduler.sigmas.double()
    tokens = flow.walk(predict, tokens, sigmas, noise_level=noise_level, generator=generator, **noise)
    return _decode(pipeline, tokens)


def _text(pipeline: Any, prompts: Sequence[str]) -> TextStates:
    """The text states of N prompts, each different one encoded once."""
    different = list(dict.fromkeys(prompts))
    tokenizers = (pipeline.tokenizer, pipeline.tokenizer_2)
    text = encode((pipeline.text_encoder, pipeline.text_encoder_2), tokenize(tokenizers, different))
    index = torch.tensor([different.index(prompt) for prompt in prompts])
    return TextStates(text.states[index], text.pooled[index])


def _decode(pipeline: Any, tokens: Tensor) -> Tensor:
    config = pipeline.vae.config
    latents = unpack(tokens) / config.scaling_factor + config.shift_factor
    images: Tensor = pipeline.vae.decode(latents).sample
    return (images / 2 + 0.5).clamp(0, 1)
