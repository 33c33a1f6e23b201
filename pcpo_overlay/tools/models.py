"""Pipelines in a folder, read so that nothing in the folder is run.

diffusers takes the classes of a pipeline from its ``model_index.json``, and where that names a module that lies beside
it, imports it. A run folder or a model may come from anybody: here every class is one of diffusers' or transformers'
own, by a list, before either library is asked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.faults import Fault

INDEX = "model_index.json"

#: By the library that ``model_index.json`` may name, the classes that it may name of it.
PARTS: dict[str, frozenset[str]] = {
    "diffusers": frozenset(
        {
            "AutoencoderKL",
            "DDIMScheduler",
            "FlowMatchEulerDiscreteScheduler",
            "FluxTransformer2DModel",
            "PNDMScheduler",
            "SD3Transformer2DModel",
            "UNet2DConditionModel",
        }
    ),
    "transformers": frozenset(
        {
            "CLIPImageProcessor",
            "CLIPTextModel",
            "CLIPTextModelWithProjection",
            "CLIPTokenizer",
            "CLIPTokenizerFast",
            "CLIPVisionModelWithProjection",
            "T5EncoderModel",
            "T5Tokenizer",
            "T5TokenizerFast",
        }
    ),
}


class ModelError(Fault):
    """A folder whose pipeline is not loaded; the message says where and why."""


def read_index(path: Path, pipeline: str) -> dict[str, Any]:
    """The ``model_index.json`` of a pipeline's folder, once all that it names is known.

    Args:
        path: the folder.
        pipeline: the class of diffusers that it has to be.

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
    if not isinstance(index, dict) or index.get("_class_name") != pipeline:
        named = index.get("_class_name") if isinstance(index, dict) else index
        raise ModelError(f"{file} is not of a {pipeline}, but of {named!r:.80}")
    for name, part in index.items():
        if isinstance(part, (list, dict)) and not _is_known(part):
            raise ModelError(
                f"{file}: {name} is {part!r:.120}, which is not one of the classes of diffusers and transformers that "
                "are loaded; nothing of the folder was run"
            )
    return index


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
