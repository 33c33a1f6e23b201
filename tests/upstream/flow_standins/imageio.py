"""Stands in for imageio, with which ``train_wan2_1.py`` writes videos: an .mp4 needs ffmpeg, an array does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def mimsave(uri: str, ims: list[Any], fps: int, codec: str, format: str) -> None:
    with Path(uri).open("wb") as file:
        np.save(file, np.stack(ims))
