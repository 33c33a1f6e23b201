"""Stand-in for HPSv2's open_clip: image and text towers of one layer, whose inner product is the score.

The score depends on every pixel and on the text, and differs enough between two small images for their advantages to
differ in float16 too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

SIZE = 8
TOKENS = 32
FEATURES = 16
SCALE = 4.0


class TinyCLIP(torch.nn.Module):
    """Weights from a fixed seed; the trainers load them again from the checkpoint that they are given."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(20)
        self.pixels = torch.nn.Parameter(torch.randn(3 * SIZE * SIZE, FEATURES, generator=random))
        self.letters = torch.nn.Parameter(torch.randn(256, FEATURES, generator=random))

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features (B, FEATURES) of images (B, 3, SIZE, SIZE) and of texts (B, TOKENS)."""
        flat = image.float().flatten(1)
        contrast = (flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + 1e-3)
        seen = torch.sin(SCALE * (contrast[:, :, None] * self.pixels).mean(1))
        read = self.letters[text].mean(1)
        return {
            "image_features": torch.nn.functional.normalize(seen, dim=-1),
            "text_features": torch.nn.functional.normalize(read, dim=-1),
        }


def preprocess(image: Image.Image) -> torch.Tensor:
    """(3, SIZE, SIZE) in [0, 1]."""
    small = np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX))
    return torch.from_numpy(small.astype(np.float32) / 255).permute(2, 0, 1)


def create_model_and_transforms(name: str, pretrained: str, **kwargs: Any) -> tuple[TinyCLIP, Any, Any]:
    """The model, and the preprocessing for training and for scoring."""
    return TinyCLIP(), preprocess, preprocess


def get_tokenizer(name: str) -> Callable[[list[str]], torch.Tensor]:
    """Texts to (B, TOKENS): their bytes, cut or padded with zeros."""

    def tokenize(texts: list[str]) -> torch.Tensor:
        return torch.tensor([list(t.encode()[:TOKENS].ljust(TOKENS, b"\0")) for t in texts])

    return tokenize
