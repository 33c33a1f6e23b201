"""Digits as other hands would have written them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(
    images: Tensor,
    generator: torch.Generator,
    *,
    degrees: float = 6.0,
    scale: float = 0.08,
    shear: float = 0.08,
    shift: float = 1.5,
) -> Tensor:
    """Each image turned, scaled, slanted and shifted a little, as another hand would have written it.

    Args:
        images: (N, C, H, W), the paper's white is 1.
        generator: the only source of randomness.
        degrees, scale, shear, shift: half widths of the uniform draws; shift in pixels.
    """
    n, height = images.shape[0], images.shape[-1]
    angle, zoom, slant, dx, dy = 2 * torch.rand(5, n, generator=generator) - 1
    angle, zoom, slant = angle * math.radians(degrees), 1 + zoom * scale, slant * shear
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    offset = torch.stack([dx, dy], dim=1) * (2 * shift / height)
    rotation = torch.stack([cos, cos * slant - sin, sin, sin * slant + cos], dim=1).view(n, 2, 2)
    grid = F.affine_grid(
        torch.cat([rotation, offset[:, :, None]], dim=2), list(images.shape), align_corners=False
    )
    # grid_sample pads with zeros, so the ink, not the paper, is what is moved.
    return 1 - F.grid_sample(1 - images, grid, mode="bilinear", align_corners=False)
