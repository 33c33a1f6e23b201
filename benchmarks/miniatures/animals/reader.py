"""Train the reader of animals and styles: it judges what the miniature draws, and rewards it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.miniatures.animals.drawings import Artist, Drawings
from benchmarks.miniatures.animals.resumable import Plan, Report, Training, fit
from pcpo_overlay.tools.miniature.animals.classifier import AnimalClassifier


def train(
    artist: Artist, plan: Plan, checkpoint: Path, *, batch: int = 128, report: Report | None = None
) -> Training:
    """Train on drawings with blur and grain, so that shapes and colours are read, and not their sharpness.

    `artist` should have another seed than the autoencoder's and the denoiser's: it judges on drawings of its own.
    """
    torch.manual_seed(artist.generator.initial_seed())
    device = artist.generator.device
    model, averages = AnimalClassifier().to(device).train(), AnimalClassifier().to(device)

    def loss(step: int) -> Tensor:
        drawings = artist.draw(batch)
        features = model.features(worn(drawings.images, artist.generator))
        animal = F.cross_entropy(model.animal(features), drawings.animals, label_smoothing=0.05)
        return animal + 0.5 * F.cross_entropy(model.style(features), drawings.styles, label_smoothing=0.05)

    return fit(model, averages, loss, artist.generator, plan, checkpoint, report)


def worn(images: Tensor, generator: torch.Generator) -> Tensor:
    """`images` with blur and grain of random strengths."""
    device = generator.device
    strength, grain = torch.rand(2, len(images), 1, 1, 1, generator=generator, device=device)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    noise = torch.randn(images.shape, generator=generator, device=device)
    return torch.lerp(images, blurred, strength) + 0.06 * grain * noise


@torch.no_grad()
def accuracy(model: Any, drawings: Drawings) -> tuple[float, float]:
    """Shares of drawings whose animal and whose style is read as it is."""
    features = model.features(drawings.images)
    animals = model.animal(features).argmax(dim=1) == drawings.animals
    styles = model.style(features).argmax(dim=1) == drawings.styles
    return float(animals.double().mean()), float(styles.double().mean())
