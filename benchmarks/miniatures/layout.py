"""A pipeline's folder on disk as diffusers reads it, in JSON files that old and new versions read the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.folders import written

#: As its folders' marker names it.
COMMAND = "python -m benchmarks.miniatures"


def write_pipeline(
    folder: Path,
    *,
    diffusers_version: str,
    models: Mapping[str, tuple[Any, Mapping[str, Any] | None]],
    tokenizers: Mapping[str, Callable[[Path], None]],
    scheduler: Mapping[str, Any],
    index: Mapping[str, Any],
) -> Path:
    """Write a pipeline, complete or not at all.

    Args:
        folder: the pipeline's folder; parents are created.
        diffusers_version: the oldest one that is meant to read it.
        models: each part with weights, and its own config: what differs from the library's defaults for a
            diffusers model, None for one of transformers.
        tokenizers: a function for each that writes its files into a folder.
        scheduler: scheduler_config.json.
        index: model_index.json without the version.

    Raises:
        FolderError: the folder is there, and not of this command's making.
    """
    with written(folder, COMMAND) as scratch:
        for name, (model, own) in models.items():
            model.save_pretrained(scratch / name, safe_serialization=True)
            _portable_config(scratch / name / "config.json", own, diffusers_version)
            for path in (scratch / name).iterdir():
                path.chmod(0o644)  # safetensors leaves weights that only their owner may read
        for name, write in tokenizers.items():
            write(scratch / name)
        (scratch / "scheduler").mkdir()
        write_json(scratch / "scheduler" / "scheduler_config.json", scheduler)
        write_json(
            scratch / "model_index.json",
            {"_class_name": index["_class_name"], "_diffusers_version": diffusers_version, **index},
        )
    return folder


def _portable_config(path: Path, own: Mapping[str, Any] | None, diffusers_version: str) -> None:
    """Reduce a saved config.json to what differs from the library's defaults, class and architecture kept."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if own is not None:
        kept = {"_class_name": config["_class_name"], "_diffusers_version": diffusers_version, **own}
    else:
        # the name changed in transformers 4.56; the older one is read by both
        config["torch_dtype"] = config.pop("dtype", config.get("torch_dtype", "float32"))
        kept = {
            key: value
            for key, value in config.items()
            if key not in ("_name_or_path", "transformers_version")
        }
    write_json(path, kept)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
