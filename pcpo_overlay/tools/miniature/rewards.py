"""The reward of the digits, for every upstream: the probability of the prompted digit under our classifier."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pcpo_overlay.tools.miniature import PROMPTS
from pcpo_overlay.tools.miniature.classifier import DigitClassifier, load_classifier

if TYPE_CHECKING:
    import numpy as np


def digit_probability(images: Any, prompts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Probability (N,) float64 in [0, 1] that image i shows the digit that prompt i asks for.

    Args:
        images: a tensor (N, 3, 32, 32), of floats in [0, 1] or uint8, on any device; or a uint8 array
            (N, 32, 32, 3).
        prompts: N of the ten prompts.

    Raises:
        ValueError: images of another shape or type, another number of prompts, or a prompt that is not one of
            the ten.
    """
    return _classifier().digit_probability(as_tensor(images, len(prompts)), labels(prompts)).double().numpy()


def read_digits(images: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The digit (N,) int64 that each image most probably shows; `images` as for :func:`digit_probability`."""
    return _classifier().read(as_tensor(images, len(images))).numpy()


def labels(prompts: Sequence[str]) -> Tensor:
    """The digits (N,) int64 that the prompts ask for.

    Raises:
        ValueError: a prompt that is not one of the ten.
    """
    for prompt in prompts:
        if prompt not in PROMPTS:
            known = ", ".join(map(repr, PROMPTS))
            raise ValueError(f"the digit reward knows no prompt {prompt!r}; it knows: {known}")
    return torch.tensor([PROMPTS.index(prompt) for prompt in prompts], dtype=torch.int64)


def as_tensor(images: Any, count: int) -> Tensor:
    """`count` images as a classifier takes them, (N, 3, H, W) float32 in [0, 1] on the CPU."""
    if not isinstance(images, Tensor):
        import numpy as np

        array = np.asarray(images)
        if array.dtype != np.uint8 or array.ndim != 4:
            raise ValueError(
                "images must be a tensor (N, 3, H, W) or a uint8 array (N, H, W, 3), "
                f"got an array of {array.dtype} and shape {array.shape}"
            )
        images = torch.from_numpy(array.transpose(0, 3, 1, 2))
    if len(images) != count:
        raise ValueError(f"got {len(images)} images for {count} prompts")
    images = images.detach().cpu()
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


@functools.lru_cache(maxsize=1)
def _classifier() -> DigitClassifier:
    return load_classifier()
