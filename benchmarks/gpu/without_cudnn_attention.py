"""Runs a training script with cuDNN's attention off: ``python without_cudnn_attention.py SCRIPT [ARGUMENT ...]``.

It is torch's default on newer cards, and the suspect of a fault that was seen in matching modes.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import torch

if __name__ == "__main__":
    torch.backends.cuda.enable_cudnn_sdp(False)
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)  # as Python has it for the script itself
    runpy.run_path(sys.argv[0], run_name="__main__")
