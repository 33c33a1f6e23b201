"""Run DanceGRPO's training scripts where there is no CUDA device, and none of the packages that need one.

What maps CUDA to the CPU and puts stand-ins in place is the package's own, as for the miniatures. The stand-ins are the
tests': of HPSv2 one whose scores of random images differ in half precision, which those of the digits do not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pcpo_overlay.tools.launch import standins, without_cuda

STANDINS = Path(__file__).resolve().parent / "standins"


def install() -> None:
    """All mappings; the process has to be one that torchrun started, or have its environment."""
    without_cuda.install()
    export_to_video()
    lora_folder()
    # torchvision's goes behind everything: diffusers and transformers look for the real one by its metadata.
    standins.install(
        instead=[STANDINS / "replaced"],
        where_missing=[STANDINS / "missing"],
        uncalled=["decord", "liger_kernel"],
    )


def export_to_video() -> None:
    """Writing an .mp4 needs ffmpeg; the frames become an array, which the stand-ins for cv2 and VideoAlign read."""
    import diffusers.utils
    import numpy as np

    def export(video_frames: Any, output_video_path: str, fps: int = 10, **kwargs: Any) -> str:
        frames = np.stack([np.asarray(frame) for frame in video_frames])
        if frames.dtype != np.uint8:
            frames = (frames * 255).astype(np.uint8)
        with Path(output_video_path).open("wb") as file:
            np.save(file, frames)
        return output_video_path

    diffusers.utils.export_to_video = export


def lora_folder() -> None:
    """Told to be offline, diffusers does not look into a folder for the LoRA weights that a run resumes from."""
    import diffusers.loaders.lora_base as lora_base

    lora_base.HF_HUB_OFFLINE = False
