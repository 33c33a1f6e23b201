"""The pipelines that are drawn from: diffusers' own of the models that the trainers train pictures with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay.tools.faults import WrongArgument
from pcpo_overlay.tools.models import load_pipeline, read_index
from pcpo_overlay.tools.sample import SampleError

#: Settings that not every family has, as the command line names them.
OWN_SETTINGS = ("eta", "shift", "t5_length")


@dataclass(frozen=True)
class Family:
    """How one class of pipelines is asked for pictures.

    Attributes:
        title: what people call the models.
        steps, guidance: the defaults: as the trainers evaluate.
        own: those of :data:`OWN_SETTINGS` that it has, with their defaults; None is the model's own.
        scale: the pipeline's argument that guidance is given as.
        told: whether the network is told the guidance; else the empty prompt is drawn too.
        dtype: on a GPU.
    """

    title: str
    steps: int
    guidance: float
    own: dict[str, float | int | None]
    scale: str = "guidance_scale"
    told: bool = False
    dtype: torch.dtype = torch.bfloat16


#: By the class of diffusers'.
FAMILIES: dict[str, Family] = {
    # ddpo-pytorch's and DanceGRPO's sampler is DDIM with eta 1
    "StableDiffusionPipeline": Family(
        "Stable Diffusion 1.x", 50, 5.0, {"eta": 1.0}, dtype=torch.float16
    ),
    # Flow-GRPO evaluates with 40 steps without noise, and cuts T5's prompts at 128 tokens
    "StableDiffusion3Pipeline": Family("Stable Diffusion 3", 40, 4.5, {"shift": None, "t5_length": 128}),
    # DanceGRPO's own pictures of FLUX have 50 steps
    "FluxPipeline": Family("FLUX", 50, 3.5, {"shift": None, "t5_length": 512}, told=True),
    "QwenImagePipeline": Family("Qwen-Image", 50, 4.0, {}, scale="true_cfg_scale"),
}  # fmt: skip


def load(path: Path, device: torch.device, dtype: torch.dtype | None) -> tuple[Any, Family, torch.dtype]:
    """The pipeline in a folder, on a device, as pictures are drawn from it.

    Args:
        path: the folder.
        device: where it goes.
        dtype: None is float32 on a CPU, and the family's own elsewhere.

    Returns:
        The pipeline, its family, and the dtype.

    Raises:
        SampleError, ModelError, FileNotFoundError: it is none that is drawn from, or cannot be loaded.
        ImportError: a library is missing.
    """
    _require()
    index = read_index(path, FAMILIES)
    family = FAMILIES[index["_class_name"]]
    dtype = dtype or (torch.float32 if device.type == "cpu" else family.dtype)
    # A safety checker paints pictures black, which would be measured as the policy's.
    plain = {"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in index else {}
    pipeline = load_pipeline(path, index["_class_name"], torch_dtype=dtype, **plain)
    if "eta" in family.own:
        from diffusers import DDIMScheduler

        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    return pipeline.to(device), family, dtype


def _require() -> None:
    try:
        import diffusers  # noqa: F401
        import PIL  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f'drawing needs {error.name}; install it with: pip install "pcpo-overlay[sample]"'
        ) from None


def settle(
    pipeline: Any, family: Family, given: dict[str, Any], size: int | tuple[int, int] | None
) -> dict[str, Any]:
    """The settings of the sampler: those given, and the family's own in the place of those that are not.

    Args:
        pipeline: whose scheduler is given the shift.
        family: its.
        given: ``steps``, ``guidance`` and :data:`OWN_SETTINGS`; None is not given.
        size: pixels of a side, or height and width; None is the model's own.

    Returns:
        All settings by name, and ``height`` and ``width``.

    Raises:
        WrongArgument: one that the family does not have, or a size that the model cannot draw.
    """
    settled: dict[str, Any] = {"steps": family.steps, "guidance": family.guidance, **family.own}
    for name, value in given.items():
        if value is None:
            continue
        if name not in settled:
            raise WrongArgument(
                f"{family.title} has no --{name.replace('_', '-')}; "
                f"it has {', '.join('--' + known.replace('_', '-') for known in settled)}"
            )
        if (name == "eta" and value < 0) or (name == "shift" and value <= 0):
            raise WrongArgument(f"--{name} {value:g} is too low; it takes numbers above 0")
        settled[name] = value
    if settled.get("shift") is not None:
        scheduler = pipeline.scheduler
        pipeline.scheduler = scheduler.from_config(
            scheduler.config, shift=settled["shift"], use_dynamic_shifting=False
        )
    height, width = (size, size) if isinstance(size, int) else size or own_size(pipeline)
    unit = pipeline.vae_scale_factor * (1 if "eta" in family.own else 2)
    if height % unit or width % unit:
        raise WrongArgument(f"{family.title} draws multiples of {unit} pixels, not {height}x{width}")
    return {**settled, "height": height, "width": width}


def own_size(pipeline: Any) -> tuple[int, int]:
    """Height and width that a model was made for: FLUX's network does not say, and its autoencoder does."""
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    size = getattr(network.config, "sample_size", None)
    own = getattr(pipeline.vae.config, "sample_size", None)
    if size is not None:
        side = size * pipeline.vae_scale_factor
    else:
        side = own if own is not None else pipeline.default_sample_size * pipeline.vae_scale_factor
    return side, side


@torch.no_grad()
def pictures(
    pipeline: Any, family: Family, prompts: Sequence[str], seeds: Sequence[int], settings: dict[str, Any]
) -> Tensor:
    """Draw one picture for each prompt and seed.

    Each picture has a generator of its own, on the CPU: all its noise is that of
    ``torch.Generator().manual_seed(seed)``, whatever is drawn beside it and on whatever device.

    Args:
        pipeline, family: from :func:`load`.
        prompts, seeds: N each.
        settings: from :func:`settle`.

    Returns:
        (N, 3, H, W) uint8.

    Raises:
        SampleError: a picture is not finite.
    """
    asked = {
        "num_inference_steps": settings["steps"],
        family.scale: settings["guidance"],
        "height": settings["height"],
        "width": settings["width"],
    }
    if "eta" in settings:
        asked["eta"] = settings["eta"]
    if "t5_length" in settings:
        asked["max_sequence_length"] = settings["t5_length"]
    if family.scale == "true_cfg_scale":
        asked["negative_prompt"] = [" "] * len(prompts)
    drawn = pipeline(
        list(prompts),
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="pt",
        **asked,
    ).images
    drawn = drawn.float().cpu()
    if not torch.isfinite(drawn).all():
        raise SampleError(
            f"the picture of {prompts[0]!r:.80}, or one beside it, is not finite: the policy diverged, or the "
            "dtype is too narrow for this model (--dtype)"
        )
    return (drawn * 255).round().clamp(0, 255).to(torch.uint8)
