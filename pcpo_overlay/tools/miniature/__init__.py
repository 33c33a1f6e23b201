"""Miniatures of Stable Diffusion 1.x and 3 and of FLUX that write digits, small enough to train with RL on a laptop.

``digits``      real handwritten digits (scikit-learn), split and rendered at 32x32
``classifier``  a CNN that reads them, trained on real digits only
``rewards``     the probability of the prompted digit under it, as a reward for every upstream
``sd``, ``sd3``, ``flux``  loading and sampling of each
``check``       how many samples read as prompted, and how varied they are
``prompts``     the ten prompts as a dataset of flow_grpo
``animals``  another, of 45 animals in colour, with its own classifier, rewards and check
``ddpo_config``, ``flow_grpo_config``  files for ``--config`` of the upstreams' trainers

They were trained by ``benchmarks/miniatures`` of the checkout.

Importing this package needs torch alone; the rest is imported where it is used.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).resolve().parent / "weights"

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PROMPTS = tuple(f"a handwritten {name}" for name in DIGIT_NAMES)
"""The ten prompts, the position is the digit."""

IMAGE_SIZE = 32


def sd_path() -> Path:
    """Folder of the shipped miniature, for ``StableDiffusionPipeline.from_pretrained(path)``.

    Raises:
        FileNotFoundError: the installation lacks the weights.
    """
    return _pipeline_path("sd")


def sd3_path() -> Path:
    """Folder of the shipped miniature SD3, for ``StableDiffusion3Pipeline.from_pretrained(path)``.

    Raises:
        FileNotFoundError: the installation lacks the weights.
    """
    return _pipeline_path("sd3")


def flux_path() -> Path:
    """Folder of the shipped miniature FLUX, for ``FluxPipeline.from_pretrained(path)``.

    Raises:
        FileNotFoundError: the installation lacks the weights.
    """
    return _pipeline_path("flux")


def prompts_path() -> Path:
    """Folder of train.txt (the ten prompts, one a line) and test.txt (each eight times), as flow_grpo reads a dataset.

    Raises:
        FileNotFoundError: the installation lacks it.
    """
    path = Path(__file__).resolve().parent / "prompts"
    if not (path / "train.txt").is_file():
        raise FileNotFoundError(f"the prompts are missing at {path}; reinstall pcpo-overlay")
    return path


def _pipeline_path(model: str) -> Path:
    path = WEIGHTS / model
    if not (path / "model_index.json").is_file():
        raise FileNotFoundError(
            f"the miniature's weights are missing at {path}; "
            f"reinstall pcpo-overlay, or in a checkout train them: python -m benchmarks.miniatures {model} --out DIR"
        )
    return path


def read_pipeline(path: Path, pipeline: str) -> Any:
    """The pipeline in a folder, in float32; see :func:`pcpo_overlay.tools.models.load_pipeline`."""
    require("diffusers", "transformers", "safetensors")
    from pcpo_overlay.tools.models import load_pipeline

    return load_pipeline(path, pipeline, use_safetensors=True)


def require(*modules: str, extra: str = "miniature") -> None:
    """Raise an ImportError that names the `extra` to install when one of `modules` is missing."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ImportError(f'the miniatures need {", ".join(missing)}: pip install "pcpo-overlay[{extra}]"')
