"""The miniature of Stable Diffusion 1.x: loading and sampling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay.tools.miniature import read_pipeline, sd_path

LATENT_SIZE = 8
LATENT_CHANNELS = 4
SETTINGS: tuple[dict[str, Any], ...] = ({"steps": 50, "guidance": 5.0, "eta": 1.0},)
"""How it is sampled to be judged: ddpo-pytorch's own settings, which are the defaults of :func:`sample`."""


def load_pipeline(path: Path | None = None) -> Any:
    """The StableDiffusionPipeline at `path` (default: the shipped one) with DDIM in place of PNDM, in float32.

    Raises:
        FileNotFoundError, ModelError: as :func:`pcpo_overlay.tools.models.read_index`.
    """
    pipeline = read_pipeline(path or sd_path(), "StableDiffusionPipeline")
    from diffusers import DDIMScheduler

    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    return pipeline


@torch.no_grad()
def sample(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    steps: int = 50,
    guidance: float = 5.0,
    eta: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Images (N, 3, 32, 32) float32 in [0, 1] of one batch of prompts, by the plain diffusers pipeline."""
    result = pipeline(
        list(prompts),
        num_inference_steps=steps,
        guidance_scale=guidance,
        eta=eta,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    )
    return torch.from_numpy(result.images).permute(0, 3, 1, 2).float().contiguous()
