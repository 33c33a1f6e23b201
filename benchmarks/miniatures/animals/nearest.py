"""How near a picture is to an icon that was trained on, whatever its background, place, size and turn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.miniatures.animals.drawings import DEGREES, SCALE, SHIFT, placed, premultiplied
from benchmarks.miniatures.animals.icons import Icons
from pcpo_overlay.tools.miniature.animals import IMAGE_SIZE

TURNS = (-0.67, 0.0, 0.67)
SIZES = (0.17, 0.5, 0.83)
"""Where an icon is tried: shares of the turns and sizes that drawings have. Flips and places are tried all."""

REACH = math.ceil(SHIFT * IMAGE_SIZE) + 1
"""Pixels that an icon is moved by to every side."""


@dataclass(frozen=True)
class Nearest:
    """`distances` (N,) to the nearest icon of each picture's animal, and which: `icons` (N,) int64."""

    distances: Tensor
    icons: Tensor


def templates(figure: Tensor) -> Tensor:
    """An icon (4, 128, 128), premultiplied, in every flip, turn and size, (18, 4, 64, 64)."""
    flips, turns, sizes = torch.meshgrid(
        torch.tensor([0.0, 1.0]), torch.tensor(TURNS), torch.tensor(SIZES), indexing="ij"
    )
    flip, turn, size = flips.flatten(), turns.flatten(), sizes.flatten()
    return placed(
        figure.expand(len(flip), -1, -1, -1),
        mirrored=torch.where(flip > 0, -1.0, 1.0),
        angle=turn * math.radians(DEGREES),
        size=SCALE[0] + (SCALE[1] - SCALE[0]) * size,
        shift=torch.zeros(len(flip), 2),
    )


def distance(images: Tensor, figure: Tensor) -> Tensor:
    """Root mean square difference (N,) in colour between images (N, 3, 64, 64) and an icon where the icon is.

    It is the least over flips, turns, sizes and places: with the icon's alpha a and colour c,
    ``sum a (x - c)^2 / (3 sum a) = (sum a x^2 - 2 sum (a c) x + sum a c^2) / (3 sum a)``.
    """
    tried = templates(figure)
    color, alpha = tried[:, :3], tried[:, 3:]
    padded = F.pad(images, (REACH,) * 4, mode="replicate")
    squares = F.conv2d(padded.square(), alpha.expand(-1, 3, -1, -1))
    products = F.conv2d(padded, color)
    own = (color.square() / alpha.clamp(min=1e-6)).sum(dim=(1, 2, 3)).view(1, -1, 1, 1)
    whole = 3 * alpha.sum(dim=(1, 2, 3)).view(1, -1, 1, 1)
    means = (squares - 2 * products + own) / whole
    return means.clamp(min=0).flatten(1).min(dim=1).values.sqrt()


def nearest(images: Tensor, animals: Tensor, icons: Icons, *, apart_from: Tensor | None = None) -> Nearest:
    """The nearest icon of the same animal for each image.

    Args:
        images: (N, 3, 64, 64) in [0, 1].
        animals: (N,) int64.
        icons: all of them.
        apart_from: (N,) int64, for each image an icon that does not count; so its own is left out of a drawing.
    """
    figures = premultiplied(icons.rgba)
    best = torch.full((len(images),), math.inf)
    which = torch.full((len(images),), -1)
    for icon in range(len(icons)):
        asked = animals == icons.animals[icon]
        if apart_from is not None:
            asked &= apart_from != icon
        index = asked.nonzero()[:, 0]
        if not len(index):
            continue
        found = distance(images[index], figures[icon])
        nearer = found < best[index]
        best[index[nearer]], which[index[nearer]] = found[nearer], icon
    return Nearest(best, which)
