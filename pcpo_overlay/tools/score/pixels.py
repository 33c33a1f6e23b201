"""Pictures as each network was made to see them: the reference arithmetic, on torch and Pillow alone.

In is always (N, 3, H, W) uint8, out (N, 3, S, S) float32, normalised.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def clip(pictures: Tensor, side: int) -> Tensor:
    """OpenAI's: Pillow's bicubic resize of the shorter side, the centre cut out, CLIP's mean and std."""
    height, width = pictures.shape[2:]
    short = min(height, width)
    size = (int(side * height / short), int(side * width / short))
    resized = pillow(pictures, size)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return normalised(resized[:, :, top : top + side, left : left + side], *CLIP)


def squashed(pictures: Tensor, side: int) -> Tensor:
    """dgm-eval's for DINOv2: Pillow's bicubic resize to a square, ImageNet's mean and std."""
    return normalised(pillow(pictures, (side, side)), *IMAGENET)


def hps(pictures: Tensor, side: int) -> Tensor:
    """HPSv2's: floats first, then a bicubic resize of the longer side, zeros around it, CLIP's mean and std.

    The resize is antialiased, as torchvision does it since 0.17, and leaves [0, 1], which nothing clamps.
    """
    x = pictures.float() / 255
    height, width = x.shape[2:]
    scale = side / max(height, width)
    size = (round(height * scale), round(width * scale))
    if size != (height, width):
        x = F.interpolate(x, size, mode="bicubic", align_corners=False, antialias=True)
    high, wide = side - size[0], side - size[1]
    x = F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
    mean, std = (x.new_tensor(v)[:, None, None] for v in CLIP)
    return (x - mean) / std


def pillow(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Pillow's bicubic resize to height and width, (N, 3, height, width) uint8."""
    import numpy as np
    from PIL import Image

    if tuple(pictures.shape[2:]) == size:
        return pictures
    resized = [
        Image.fromarray(one.permute(1, 2, 0).contiguous().cpu().numpy()).resize(
            (size[1], size[0]), Image.Resampling.BICUBIC
        )
        for one in pictures
    ]
    return torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in resized]).to(
        pictures.device
    )


def normalised(pictures: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """To [0, 1], less the mean, by the std."""
    x = pictures.float() / 255
    return (x - x.new_tensor(mean)[:, None, None]) / x.new_tensor(std)[:, None, None]
