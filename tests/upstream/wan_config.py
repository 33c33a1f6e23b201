"""The miniature's config for flow_grpo's ``train_wan2_1.py``: ``general_ocr_wan2_1`` but for sizes and reward."""

from __future__ import annotations

from typing import Any

from pcpo_overlay.tools.launch import flow_grpo
from pcpo_overlay.tools.miniature import flow_grpo_config


def some_movement() -> Any:
    """Mean absolute difference of one frame of a video and the next."""

    def reward(videos: Any, prompts: Any) -> Any:
        return (videos[:, 1:] - videos[:, :-1]).abs().flatten(1).mean(1).tolist()

    return reward


def get_config() -> Any:
    flow_grpo.REWARDS["some_movement"] = some_movement
    config = flow_grpo_config.get_config("jpeg_compressibility")
    config.reward_fn = {"some_movement": 1.0}
    config.height = config.width = 32
    config.frames = 5
    config.sample.sample_time_per_prompt = 1
    config.sample.kl_reward = 0.0
    config.sample.global_std = False
    config.train.clip_range = 1e-3
    return config
