"""The rewards that a run of the miniatures can be trained on, computed without the upstream's code."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay.tools.miniature.animals.rewards import REWARDS

Reward = Callable[[Tensor, Sequence[str]], Tensor]


def jpeg_kilobytes(images: Tensor) -> Tensor:
    """Size (N,) float64, in thousands of bytes, of each image (N, 3, H, W) in [0, 1] as a JPEG of quality 95."""
    from PIL import Image

    pixels = (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    sizes = []
    for array in pixels:
        file = io.BytesIO()
        Image.fromarray(array).save(file, format="JPEG", quality=95)
        sizes.append(file.tell() / 1000)
    return torch.tensor(sizes, dtype=torch.float64)


def digit_probability(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Probability (N,) float64 of the prompted digit under the shipped classifier."""
    from pcpo_overlay.tools.miniature.rewards import digit_probability

    return torch.from_numpy(digit_probability(images, prompts))


def digit_log_odds(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Log-odds (N,) float64 of the prompted digit: what goes by HPSv2's name on DanceGRPO's miniatures."""
    from pcpo_overlay.tools.miniature.classifier import load_classifier, log_odds
    from pcpo_overlay.tools.miniature.rewards import labels

    odds = log_odds(load_classifier()(images.float().cpu()))
    return odds.gather(1, labels(prompts)[:, None])[:, 0].double()


def _as_tensor(reward: Callable[[Tensor, Sequence[str]], Any]) -> Reward:
    return lambda images, prompts: torch.from_numpy(reward(images, prompts))


OF_ANIMALS = {name: _as_tensor(reward) for name, reward in REWARDS.items()}
"""The animals' rewards (N,) float64 by the names that ddpo-pytorch's config gives."""


def compressibility(unit: float) -> Reward:
    """Less is more: minus the size in units of so many kB. ddpo-pytorch counts in kB, flow_grpo in 500 of them."""
    return lambda images, prompts: -jpeg_kilobytes(images) / unit


def weighted(weights: Mapping[str, float], known: Mapping[str, Reward]) -> Reward:
    """The weighted sum of rewards by name; every name must be known."""
    parts = [(weight, known[name]) for name, weight in weights.items()]
    return lambda images, prompts: sum(
        (weight * reward(images, prompts) for weight, reward in parts),
        torch.zeros(len(prompts), dtype=torch.float64),
    )
