"""The miniature that draws animals: loading and sampling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pcpo_overlay.tools.miniature import sd
from pcpo_overlay.tools.miniature.animals import animals_path

SETTINGS: tuple[dict[str, Any], ...] = ({"steps": 20, "guidance": 3.0, "eta": 1.0},)
"""How it is sampled to be judged, and by :mod:`ddpo_config` to train."""


def load_pipeline(path: Path | None = None) -> Any:
    """The StableDiffusionPipeline at `path` (default: the shipped one) with DDIM in place of PNDM, in float32.

    Raises:
        FileNotFoundError, ModelError: as :func:`pcpo_overlay.tools.models.read_index`.
    """
    import torch

    # the weights are shipped in half precision
    return sd.load_pipeline(path or animals_path()).to(torch.float32)


def sample(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    steps: int = 20,
    guidance: float = 3.0,
    eta: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Images (N, 3, 64, 64) float32 in [0, 1] of one batch of prompts, by the plain diffusers pipeline."""
    return sd.sample(pipeline, prompts, steps=steps, guidance=guidance, eta=eta, seed=seed)
