"""Train text encoder and UNet together by noise prediction, on latents that are encoded once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.miniatures.animals import model
from benchmarks.miniatures.animals.drawings import Artist
from benchmarks.miniatures.animals.resumable import Plan, Report, Training, fit, graphed
from benchmarks.miniatures.train_sd import ddpm_alphas_cumprod, evenly
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
        device = generator.device
        index = torch.randint(len(self.labels), (batch,), generator=generator, device=device)
        means = self.means[index].float()
        noise = torch.randn(means.shape, generator=generator, device=device)
        return means + self.std * noise, self.labels[index]

    def to(self, device: str) -> Latents:
        """The same ones there."""
        return Latents(self.means.to(device), self.std, self.labels.to(device))


@torch.no_grad()
def encode(vae: Any, artist: Artist, count: int) -> Latents:
    """`count` drawings, encoded and scaled, where the artist draws; the autoencoder is moved there."""
    means, labels, std = [], [], 0.0
    scale = vae.config.scaling_factor
    device = artist.generator.device
    vae.to(device)
    for done in range(0, count, 64):
        drawings = artist.draw(min(64, count - done))
        posterior = vae.encode(2 * drawings.images - 1).latent_dist
        means.append((posterior.mean.float() * scale).half())
        labels.append(drawings.animals)
        std = float(posterior.std.float().mean()) * scale
    return Latents(torch.cat(means), std, torch.cat(labels))


class _Prompted(nn.Module):
    """UNet and text encoder as one network, whose prompts are positions in `token_ids` (N, 16)."""

    token_ids: Tensor

    def __init__(self, token_ids: Tensor) -> None:
        super().__init__()
        self.unet, self.text_encoder = model.build_unet(), model.build_text_encoder()
        self.register_buffer("token_ids", token_ids, persistent=False)

    def forward(self, latents: Tensor, timesteps: Tensor, prompts: Tensor) -> Tensor:
        states = self.text_encoder(self.token_ids)[0].index_select(0, prompts)
        predicted: Tensor = self.unet(latents, timesteps, states).sample
        return predicted


def train(
    latents: Latents,
    plan: Plan,
    checkpoint: Path,
    *,
    seed: int = 0,
    batch: int = 128,
    device: str = "cpu",
    report: Report | None = None,
) -> Training:
    """Train UNet and text encoder; ``average`` has them as `unet` and `text_encoder`."""
    latents = latents.to(device)
    generator = torch.Generator(device).manual_seed(seed)
    torch.manual_seed(seed)
    token_ids = model.tokenize([*ANIMALS, ""])
    networks, averages = _Prompted(token_ids), _Prompted(token_ids)
    for either in (networks, averages):
        either.to(device)
        either.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    alphas_cumprod = ddpm_alphas_cumprod().to(device)
    snr = alphas_cumprod / (1 - alphas_cumprod)
    weights = snr.clamp(max=MAX_SNR) / snr

    def draw() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Noisy latents, their timesteps and prompts, and the noise."""
        clean, labels = latents.draw(batch, generator)
        empty = torch.rand(batch, generator=generator, device=device) < UNCONDITIONAL
        prompts = labels.masked_fill(empty, len(ANIMALS))
        timesteps = (evenly(batch, generator) * len(alphas_cumprod)).long()
        signal = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        noise = torch.randn(clean.shape, generator=generator, device=device)
        noisy = (signal.sqrt() * clean + (1 - signal).sqrt() * noise).to(memory_format=torch.channels_last)
        return noisy, timesteps, prompts, noise

    network = graphed(networks.train(), draw()[:3])

    def loss(step: int) -> Tensor:
        # in float32: at this size bfloat16 is a quarter slower on a CPU
        noisy, timesteps, prompts, noise = draw()
        errors = (network(noisy, timesteps, prompts) - noise).square().mean(dim=(1, 2, 3))
        return (weights[timesteps] * errors).mean()

    return fit(networks, averages, loss, generator, plan, checkpoint, report)


def read(checkpoint: Path) -> Any:
    """The averages, `unet` and `text_encoder`, of a checkpoint of :func:`train`."""
    averages = _Prompted(torch.empty(0))
    averages.load_state_dict(torch.load(checkpoint, weights_only=True, map_location="cpu")["averages"])
    return averages
