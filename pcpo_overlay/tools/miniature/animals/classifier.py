"""A CNN that reads which animal a picture shows and in which set's style, trained on drawings from the icons."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import torch
from torch import Tensor, nn

from pcpo_overlay.tools.miniature import WEIGHTS
from pcpo_overlay.tools.miniature.animals import ANIMALS, IMAGE_SIZE, STYLES
from pcpo_overlay.tools.miniature.classifier import with_weights

FEATURES = 128


class AnimalClassifier(nn.Module):
    """Images (N, 3, 64, 64) in [0, 1] to logits (N, 45)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 128, 128)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.body = nn.Sequential(
            *layers,
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(widths[-1] * (IMAGE_SIZE // 16) ** 2, FEATURES),
            nn.SiLU(),
        )
        self.animal = nn.Linear(FEATURES, len(ANIMALS))
        self.style = nn.Linear(FEATURES, len(STYLES))

    def features(self, images: Tensor) -> Tensor:
        """The last but one layer, (N, 128): a small perceptual space for measures of diversity."""
        if images.ndim != 4 or images.shape[1:] != (3, IMAGE_SIZE, IMAGE_SIZE):
            raise ValueError(f"images must be (N, 3, {IMAGE_SIZE}, {IMAGE_SIZE}), got {tuple(images.shape)}")
        features: Tensor = self.body(2 * images.float() - 1)
        return features

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.animal(self.features(images))
        return logits

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """The animal (N,) int64, a position in :data:`ANIMALS`, that each image most probably shows."""
        return self(images).argmax(dim=1)


def classifier_path() -> Path:
    """Where the shipped weights lie."""
    return WEIGHTS / "animals" / "classifier.safetensors"


def load_classifier(path: Path | None = None) -> AnimalClassifier:
    """The trained classifier (default: the shipped weights); see :func:`with_weights`."""
    how = "python -m benchmarks.miniatures.animals --help"
    return with_weights(AnimalClassifier, path or classifier_path(), how)


@functools.lru_cache(maxsize=1)
def shipped() -> AnimalClassifier:
    """The shipped classifier, loaded once."""
    return load_classifier()
