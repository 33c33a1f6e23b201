"""Pipelines in a folder, read so that nothing in the folder is run.

diffusers takes the classes of a pipeline from its ``model_index.json``, and where that names a module that lies beside
it, imports it. A run folder or a model may come from anybody: here every class is one of diffusers' or transformers'
own, by a list, before either library is asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.faults import Fault

INDEX = "model_index.json"

#: By the library that ``model_index.json`` may name, the classes that it may name of it.
PARTS: dict[str, frozenset[str]] = {
    "diffusers": frozenset(
        {
            "AutoencoderKL",
            "AutoencoderKLQwenImage",
            "DDIMScheduler",
            "DPMSolverMultistepScheduler",
            "EulerDiscreteScheduler",
            "FlowMatchEulerDiscreteScheduler",
            "FluxTransformer2DModel",
            "LMSDiscreteScheduler",
            "PNDMScheduler",
            "QwenImageTransformer2DModel",
            "SD3Transformer2DModel",
            "UNet2DConditionModel",
        }
    ),
    "transformers": frozenset(
        {
            "CLIPFeatureExtractor",
            "CLIPImageProcessor",
            "CLIPTextModel",
            "CLIPTextModelWithProjection",
            "CLIPTokenizer",
            "CLIPTokenizerFast",
            "CLIPVisionModelWithProjection",
            "Qwen2Tokenizer",
            "Qwen2TokenizerFast",
            "Qwen2_5_VLForConditionalGeneration",
            "T5EncoderModel",
            "T5Tokenizer",
            "T5TokenizerFast",
        }
    ),
    # a module of diffusers' own, by the name that the hub's Stable Diffusion 1.x has for it
    "stable_diffusion": frozenset({"StableDiffusionSafetyChecker"}),
}


class ModelError(Fault):
    """A folder whose pipeline is not loaded; the message says where and why."""


def read_index(path: Path, pipeline: str | Collection[str]) -> dict[str, Any]:
    """The ``model_index.json`` of a pipeline's folder, once all that it names is known.

    Args:
        path: the folder.
        pipeline: the class of diffusers that it has to be, or several to be one of.

    Raises:
        FileNotFoundError: there is no pipeline; diffusers would ask the hub for a model of that name.
        ModelError: it cannot be read, is another pipeline, or names a class that is not in :data:`PARTS`.
    """
    file = path / INDEX
    if not file.is_file():
        raise FileNotFoundError(f"no pipeline at {path}: it has no {INDEX}")
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from None
    named = index.get("_class_name") if isinstance(index, dict) else index
    known = (pipeline,) if isinstance(pipeline, str) else tuple(pipeline)
    if not isinstance(index, dict) or not isinstance(named, str) or named not in known:
        raise ModelError(f"{file} is not of a {' or a '.join(known)}, but of {named!r:.80}")
    for name, part in index.items():
        if isinstance(part, (list, dict)) and not _is_known(part):
            raise ModelError(
                f"{file}: {name} is {part!r:.120}, which is not one of the classes of diffusers and transformers that "
                "are loaded; nothing of the folder was run"
            )
    return index


def find(name: str) -> Path:
    """The folder of a model: a folder, a miniature (``miniature-sd``, ``-sd3``, ``-flux``, ``-animals``), or the hub's.

    What the hub's copy on this machine lacks is fetched, unless ``HF_HUB_OFFLINE`` is set. A name may end in
    ``@REVISION``.

    Raises:
        ModelError: there is none.
        ImportError: diffusers is missing.
    """
    from pcpo_overlay.tools import miniature
    from pcpo_overlay.tools.miniature.animals import animals_path

    shipped = {
        "sd": miniature.sd_path,
        "sd3": miniature.sd3_path,
        "flux": miniature.flux_path,
        "animals": animals_path,
    }
    short = name.removeprefix("miniature-")
    if short != name and short in shipped:
        return shipped[short]()
    if Path(name).is_dir():
        return Path(name)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", name):
        raise ModelError(
            f"{name} is no folder, no name on the hub, and none of {', '.join('miniature-' + m for m in shipped)}"
        )
    from diffusers import DiffusionPipeline

    called, _, revision = name.partition("@")
    try:
        return Path(DiffusionPipeline.download(called, revision=revision or None))
    except Exception as error:  # the hub's client has many of its own
        told = " ".join(str(error).split())
        raise ModelError(
            f"{name} is no folder here and cannot be had from the hub ({type(error).__name__}: {told:.200})"
        ) from None


def _is_known(part: Any) -> bool:
    """Whether an entry is ``[library, class]`` of the list, or ``[null, null]`` for a part that is not there."""
    if not isinstance(part, list) or len(part) != 2:
        return False
    library, name = part
    if library is None and name is None:
        return True
    return isinstance(library, str) and isinstance(name, str) and name in PARTS.get(library, ())


def load_pipeline(path: Path, pipeline: str, **options: Any) -> Any:
    """The pipeline in a folder, without asking the hub and without running anything that lies in the folder.

    Args:
        path: the folder.
        pipeline: the class of diffusers that it has to be.
        options: further ones of ``from_pretrained``.

    Raises:
        FileNotFoundError, ModelError: as :func:`read_index`, or the folder is damaged.
        ImportError: diffusers is missing.
    """
    read_index(path, pipeline)
    import diffusers

    try:
        loaded = getattr(diffusers, pipeline).from_pretrained(str(path), local_files_only=True, **options)
    except ImportError:
        raise
    except (
        Exception
    ) as error:  # each part's library has errors of its own for a file that is damaged or missing
        told = " ".join(str(error).split())
        raise ModelError(f"{path} cannot be loaded: {type(error).__name__}: {told:.300}") from None
    loaded.set_progress_bar_config(disable=True)
    return loaded
