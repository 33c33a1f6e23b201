"""The miniature's config with a reward that is 0 for every odd digit: those groups have no advantage."""

from __future__ import annotations

from typing import Any

from pcpo_overlay.configs import flow_grpo
from pcpo_overlay.miniature import PROMPTS, flow_grpo_config


def even_brightness() -> Any:
    """Mean brightness of the image where the prompted digit is even, else 0."""

    def reward(images: Any, prompts: Any) -> Any:
        even = [PROMPTS.index(prompt) % 2 == 0 for prompt in prompts]
        return [float(image.mean()) if kept else 0.0 for image, kept in zip(images, even, strict=True)]

    return reward


def get_config() -> Any:
    flow_grpo.REWARDS["even_brightness"] = even_brightness
    config = flow_grpo_config.get_config()
    config.reward_fn = {"even_brightness": 1.0}
    return config
