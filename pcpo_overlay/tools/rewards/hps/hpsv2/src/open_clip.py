"""The interface by which DanceGRPO's trainers score images, over the scorers of ``pcpo score``.

They take the inner product of the features of an image and of a text. Here an image's one feature is its score, and
a text's is 1. Both are float64, which autocast leaves alone: HPSv2's own inner products are rounded to half precision.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pcpo_overlay.tools.rewards.dancegrpo import SETTINGS
from pcpo_overlay.tools.rewards.named import one_line
from pcpo_overlay.tools.rewards.scored import Reward

if TYPE_CHECKING:
    from PIL import Image


class Scored(torch.nn.Module):
    """A reward in the place of a network; it has no weights that the trainer could load."""

    def __init__(self, reward: Reward) -> None:
        super().__init__()
        self.reward = reward

    def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Features (N, 1) of images (N, 3, H, W) uint8 and of texts from :func:`get_tokenizer`."""
        prompts = [bytes(row.tolist()).rstrip(b"\0").decode() for row in texts.cpu()]
        scores = torch.from_numpy(self.reward(images, prompts)).to(images.device, torch.float64)[:, None]
        return {"image_features": scores, "text_features": torch.ones_like(scores)}


def preprocess(image: Image.Image) -> Tensor:
    """(3, H, W) uint8: the scorer does the rest."""
    import numpy as np

    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def create_model_and_transforms(
    name: str, pretrained: str, *, device: Any, **kwargs: Any
) -> tuple[Scored, Any, Any]:
    """The reward that the folder of ``pretrained`` names, and the preprocessing for training and for scoring."""
    told = json.loads(Path(pretrained).with_name(SETTINGS).read_text(encoding="utf-8"))
    with one_line():
        reward = Reward(told["reward"], told["weights"], torch.device(device))
    return Scored(reward), preprocess, preprocess


def get_tokenizer(name: str) -> Callable[[Sequence[str]], Tensor]:
    """Prompts to their bytes (N, L) uint8, the shorter ones with zeros behind."""

    def tokenize(prompts: Sequence[str]) -> Tensor:
        told = [prompt.encode() for prompt in prompts]
        length = max(map(len, told))
        return torch.tensor([list(one.ljust(length, b"\0")) for one in told], dtype=torch.uint8)

    return tokenize
