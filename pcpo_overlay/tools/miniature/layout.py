"""A pipeline's folder on disk as diffusers reads it, in JSON files that old and new versions read the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.miniature import require


def write_pipeline(
    folder: Path,
    *,
    diffusers_version: str,
    models: Mapping[str, tuple[Any, Mapping[str, Any] | None]],
    tokenizers: Mapping[str, Callable[[Path], None]],
    scheduler: Mapping[str, Any],
    index: Mapping[str, Any],
) -> Path:
    """Write a pipeline. An existing folder is replaced only once the new one is complete.

    Args:
        folder: the pipeline's folder; parents are created.
        diffusers_version: the oldest one that is meant to read it.
        models: each part with weights, and its own config: what differs from the library's defaults for a
            diffusers model, None for one of transformers.
        tokenizers: a function for each that writes its files into a folder.
        scheduler: scheduler_config.json.
        index: model_index.json without the version.
    """
    scratch = folder.with_name(folder.name + ".new")
    shutil.rmtree(scratch, ignore_errors=True)
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
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)
    return folder


def check_pipeline(path: Path) -> None:
    """Raise a FileNotFoundError where there is no pipeline; diffusers would ask the hub for a model of that name."""
    if not (path / "model_index.json").is_file():
        raise FileNotFoundError(f"no pipeline at {path}: it has no model_index.json")


def read_pipeline(path: Path, class_name: str) -> Any:
    """The pipeline in a folder, in float32, without progress bars and without asking the hub.

    Args:
        path: the folder.
        class_name: of diffusers.

    Raises:
        FileNotFoundError: no pipeline in that folder.
    """
    check_pipeline(path)
    require("diffusers", "transformers")
    import diffusers

    pipeline = getattr(diffusers, class_name).from_pretrained(str(path), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


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
