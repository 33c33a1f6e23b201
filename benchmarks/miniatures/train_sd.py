"""Train the miniature from nothing: classifier, then autoencoder, then text encoder and UNet together.

The way of latent diffusion (Rombach et al. 2022), small: an autoencoder whose latents have zero mean, unit
variance and a little noise, and noise prediction on them with one prompt in ten left empty for
classifier-free guidance (Ho & Salimans 2022).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.miniatures import model_sd
from benchmarks.miniatures.augment import augment
from pcpo_overlay.tools.miniature import PROMPTS
from pcpo_overlay.tools.miniature.digits import load_digits
from pcpo_overlay.tools.miniature.sd import LATENT_CHANNELS

Report = Callable[[int, float], None]
"""Called after every step with the steps done and the loss."""


@dataclass(frozen=True)
class Recipe:
    """How the shipped weights were trained. Steps, batch sizes and learning rates; all else is in the code."""

    seed: int = 0
    vae_steps: int = 1200
    vae_batch: int = 32
    vae_lr: float = 2e-3
    latent_noise: float = 0.1
    copies: int = 12
    unet_steps: int = 6000
    unet_batch: int = 32
    unet_lr: float = 1.5e-3
    unconditional: float = 0.1
    ema: float = 0.999


def train_vae(recipe: Recipe, report: Report | None = None) -> Any:
    """An AutoencoderKL of the digits; see :func:`fold` for the latents it ends with.

    In place of a weight on the KL term, which at this size empties three of the four channels, every channel is
    brought to mean 0 and variance 1 over the batch and then gets noise of a fixed std. So the posterior's
    variance, and with it the KL term, is a constant.
    """
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    digits = load_digits("train")
    torch.manual_seed(recipe.seed + 1)
    vae = model_sd.build_vae().train()

    def loss(step: int) -> Tensor:
        index = torch.randint(len(digits), (recipe.vae_batch,), generator=generator)
        images = 2 * augment(digits.images[index], generator) - 1
        latents = F.batch_norm(vae.encode(images).latent_dist.mean, None, None, training=True)
        noise = torch.randn(latents.shape, generator=generator)
        return F.mse_loss(vae.decode(latents + recipe.latent_noise * noise).sample, images)

    fit(vae, loss, recipe.vae_steps, recipe.vae_lr, report=report)
    vae.eval().requires_grad_(False)
    fold(vae, digits.images, recipe.latent_noise)
    return vae


@torch.no_grad()
def fold(vae: Any, images: Tensor, noise: float) -> None:
    """Fold the latents' normalization into the two 1x1 convolutions around them.

    Afterwards ``encode(x) * scaling_factor``, with SD 1.x's own scaling factor, has mean 0 and std 1 in each
    channel over `images`, the posterior's std is `noise` in the same unit, and ``decode`` takes it all back.
    """
    means = torch.cat([vae.encode(2 * chunk - 1).latent_dist.mean for chunk in images.split(256)])
    mean, std = means.mean(dim=(0, 2, 3)), means.std(dim=(0, 2, 3))
    n = LATENT_CHANNELS
    weight, bias = vae.quant_conv.weight, vae.quant_conv.bias
    weight[:n] /= (std * model_sd.SCALING_FACTOR)[:, None, None, None]
    bias[:n] = (bias[:n] - mean) / (std * model_sd.SCALING_FACTOR)
    weight[n:], bias[n:] = 0, 2 * math.log(noise / model_sd.SCALING_FACTOR)  # log variances
    vae.post_quant_conv.weight *= model_sd.SCALING_FACTOR


@dataclass(frozen=True)
class Latents:
    """Posteriors of images, as the denoiser sees latents: `means` and `stds` (N, C, 8, 8), `labels` (N,) the digits."""

    means: Tensor
    stds: Tensor
    labels: Tensor

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents (batch, C, 8, 8) of images drawn at random, and their labels (batch,)."""
        index = torch.randint(len(self.labels), (batch,), generator=generator)
        mean, std = self.means[index], self.stds[index]
        return mean + std * torch.randn(mean.shape, generator=generator), self.labels[index]


