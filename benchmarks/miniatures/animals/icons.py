"""Which icons show which animal, and how they are rendered."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.miniatures.animals.packages import PACKAGES, Package, read_icons
from pcpo_overlay.tools.miniature.animals import ANIMALS, STYLES

RENDERED = 128
"""Pixels of a rendered icon's side: twice the pictures', so that a turned one is not jagged."""

NAMES: dict[str, tuple[str, ...]] = {
    "bear": ("bear", "bear-face", "polar-bear"),
    "bee": ("honeybee",),
    "beetle": ("beetle", "lady-beetle", "ladybeetle"),
    "bird": ("bird", "bird-1", "bird-2", "black-bird", "parrot", "eagle"),
    "butterfly": ("butterfly", "monarch-butterfly"),
    "camel": ("camel", "two-hump-camel", "bactriancamel", "dromedarycamel"),
    "cat": ("cat", "cat-face", "black-cat", "grinning-cat", "grinning-cat-face"),
    "chicken": ("chicken", "rooster"),
    "cow": ("cow", "cow-face"),
    "dog": ("dog", "dog-face", "guide-dog", "service-dog", "poodle"),
    "fish": ("fish", "tropical-fish"),
    "fox": ("fox", "fox-face", "fox-face-1", "fox-face-2"),
    "frog": ("frog", "frog-face"),
    "horse": ("horse", "horse-face", "horseface"),
    "lion": ("lion", "lion-face"),
    "monkey": ("monkey", "monkey-face", "monkeyface"),
    "mouse": ("mouse", "mouse-face", "mouseside"),
    "pig": ("pig", "pig-face"),
    "rabbit": ("rabbit", "rabbit-face", "bunny", "bunnyside"),
    "sheep": ("sheep", "ewe", "ewe-1", "ewe-2", "ram"),
    "squirrel": ("chipmunk",),
    "tiger": ("tiger", "tiger-face", "tigerside"),
    "whale": ("whale", "spouting-whale", "spurtingwhale"),
    "wolf": ("wolf", "wolf-face"),
}
"""Names of an animal's icons in any of the sets; an animal that is not here has its own name alone."""

SHOWS_SOMETHING_ELSE = {("streamline-emojis", "turkey")}  # the country's flag
"""By style and name, icons that do not show what their name says."""


@dataclass(frozen=True)
class Icons:
    """`rgba` (N, 4, 128, 128) uint8, not premultiplied; `animals` and `styles` (N,) int64 labels; `names` N."""

    rgba: Tensor
    animals: Tensor
    styles: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


def chosen(package: Package, icons: dict[str, Any]) -> list[tuple[str, str]]:
    """Animal and icon of each icon of a package that shows one."""
    return [
        (animal, name)
        for animal in ANIMALS
        for name in NAMES.get(animal, (animal,))
        if name in icons and (package.style, name) not in SHOWS_SOMETHING_ELSE
    ]


def svg(icon: dict[str, Any], whole: dict[str, Any]) -> str:
    """An icon of a set as a document of its own."""
    left, top, width, height = (
        icon.get(key, whole.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )


def render(document: str) -> Tensor:
    """A square SVG as (4, 128, 128) uint8, not premultiplied."""
    import numpy as np
    import resvg_py
    from PIL import Image

    png = resvg_py.svg_to_bytes(svg_string=document, width=RENDERED, height=RENDERED, skip_system_fonts=True)
    with Image.open(io.BytesIO(bytes(png))) as picture:
        pixels = np.array(picture.convert("RGBA"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def read(archives: list[Path]) -> Icons:
    """Every icon of the packages' `archives`, in the order of :data:`PACKAGES`, that shows one of the animals."""
    rgba, animals, styles, names = [], [], [], []
    for package, path in zip(PACKAGES, archives, strict=True):
        whole = read_icons(path)
        for animal, name in chosen(package, whole["icons"]):
            rgba.append(render(svg(whole["icons"][name], whole)))
            animals.append(ANIMALS.index(animal))
            styles.append(STYLES.index(package.style))
            names.append(f"{package.style}:{name}")
    return Icons(torch.stack(rgba), torch.tensor(animals), torch.tensor(styles), tuple(names))
