"""What a run ran on: versions, hardware, and the state of the clone."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import torch

import pcpo_overlay
from pcpo_overlay.files import sha256

_LIBRARIES = ("diffusers", "transformers", "accelerate", "peft", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python, of the overlay and of the libraries that are installed."""
    found = {"python": platform.python_version(), "pcpo_overlay": pcpo_overlay.__version__}
    # with its build, "+cu130", which the installed package's version may lack
    found["torch"] = str(torch.__version__)
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware(device: torch.device, world_size: int) -> dict[str, Any]:
    """The machine as a reader of the figures wants it."""
    cuda = device.type == "cuda"
    return {
        "device": device.type,
        "name": torch.cuda.get_device_name(device) if cuda else _cpu_name(),
        "threads": torch.get_num_threads(),
        "world_size": world_size,
        "platform": platform.platform(),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def clone_state(script: Path) -> dict[str, Any] | None:
    """What ``apply.py`` left in the clone a script runs from, and whether a patched file was edited since.

    Args:
        script: the training script, anywhere inside the clone.

    Returns:
        the stamp's commit, trees and name with ``modified``; None outside a clone that ``apply.py`` patched.
    """
    for root in script.resolve().parents:
        git = root / ".git"
        if git.is_file():  # a worktree: "gitdir: PATH"
            git = root / git.read_text(encoding="utf-8").partition("gitdir:")[2].strip()
        stamp = git / "pcpo-overlay.json"
        if stamp.is_file():
            state: dict[str, Any] = json.loads(stamp.read_text(encoding="utf-8"))
            files = state.pop("files", {})
            state["modified"] = any(sha256(root / name) != digest for name, digest in files.items())
            return state
        if git.exists():
            return None
    return None
