"""Train text encoder and UNet together by noise prediction, on latents that are encoded once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.miniatures.animals import model
from benchmarks.miniatures.animals.drawings import Artist
from benchmarks.miniatures.animals.resumable import Plan, Training, fit
from benchmarks.miniatures.train_sd import Report, ddpm_alphas_cumprod, evenly
from pcpo_overlay.tools.miniature.animals import ANIMALS

UNCONDITIONAL = 0.1
"""Share of the prompts left empty, for classifier-free guidance."""

MAX_SNR = 5.0
"""Cap of a noise level's weight in the loss, as a signal to noise ratio (min-SNR, Hang et al. 2023)."""


@dataclass(frozen=True)
class Latents:
    """Posteriors' `means` (N, 4, 16, 16) float16 as the UNet sees them, their common `std`, and `labels` (N,)."""

    means: Tensor
    std: float
    labels: Tensor

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents (batch, 4, 16, 16) of drawings at random, and their labels (batch,)."""
        index = torch.randint(len(self.labels), (batch,), generator=generator)
        means = self.means[index].float()
        return means + self.std * torch.randn(means.shape, generator=generator), self.labels[index]


@torch.no_grad()
def encode(vae: Any, artist: Artist, count: int, report: Report | None = None) -> Latents:
    """`count` drawings, encoded and scaled."""
    means, labels, std = [], [], 0.0
    scale = vae.config.scaling_factor
    for done in range(0, count, 64):
        drawings = artist.draw(min(64, count - done))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = vae.encode(2 * drawings.images - 1).latent_dist
        means.append((posterior.mean.float() * scale).half())
        labels.append(drawings.animals)
        std = float(posterior.std.float().mean()) * scale
        if report is not None:
            report(min(count, done + 64), 0.0)
    return Latents(torch.cat(means), std, torch.cat(labels))


def train(
    latents: Latents,
    plan: Plan,
    checkpoint: Path,
    *,
    seed: int = 0,
    batch: int = 32,
    report: Report | None = None,
) -> Training:
    """Train UNet and text encoder; ``average`` is a ModuleList of both."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    unet = model.build_unet().train().to(memory_format=torch.channels_last)
    text_encoder = model.build_text_encoder().train()
    models = nn.ModuleList([unet, text_encoder])
    averages = nn.ModuleList([model.build_unet(), model.build_text_encoder()])
    token_ids = model.tokenize([*ANIMALS, ""])
    alphas_cumprod = ddpm_alphas_cumprod()
    snr = alphas_cumprod / (1 - alphas_cumprod)
    weights = snr.clamp(max=MAX_SNR) / snr

    def loss(step: int) -> Tensor:
        clean, labels = latents.draw(batch, generator)
        empty = torch.rand(batch, generator=generator) < UNCONDITIONAL
        prompts = torch.where(empty, len(ANIMALS), labels)
        timesteps = (evenly(batch, generator) * len(alphas_cumprod)).long()
        signal = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        noise = torch.randn(clean.shape, generator=generator)
        noisy = (signal.sqrt() * clean + (1 - signal).sqrt() * noise).to(memory_format=torch.channels_last)
        # in float32: at this size bfloat16 is a quarter slower
        predicted = unet(noisy, timesteps, text_encoder(token_ids)[0][prompts]).sample
        errors = (predicted - noise).square().mean(dim=(1, 2, 3))
        return (weights[timesteps] * errors).mean()

    return fit(models, averages, loss, generator, plan, checkpoint, report)
