"""Stand-in for torchvision.transforms: the four that upstreams build, of which SkyReels' trainer runs three."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

#: Of which Bagel's transforms, which are built and never called, would call something.
functional = None


class InterpolationMode(enum.Enum):
    """How a picture is resized."""

    BICUBIC = "bicubic"


class Compose:
    """One transform after the other."""

    def __init__(self, transforms: list[Callable[[Any], Any]]) -> None:
        self.transforms = transforms

    def __call__(self, value: Any) -> Any:
        for transform in self.transforms:
            value = transform(value)
        return value


class Lambda:
    """A function as a transform."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, value: Any) -> Any:
        return self.function(value)


class ToTensor:
    """PIL image of bytes to (3, H, W) in [0, 1]."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)


class Normalize:
    """Per channel, less the mean and over the std."""

    def __init__(self, mean: list[float], std: list[float], inplace: bool = False) -> None:
        self.mean, self.std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return (image - self.mean) / self.std
