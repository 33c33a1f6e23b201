"""The interface by which DanceGRPO's trainers score images, over the classifier of real digits, or of animals.

They take the inner product of image and text features: here the log-odds of what can be prompted for, and what was.
Probabilities would do for a reader, but not for trainers that divide by the std of each prompt's rewards:
where all samples are right, what would be left to tell them apart is rounding.

Which classifier it is, the weights say that the trainers will load.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pcpo_overlay.tools.miniature import IMAGE_SIZE, animals, rewards
from pcpo_overlay.tools.miniature.animals import rewards as of_animals
from pcpo_overlay.tools.miniature.animals.classifier import AnimalClassifier
from pcpo_overlay.tools.miniature.classifier import DigitClassifier, log_odds
from pcpo_overlay.tools.miniature.dancegrpo import HPS_WEIGHTS

if TYPE_CHECKING:
    from PIL import Image


class Scorer(torch.nn.Module):
    """Before a classifier among a class's bases: ``forward`` gives what the trainers multiply."""

    def forward(self, images: Tensor, asked: Tensor) -> dict[str, Tensor]:
        """Log-odds (N, labels) of images (N, 3, H, W), and one-hot rows (N, labels) of what was asked for (N, 1)."""
        with torch.autocast(images.device.type, enabled=False):  # the trainers score in half precision
            odds = log_odds(super().forward(images.float()))
        return {"image_features": odds, "text_features": F.one_hot(asked[:, 0], odds.shape[1]).to(odds)}


class DigitScorer(Scorer, DigitClassifier):  # type: ignore[misc]
    """The digit classifier, told digits by token."""


class AnimalScorer(Scorer, AnimalClassifier):  # type: ignore[misc]
    """The animals' classifier likewise."""


def _of_animals() -> bool:
    """Whether the weights in the folder of the run are the animals' classifier's; digits' where there are none."""
    return (
        HPS_WEIGHTS.is_file() and "style.weight" in torch.load(HPS_WEIGHTS, weights_only=True)["state_dict"]
    )


def _preprocess(size: int) -> Callable[[Image.Image], Tensor]:
    """To (3, size, size) in [0, 1]; images that a trainer enlarged are brought back to their size."""

    def preprocess(image: Image.Image) -> Tensor:
        import numpy as np
        from PIL import Image as images

        image = image.convert("RGB")
        if image.size != (size, size):
            image = image.resize((size, size), images.Resampling.BOX)
        return torch.from_numpy(np.asarray(image).astype(np.float32) / 255).permute(2, 0, 1)

    return preprocess


def create_model_and_transforms(name: str, pretrained: str, **kwargs: Any) -> tuple[Scorer, Any, Any]:
    """The model without its weights, which the trainers load, and the preprocessing for training and for scoring."""
    scorer, size = (AnimalScorer(), animals.IMAGE_SIZE) if _of_animals() else (DigitScorer(), IMAGE_SIZE)
    return scorer, _preprocess(size), _preprocess(size)


def get_tokenizer(name: str) -> Callable[[Sequence[str]], Tensor]:
    """Prompts to what they ask for, (N, 1)."""
    labels = of_animals.labels if _of_animals() else rewards.labels
    return lambda prompts: labels(prompts)[:, None]
