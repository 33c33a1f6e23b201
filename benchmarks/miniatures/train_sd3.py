"""Train the miniature SD3 from nothing: autoencoder, then text encoders and transformer together.

Rectified flow on the latents (Liu et al. 2022; Esser et al. 2024), with one prompt in ten left empty for
classifier-free guidance. The times are drawn as SD3's shifted schedule spaces them.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.miniatures import model_sd3
from benchmarks.miniatures.augment import augment
from benchmarks.miniatures.train_sd import Latents, Report, cosine, evenly, fit
from pcpo_overlay.schedules import shift_sigmas
from pcpo_overlay.tools.miniature import PROMPTS, sd3
from pcpo_overlay.tools.miniature.digits import load_digits


@dataclass(frozen=True)
class VAERecipe:
    """How the autoencoder of 16 channels was trained, this miniature's and FLUX's."""

    seed: int = 0
    vae_steps: int = 1500
    vae_batch: int = 32
    vae_lr: float = 2e-3
    latent_noise: float = 0.1
    decoder_noise: float = 0.3


@dataclass(frozen=True)
class Recipe(VAERecipe):
    """How the shipped weights were trained.

    205 text tokens beside 16 of the image make a step six times as long as 24 do, and all but ten of them are
    padding. So most steps, at a constant learning rate, see `short_text` tokens of each text encoder, and only
    the last, while the rate falls, all of them.
    """

    copies: int = 12
    short_steps: int = 10_000
    short_batch: int = 64
    short_text: int = 12
    full_steps: int = 1500
    full_batch: int = 32
    lr: float = 1e-3
    unconditional: float = 0.1
    ema: float = 0.999

    @property
    def steps(self) -> int:
        """Optimizer steps of the transformer."""
        return self.short_steps + self.full_steps


def train_vae(recipe: VAERecipe, report: Report | None = None, model: ModuleType = model_sd3) -> Any:
    """An AutoencoderKL of the digits whose scaled latents have mean 0 and std 1 in each channel.

    As in the miniature SD 1.x, every channel is normalized over the batch, which takes the place of a KL term.
    The decoder learns with noise of a std up to `recipe.decoder_noise`: the last steps of a short SDE chain
    leave about that much in the latents, and it is not to be seen in the image. `model` is the module of the
    architecture, with its ``build_vae`` and factors.
    """
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    digits = load_digits("train")
    torch.manual_seed(recipe.seed + 1)
    vae = model.build_vae().train()

    def loss(step: int) -> Tensor:
        index = torch.randint(len(digits), (recipe.vae_batch,), generator=generator)
        images = 2 * augment(digits.images[index], generator) - 1
        latents = F.batch_norm(vae.encode(images).latent_dist.mean, None, None, training=True)
        level = recipe.decoder_noise * torch.rand(recipe.vae_batch, 1, 1, 1, generator=generator)
        latents = latents + level * torch.randn(latents.shape, generator=generator)
        # in the decoder's own unit: its convolutions pad with zeros, which a later shift would not move
        return F.mse_loss(vae.decode(latents / model.SCALING_FACTOR + model.SHIFT_FACTOR).sample, images)

    fit(vae, loss, recipe.vae_steps, recipe.vae_lr, report=report)
    vae.eval().requires_grad_(False)
    _fold(vae, digits.images, recipe.latent_noise)
    return vae


@torch.no_grad()
def _fold(vae: Any, images: Tensor, noise: float) -> None:
    """Fold the latents' normalization into the encoder's last convolution.

    Afterwards ``(encode(x) - shift_factor) * scaling_factor``, with the architecture's own two factors, has mean 0
    and std 1 in each channel over `images`, and the posterior's std is `noise` in the same unit.
    """
    shift, scale = vae.config.shift_factor, vae.config.scaling_factor
    means = torch.cat([vae.encode(2 * chunk - 1).latent_dist.mean for chunk in images.split(256)])
    mean, std = means.mean(dim=(0, 2, 3)), means.std(dim=(0, 2, 3))
    n = vae.config.latent_channels
    weight, bias = vae.encoder.conv_out.weight, vae.encoder.conv_out.bias
    weight[:n] /= (std * scale)[:, None, None, None]
    bias[:n] = (bias[:n] - mean) / (std * scale) + shift
    weight[n:], bias[n:] = 0, 2 * math.log(noise / scale)  # log variances


def train_transformer(
    latents: Latents, recipe: Recipe, report: Report | None = None
) -> tuple[Any, tuple[Any, Any, Any]]:
    """Transformer and text encoders, trained together; returns their averaged weights."""
    generator = torch.Generator().manual_seed(recipe.seed + 3)
    torch.manual_seed(recipe.seed + 3)
    transformer, encoders = model_sd3.build_transformer().train(), model_sd3.build_text_encoders()
    models = nn.ModuleList([transformer, *encoders]).train()
    averages = nn.ModuleList([model_sd3.build_transformer(), *model_sd3.build_text_encoders()])
    short_ids, full_ids = _token_ids(recipe.short_text, recipe.short_text), _token_ids()

    def loss(step: int) -> Tensor:
        short = step < recipe.short_steps
        batch = recipe.short_batch if short else recipe.full_batch
        clean, label = latents.draw(batch, generator)
        empty = torch.rand(batch, generator=generator) < recipe.unconditional
        prompt = torch.where(empty, len(PROMPTS), label)
        t = shift_sigmas(evenly(batch, generator), model_sd3.SCHEDULER["shift"])
        noise = torch.randn(clean.shape, generator=generator)
        part = t.view(-1, 1, 1, 1)
        text = sd3.encode(encoders, short_ids if short else full_ids)
        velocity = transformer(
            (1 - part) * clean + part * noise,
            text.states[prompt],
            text.pooled[prompt],
            t * model_sd3.SCHEDULER["num_train_timesteps"],
        ).sample
        return F.mse_loss(velocity, noise - clean)

    fit(
        models,
        loss,
        recipe.steps,
        recipe.lr,
        factor=lambda step: learning_rate(step, recipe),
        averages=averages,
        ema=recipe.ema,
        report=report,
    )
    return averages[0], (averages[1], averages[2], averages[3])


def learning_rate(step: int, recipe: Recipe) -> float:
    """Its factor: a short linear rise, constant while the text is short, then a cosine down to 1%."""
    if step < recipe.short_steps:
        return cosine(min(step, 100), recipe.steps)
    return cosine(step - recipe.short_steps, recipe.full_steps, warmup=0)


def _token_ids(
    clip_length: int = sd3.CLIP_LENGTH, t5_length: int = sd3.T5_LENGTH
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the ten prompts and the empty one, padded."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizers = model_sd3.build_tokenizers(Path(folder))
    return sd3.tokenize(tokenizers, [*PROMPTS, ""], clip_length=clip_length, t5_length=t5_length)
