"""Train the miniature FLUX from nothing: autoencoder, then text encoders and transformer together.

Rectified flow on the latents, the times drawn as DanceGRPO's shifted schedule spaces them. FLUX.1-dev got its embedded
guidance by distillation; here it is drawn at random, so that the network learns to work whatever it is told.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.miniatures import model_flux, train_sd3
from benchmarks.miniatures.train_sd import Latents, Report, evenly, fit
from pcpo_overlay.schedules import shift_sigmas
from pcpo_overlay.tools.miniature import PROMPTS, flux

GUIDANCE = (1.0, 5.0)
"""Range of the embedded guidance in training."""


@dataclass(frozen=True)
class Recipe(train_sd3.VAERecipe):
    """How the shipped weights were trained."""

    copies: int = 12
    steps: int = 9000
    batch: int = 64
    lr: float = 1e-3
    ema: float = 0.999


def train_vae(recipe: Recipe, report: Report | None = None) -> Any:
    """An AutoencoderKL of the digits, in the way of the miniature SD3's, with FLUX's scale and shift."""
    return train_sd3.train_vae(recipe, report, model=model_flux)


def train_transformer(
    latents: Latents, recipe: Recipe, report: Report | None = None
) -> tuple[Any, tuple[Any, Any]]:
    """Transformer and text encoders, trained together; returns their averaged weights."""
    generator = torch.Generator().manual_seed(recipe.seed + 3)
    torch.manual_seed(recipe.seed + 3)
    transformer, encoders = model_flux.build_transformer().train(), model_flux.build_text_encoders()
    models = nn.ModuleList([transformer, *encoders]).train()
    averages = nn.ModuleList([model_flux.build_transformer(), *model_flux.build_text_encoders()])
    token_ids = _token_ids()

    def loss(step: int) -> Tensor:
        drawn, prompt = latents.draw(recipe.batch, generator)
        clean = flux.pack(drawn)
        noise = torch.randn(clean.shape, generator=generator)
        t = shift_sigmas(evenly(recipe.batch, generator), model_flux.SCHEDULER["shift"])
        least, most = GUIDANCE
        guidance = least + (most - least) * torch.rand(recipe.batch, generator=generator)
        part = t.view(-1, 1, 1)
        text = flux.encode(encoders, token_ids)
        predicted = flux.velocity(
            transformer,
            (1 - part) * clean + part * noise,
            flux.TextStates(text.states[prompt], text.pooled[prompt]),
            t,
            guidance,
        )
        return F.mse_loss(predicted, noise - clean)

    fit(models, loss, recipe.steps, recipe.lr, averages=averages, ema=recipe.ema, report=report)
    return averages[0], (averages[1], averages[2])


def _token_ids() -> tuple[Tensor, Tensor]:
    """Of the ten prompts, padded."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizers = model_flux.build_tokenizers(Path(folder))
    return flux.tokenize(tokenizers, PROMPTS)
