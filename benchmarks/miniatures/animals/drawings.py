"""Pictures to train on: an icon flipped, turned, scaled and shifted before a background drawn at random.

The backgrounds are there so that a reward finds something in a picture that it can move.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.miniatures.animals.icons import RENDERED, Icons
from pcpo_overlay.tools.miniature.animals import ANIMALS, IMAGE_SIZE

DEGREES, SCALE, SHIFT = 12.0, (0.72, 0.95), 0.06
"""Turned by up to so much; of the picture's side; moved by up to so much of it."""

WHITE, PASTEL, SATURATED = 0.3, 0.35, 0.2
"""Shares of the backgrounds; the rest is dark."""

HORIZON = 0.25
"""Share of the backgrounds that are not white and have a ground of another colour."""


@dataclass(frozen=True)
class Drawings:
    """`images` (N, 3, 64, 64) float32 in [0, 1]; `animals`, `styles` and `icons` (N,) int64: labels, and which icon."""

    images: Tensor
    animals: Tensor
    styles: Tensor
    icons: Tensor


class Artist:
    """Draws from icons: each animal equally often, and of its icons each equally often.

    Args:
        icons: all of them.
        seed: of everything random.
        device: where it draws. Another one draws other pictures from the same seed.
    """

    def __init__(self, icons: Icons, seed: int, device: str = "cpu") -> None:
        self.generator = torch.Generator(device).manual_seed(seed)
        self._premultiplied = premultiplied(icons.rgba.to(device))
        self._animals, self._styles = icons.animals.to(device), icons.styles.to(device)
        of = [(icons.animals == label).nonzero()[:, 0] for label in range(len(ANIMALS))]
        self._counts = torch.tensor([len(own) for own in of]).to(device)
        self._of = nn.utils.rnn.pad_sequence(of, batch_first=True).to(device)

    def draw(self, count: int) -> Drawings:
        """`count` drawings of animals at random."""
        device = self.generator.device
        return self.draw_animals(
            torch.randint(len(ANIMALS), (count,), generator=self.generator, device=device)
        )

    def draw_animals(self, animals: Tensor) -> Drawings:
        """A drawing of each of `animals` (N,) int64, of any of its icons."""
        places = torch.rand(len(animals), generator=self.generator, device=self.generator.device)
        return self.draw_icons(self._of[animals, (places * self._counts[animals]).long()])

    def draw_icons(self, icons: Tensor) -> Drawings:
        """A drawing of each of `icons` (N,) int64."""
        figures = _placed(self._premultiplied[icons], self.generator)
        color, alpha = figures[:, :3], figures[:, 3:]
        images = color + (1 - alpha) * backgrounds(len(icons), self.generator)
        return Drawings(images.clamp(0, 1), self._animals[icons], self._styles[icons], icons)

    def plain(self) -> Tensor:
        """Every icon upright on white, (N, 3, 64, 64)."""
        figures = F.avg_pool2d(self._premultiplied, RENDERED // IMAGE_SIZE)
        return figures[:, :3] + 1 - figures[:, 3:]


def premultiplied(rgba: Tensor) -> Tensor:
    """`rgba` (N, 4, H, W) uint8 as float32 in [0, 1], colour times alpha: what may be averaged."""
    alpha = rgba[:, 3:].float() / 255
    return torch.cat([rgba[:, :3].float() / 255 * alpha, alpha], dim=1)


def _placed(figures: Tensor, generator: torch.Generator) -> Tensor:
    """Premultiplied `figures` (N, 4, 128, 128), each placed at random."""
    flip, turn, zoom, dx, dy = torch.rand(5, len(figures), generator=generator, device=generator.device)
    return placed(
        figures,
        mirrored=torch.where(flip < 0.5, -1.0, 1.0),
        angle=(2 * turn - 1) * math.radians(DEGREES),
        size=SCALE[0] + (SCALE[1] - SCALE[0]) * zoom,
        shift=torch.stack([2 * dx - 1, 2 * dy - 1], dim=1) * (2 * SHIFT),
    )


def placed(figures: Tensor, *, mirrored: Tensor, angle: Tensor, size: Tensor, shift: Tensor) -> Tensor:
    """Premultiplied `figures` (N, 4, 128, 128) flipped, turned, scaled and shifted, (N, 4, 64, 64).

    Args:
        mirrored: (N,) -1 for a flipped one, else 1.
        angle: (N,) in radians.
        size: (N,) as a share of the picture.
        shift: (N, 2) to the left and up, in halves of the picture.
    """
    n = len(figures)
    cos, sin = angle.cos() / size, angle.sin() / size
    matrix = torch.stack([mirrored * cos, -mirrored * sin, sin, cos], dim=1).view(n, 2, 2)
    grid = F.affine_grid(
        torch.cat([matrix, matrix @ shift[:, :, None]], dim=2),
        [n, 4, RENDERED, RENDERED],
        align_corners=False,
    )
    moved = F.grid_sample(figures, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return F.avg_pool2d(moved, RENDERED // IMAGE_SIZE)


def backgrounds(count: int, generator: torch.Generator) -> Tensor:
    """`count` backgrounds (N, 3, 64, 64): white, pastel, saturated or dark, some with a horizon."""
    device = generator.device
    kind, hue, light, ground, hue_below, height = torch.rand(6, count, generator=generator, device=device)
    white = kind < WHITE
    dark = kind >= WHITE + PASTEL + SATURATED
    saturated = ~dark & (kind >= WHITE + PASTEL)
    saturation = torch.where(saturated, 0.7 + 0.3 * light, torch.where(dark, 0.5 * light, 0.12 + 0.2 * light))
    value = torch.where(
        saturated, 0.75 + 0.25 * ground, torch.where(dark, 0.05 + 0.2 * light, 0.9 + 0.1 * ground)
    )
    saturation, value = saturation.where(~white, 0.0), value.where(~white, 1.0)
    above, below = hsv(hue, saturation, value), hsv(hue_below, saturation, 0.85 * value)
    rows = (torch.arange(IMAGE_SIZE, device=device) + 0.5) / IMAGE_SIZE
    has_ground = (ground < HORIZON) & ~white
    is_below = (rows[None] > 0.5 + 0.35 * height[:, None]) & has_ground[:, None]
    column = torch.where(is_below[:, None], below[:, :, None], above[:, :, None])
    return column[..., None].expand(-1, -1, -1, IMAGE_SIZE)


def hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Colours (N, 3) of hue, saturation and value (N,), all in [0, 1]."""
    corner = (hue.new_tensor([5.0, 3.0, 1.0]) + 6 * hue[:, None]) % 6
    fall = torch.minimum(corner, 4 - corner).clamp(0, 1)
    return value[:, None] * (1 - saturation[:, None] * fall)
