"""The interface by which DanceGRPO's trainers score images, over the classifier of real digits.

They take the inner product of image and text features: here the ten digits' probabilities, and the prompted digit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pcpo_overlay.miniature import DIGIT_NAMES, IMAGE_SIZE
from pcpo_overlay.miniature.classifier import DigitClassifier
from pcpo_overlay.miniature.rewards import labels

if TYPE_CHECKING:
    from PIL import Image


class DigitScorer(DigitClassifier):
    """The digit classifier, told digits by token: ``forward`` gives what the trainers multiply."""

    def forward(self, images: Tensor, digits: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Probabilities (N, 10) of images (N, 3, 32, 32), and one-hot rows (N, 10) of digits (N, 1)."""
        # The trainers score under autocast; float16 would leave few steps between probabilities near 1.
        with torch.autocast(images.device.type, enabled=False):
            probabilities = super().forward(images.float()).softmax(dim=1)
        return {
            "image_features": probabilities,
            "text_features": F.one_hot(digits[:, 0], len(DIGIT_NAMES)).to(probabilities),
        }


def preprocess(image: Image.Image) -> Tensor:
    """(3, 32, 32) in [0, 1]; images that a trainer enlarged are brought back to the size of the digits."""
    import numpy as np
    from PIL import Image as images

    image = image.convert("RGB")
    if image.size != (IMAGE_SIZE, IMAGE_SIZE):
        image = image.resize((IMAGE_SIZE, IMAGE_SIZE), images.Resampling.BOX)
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255).permute(2, 0, 1)


def create_model_and_transforms(name: str, pretrained: str, **kwargs: Any) -> tuple[DigitScorer, Any, Any]:
    """The model without its weights, which the trainers load, and the preprocessing for training and for scoring."""
    return DigitScorer(), preprocess, preprocess


def get_tokenizer(name: str) -> Callable[[Sequence[str]], Tensor]:
    """Prompts to the digits (N, 1) that they ask for."""
    return lambda prompts: labels(prompts)[:, None]