@torch.no_grad()
def encode_train_split(vae: Any, *, copies: int, seed: int) -> Latents:
    """The train split as it is and in ``copies - 1`` augmented copies, encoded, shifted and scaled."""
    generator = torch.Generator().manual_seed(seed + 2)
    digits = load_digits("train")
    shift, scale = vae.config.shift_factor or 0.0, vae.config.scaling_factor
    means, stds = [], []
    for copy in range(copies):
        images = digits.images if copy == 0 else augment(digits.images, generator)
        for chunk in images.split(256):
            posterior = vae.encode(2 * chunk - 1).latent_dist
            means.append((posterior.mean - shift) * scale)
            stds.append(posterior.std * scale)
    return Latents(torch.cat(means), torch.cat(stds), digits.labels.repeat(copies))


def train_unet(latents: Latents, recipe: Recipe, report: Report | None = None) -> tuple[Any, Any]:
    """UNet and text encoder, trained together by noise prediction; returns their averaged weights."""
    generator = torch.Generator().manual_seed(recipe.seed + 3)
    torch.manual_seed(recipe.seed + 3)
    unet, text_encoder = model_sd.build_unet().train(), model_sd.build_text_encoder().train()
    models = nn.ModuleList([unet, text_encoder])
    averages = nn.ModuleList([model_sd.build_unet(), model_sd.build_text_encoder()])
    token_ids = tokenize([*PROMPTS, ""])
    alphas_cumprod = ddpm_alphas_cumprod()

    def loss(step: int) -> Tensor:
        clean, label = latents.draw(recipe.unet_batch, generator)
        empty = torch.rand(recipe.unet_batch, generator=generator) < recipe.unconditional
        prompt = torch.where(empty, len(PROMPTS), label)
        timesteps = (evenly(recipe.unet_batch, generator) * len(alphas_cumprod)).long()
        signal = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        noise = torch.randn(clean.shape, generator=generator)
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        return F.mse_loss(unet(noisy, timesteps, text_encoder(token_ids)[0][prompt]).sample, noise)

    fit(models, loss, recipe.unet_steps, recipe.unet_lr, averages=averages, ema=recipe.ema, report=report)
    return averages[0], averages[1]


def tokenize(prompts: list[str]) -> Tensor:
    """Padded token ids (N, 16) int64."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = model_sd.build_tokenizer(Path(folder))
    ids: Tensor = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return ids


def ddpm_alphas_cumprod() -> Tensor:
    """The cumulative signal share (1000,) of SD 1.5's scaled linear schedule."""
    start, end = math.sqrt(model_sd.SCHEDULER["beta_start"]), math.sqrt(model_sd.SCHEDULER["beta_end"])
    betas = torch.linspace(
        start, end, model_sd.SCHEDULER["num_train_timesteps"], dtype=torch.float64
    ).square()
    return (1 - betas).cumprod(dim=0).float()


def cosine(step: int, steps: int, warmup: int = 100) -> float:
    """Learning rate factor: a short linear rise, then a cosine down to 1%."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def evenly(n: int, generator: torch.Generator) -> Tensor:
    """`n` values in [0, 1), evenly spread from a random start: each batch sees every noise level.

    Kingma et al. 2021.
    """
    device = generator.device
    return (torch.rand(1, generator=generator, device=device) + torch.arange(n, device=device) / n) % 1


def fit(
    models: nn.Module,
    loss_of: Callable[[int], Tensor],
    steps: int,
    lr: float,
    *,
    factor: Callable[[int], float] | None = None,
    averages: nn.Module | None = None,
    ema: float = 0.0,
    report: Report | None = None,
) -> None:
    """Minimize a loss by AdamW, with the gradient's norm clipped to 1.

    Args:
        models: what is trained.
        loss_of: the () loss of a step, counted from 0.
        steps: how many.
        lr: the highest learning rate.
        factor: of it, by the step; :func:`cosine` unless given.
        averages: a copy of the models, which becomes the average of their weights.
        ema: how slowly the averages forget.
    """
    values: list[Tensor] = list(models.parameters())
    means: list[Tensor] = []
    if averages is not None:
        averages.requires_grad_(False).eval().load_state_dict(models.state_dict())
        means = list(averages.parameters())
    optimizer = torch.optim.AdamW(models.parameters(), lr=lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor or (lambda step: cosine(step, steps)))
    for step in range(steps):
        loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(models.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if means:
            average(means, values, step, ema)
        if report is not None:
            report(step + 1, loss.item())


@torch.no_grad()
def average(means: list[Tensor], values: list[Tensor], step: int, ema: float) -> None:
    """Move the `means` of the weights towards their `values` after `step` (from 0), the early ones forgotten sooner."""
    torch._foreach_lerp_(means, values, 1 - min(ema, (1 + step) / (10 + step)))
