"""Stand-in for upstream's VideoAlign reward: visual and motion quality are functions of the frames and the prompt."""

from __future__ import annotations

from typing import Any

import numpy as np


class VideoVLMRewardInference:
    """Scores videos that the shim's ``export_to_video`` wrote."""

    def __init__(self, load_from_pretrained: str, device: str = "cpu", dtype: Any = None) -> None:
        """Nothing to load."""

    def reward(
        self, video_paths: list[str], prompts: list[str], use_norm: bool = True
    ) -> list[dict[str, float]]:
        """``VQ`` from how the frames look, ``MQ`` from how they change, both in [-1, 1]."""
        return [self._score(path, prompt) for path, prompt in zip(video_paths, prompts, strict=True)]

    def _score(self, path: str, prompt: str) -> dict[str, float]:
        frames = np.load(path).astype(np.float64) / 255
        words = sum(prompt.encode()) % 97 / 97
        waves = np.sin(np.arange(frames[0].size).reshape(frames[0].shape))
        look = float((frames * waves).mean() / (frames.std() + 1e-3))
        change = (
            float((np.diff(frames, axis=0) * waves).mean() / (frames.std() + 1e-3))
            if len(frames) > 1
            else look
        )
        return {"VQ": float(np.sin(50 * look + words)), "MQ": float(np.sin(80 * change - words))}
