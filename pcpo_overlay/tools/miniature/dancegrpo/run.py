"""Start one of DanceGRPO's trainers on a miniature: its script as it is, in a process that torchrun started.

    torchrun ... run.py fastvideo/train_grpo_flux.py [ARGS...]

What the script finds otherwise than with its own model, alike for an unpatched and a patched clone:

- the reward goes by HPSv2's name and scores digits or animals (``hps``), unless the folder has one of its own
  (``pcpo reward``);
- packages that it imports and does not call here may be missing, and so may CUDA;
- the SD trainer draws its first noise as latents of 64x64 whatever its model: a miniature's are of 8x8 or 16x16.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import torch

from pcpo_overlay import compat
from pcpo_overlay.tools.launch import standins, without_cuda
from pcpo_overlay.tools.miniature.dancegrpo import SD

HPS = Path(__file__).resolve().parent / "hps"

#: Imported by the scripts or what they import, for other models or other data than these.
UNCALLED = ("cv2", "decord", "flash_attn", "liger_kernel", "torchvision")


def main() -> None:
    """Run the script named in the first argument."""
    script = Path(sys.argv[1]).resolve()
    sys.argv = [str(script), *sys.argv[2:]]
    sys.path[0] = str(script.parent)  # as Python has it for a script
    own = Path("hpsv2").is_dir()
    standins.install(instead=[] if own else [HPS], uncalled=UNCALLED)
    if not torch.cuda.is_available():
        without_cuda.install()
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    compat.install_for("DanceGRPO")
    if script.name == "train_grpo_sd.py":
        _draw_small_latents()
    runpy.run_path(str(script), run_name="__main__")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _draw_small_latents() -> None:
    """``torch.randn`` of the size that the SD trainer writes out gives the size of the model that it will load."""
    side = json.loads((SD / "unet" / "config.json").read_text(encoding="utf-8"))["sample_size"]

    @without_cuda.replaced(torch, "randn")
    def randn(original: Any, *size: Any, **kwargs: Any) -> Any:
        if size == ((1, 4, 64, 64),):
            size = ((1, 4, side, side),)
        return original(*size, **kwargs)


if __name__ == "__main__":
    main()
