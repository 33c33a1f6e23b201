"""The tensors of a checkpoint, read so that nothing in the file is run."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import Tensor

from pcpo_overlay.tools.checkpoints import CheckpointError
from pcpo_overlay.tools.faults import told
from pcpo_overlay.tools.runs.files import read_object

#: Of a network in several files: diffusers' index of them.
INDEX = ".safetensors.index.json"


def files_of(weights: Path) -> list[Path]:
    """The files that hold a checkpoint's tensors: the one named, or those that the index named lists.

    Raises:
        CheckpointError: an index cannot be read, or lists what is no file beside it.
    """
    if not weights.name.endswith(INDEX):
        return [weights]
    try:
        names = sorted(set(read_object(weights)["weight_map"].values()))
        if not names or any(not isinstance(n, str) or Path(n).name != n or n.startswith(".") for n in names):
            raise ValueError("weight_map names no files beside it")
    except Exception as error:  # the reader, a list in the place of an object, names that are none
        raise CheckpointError(f"{weights} cannot be read ({told(error):.300})") from None
    files = [weights.with_name(name) for name in names]
    for file in files:
        if not file.is_file():
            raise CheckpointError(
                f"{file} is missing, which {weights.name} lists; was the checkpoint copied in part?"
            )
    return files


def read_weights(path: Path, largest: int | None = None) -> dict[str, Tensor]:
    """The tensors of a checkpoint's file or files; of torch's older ``.bin`` nothing but tensors is made.

    Args:
        path: safetensors, ``.bin``, or the index of several.
        largest: bytes that a file may have.

    Raises:
        CheckpointError: it cannot be read, or holds something else than finite tensors by name.
        ImportError: safetensors is missing.
    """
    held: dict[str, Tensor] = {}
    for file in files_of(path):
        held.update(_read(file, largest))
    return held


def _read(path: Path, largest: int | None) -> dict[str, Tensor]:
    try:
        if not path.is_file():
            raise ValueError("it is no file")
        size = path.stat().st_size
        if largest is not None and size > largest:
            raise ValueError(f"it is larger than {largest >> 20} MiB")
        if path.suffix == ".bin":
            with zipfile.ZipFile(path) as parts:  # a packed part may be a thousand times its size
                if any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist()):
                    raise ValueError("a part of it is packed, which torch never does")
            held = torch.load(path, map_location="cpu", weights_only=True)
        else:
            from safetensors.torch import load_file

            held = load_file(str(path))
        _check(held, size)
    except ImportError:
        raise
    except Exception as error:  # each library has errors of its own for a file that is cut short
        raise CheckpointError(
            f"{path} cannot be read ({told(error):.300}); a checkpoint that a kill cut short is best moved away"
        ) from None
    return held


def _check(held: object, size: int) -> None:
    """Refuse what a file of so many bytes cannot hold as a network's weights: a view may claim any shape.

    Raises:
        ValueError: says what.
    """
    if not isinstance(held, dict):
        raise ValueError(f"it holds a {type(held).__name__} in place of tensors by name")
    claimed = 0
    for name, value in held.items():
        if not isinstance(name, str):
            raise ValueError(f"a name in it is {name!r:.60}")
        if (
            not isinstance(value, Tensor)
            or value.layout != torch.strided
            or value.is_meta
            or value.is_complex()
        ):
            raise ValueError(f"{name} is no tensor of real numbers, one by one")
        claimed += value.numel() * value.element_size()
        if claimed > size:
            raise ValueError(f"up to {name} it claims more numbers than it has")
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} has numbers that are not finite; the training diverged")
