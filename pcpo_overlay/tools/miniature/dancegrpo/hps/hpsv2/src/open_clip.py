"""The interface by which DanceGRPO's trainers score images, over the classifier of real digits.

They take the inner product of image and text features: here the log-odds of the ten digits, and the prompted digit.
Probabilities would do for a reader, but not for trainers that divide by the std of each prompt's rewards:
where all samples are right, what would be left to tell them apart is rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pcpo_overlay.tools.miniature import DIGIT_NAMES, IMAGE_SIZE
from pcpo_overlay.tools.miniature.classifier import DigitClassifier, log_odds
from pcpo_overlay.tools.miniature.rewards import labels

if TYPE_CHECKING:
    from PIL import Image


class DigitScorer(DigitClassifier):
    """The digit classifier, told digits by token: ``forward`` gives what the trainers multiply."""

    def forward(self, images: Tensor, digits: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Log-odds (N, 10) of images (N, 3, 32, 32), and one-hot rows (N, 10) of digits (N, 1)."""
        with torch.autocast(images.device.type, enabled=False):  # the trainers score in half precision
            odds = log_odds(super().forward(images.float()))
        return {
            "image_features": odds,
            "text_features": F.one_hot(digits[:, 0], len(DIGIT_NAMES)).to(odds),
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
