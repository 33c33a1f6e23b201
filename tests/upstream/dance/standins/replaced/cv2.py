"""Stand-in for OpenCV: most trainers only import it; Wan's reads the first frame of the video it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

COLOR_BGR2RGB = 4


class VideoCapture:
    """Frames of a file that the shim's ``export_to_video`` wrote, blue first as OpenCV gives them."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.next = 0

    def isOpened(self) -> bool:
        return Path(self.path).is_file()

    def read(self) -> tuple[bool, Any]:
        frames = np.load(self.path)
        if self.next >= len(frames):
            return False, None
        self.next += 1
        return True, frames[self.next - 1][..., ::-1]

    def release(self) -> None:
        """Nothing is held open."""


def cvtColor(frame: Any, code: int) -> Any:
    """Blue first to red first, the one conversion that upstream asks for."""
    if code != COLOR_BGR2RGB:
        raise ValueError(
            f"the stand-in for cv2 converts by COLOR_BGR2RGB ({COLOR_BGR2RGB}) alone, not {code}"
        )
    return np.ascontiguousarray(frame[..., ::-1])
