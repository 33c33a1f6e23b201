"""Config files as absl takes them for ``--config``: a Python file, run by its path, with a ``get_config``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any


def get_config(file: Path, *arguments: str, run: str) -> Any:
    """The config that a file makes.

    Args:
        file: which; relative to the working directory, as upstream's own are.
        arguments: what stands behind the file's name and a colon.
        run: what to run where, for the message.

    Raises:
        FileNotFoundError: no such file.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no {file} under {Path.cwd()}: {run}")
    spec = importlib.util.spec_from_file_location(f"config_file_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*arguments)
