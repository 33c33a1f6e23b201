"""Rewards of the animals for ddpo-pytorch's script, none of which needs weights from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pcpo_overlay.tools.miniature.animals import ANIMALS
from pcpo_overlay.tools.miniature.animals.classifier import shipped
from pcpo_overlay.tools.miniature.classifier import log_odds
from pcpo_overlay.tools.miniature.rewards import as_tensor

if TYPE_CHECKING:
    import numpy as np

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a pixel's brightness (ITU-R BT.601)."""


def animal_logodds(images: Any, prompts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Log-odds (N,) float64, in nats, of the prompted animal against all others, under the shipped classifier.

    Args:
        images: a tensor (N, 3, 64, 64), of floats in [0, 1] or uint8, on any device; or a uint8 array (N, 64, 64, 3).
        prompts: N of the 45.

    Raises:
        ValueError: images of another shape or type, another number of prompts, or a prompt that is not one of the 45.
    """
    asked = labels(prompts)
    with torch.no_grad():
        odds = log_odds(shipped()(as_tensor(images, len(prompts))))
    return odds.gather(1, asked[:, None])[:, 0].double().numpy()


def colourfulness(images: Any, prompts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Colourfulness M (N,) float64 of Hasler and Süsstrunk (2003), for pixels from 0 to 255.

    ``M = sqrt(s_rg^2 + s_yb^2) + 0.3 sqrt(m_rg^2 + m_yb^2)`` with mean m and std s over an image's pixels of
    ``rg = R - G`` and ``yb = (R + G)/2 - B``. Grey is 0.

    Args, Raises: as :func:`animal_logodds`, of any size and any prompts.
    """
    red, green, blue = (255 * as_tensor(images, len(prompts)).double()).flatten(2).unbind(dim=1)
    opponents = torch.stack([red - green, (red + green) / 2 - blue], dim=1)
    spread = opponents.std(dim=2, correction=0).norm(dim=1)
    return (spread + 0.3 * opponents.mean(dim=2).norm(dim=1)).numpy()


def edges(images: Any, prompts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Mean step of the brightness, in [0, 255], from a pixel to its right and its lower neighbour, (N,) float64.

    Args, Raises: as :func:`colourfulness`.
    """
    pixels = 255 * as_tensor(images, len(prompts)).double()
    luma = (torch.tensor(LUMA, dtype=torch.float64).view(3, 1, 1) * pixels).sum(dim=1)
    steps = luma.diff(dim=1).abs().mean(dim=(1, 2)) + luma.diff(dim=2).abs().mean(dim=(1, 2))
    return (steps / 2).numpy()


REWARDS = {"animal_logodds": animal_logodds, "colourfulness": colourfulness, "edges": edges}
"""By the name that a config gives."""


def labels(prompts: Sequence[str]) -> Tensor:
    """The animals (N,) int64 that the prompts ask for.

    Raises:
        ValueError: a prompt that is not one of the 45.
    """
    for prompt in prompts:
        if prompt not in ANIMALS:
            raise ValueError(f"the animal reward knows no prompt {prompt!r}; it knows: {', '.join(ANIMALS)}")
    return torch.tensor([ANIMALS.index(prompt) for prompt in prompts], dtype=torch.int64)
