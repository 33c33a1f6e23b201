"""The miniature's config with a reward that is 0 for seven of ten digits: those groups have no advantage."""

from __future__ import annotations

from typing import Any

from pcpo_overlay.tools.launch import flow_grpo
from pcpo_overlay.tools.miniature import PROMPTS, flow_grpo_config


def some_brightness() -> Any:
    """Mean brightness of the image where the prompted digit is 0, 4 or 8, else 0."""

    def reward(images: Any, prompts: Any) -> Any:
        kept = [PROMPTS.index(prompt) % 4 == 0 for prompt in prompts]
        return [float(image.mean()) if counts else 0.0 for image, counts in zip(images, kept, strict=True)]

    return reward


def get_config() -> Any:
    flow_grpo.REWARDS["some_brightness"] = some_brightness
    config = flow_grpo_config.get_config("jpeg_compressibility")
    config.reward_fn = {"some_brightness": 1.0}
    return config
