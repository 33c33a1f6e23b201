"""A folder of pictures: ``sample.json`` says what they were drawn with, ``manifest.jsonl`` has a line for each.

Several processes may fill one folder at once, and any of them may be killed: a picture is written whole, and then has
its line, under a lock. A line without its picture, or the other way round, is a picture that is yet to be drawn.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay.files import write_atomically
from pcpo_overlay.record.run_folder import jsonable
from pcpo_overlay.tools.faults import told
from pcpo_overlay.tools.locks import held
from pcpo_overlay.tools.runs.files import RunError, parse_object, read_lines, read_object
from pcpo_overlay.tools.sample import SampleError

FORMAT = 1
SETTINGS, MANIFEST, GRID = "sample.json", "manifest.jsonl", "grid.png"
LOCK = ".sample.lock"


@dataclass(frozen=True, order=True)
class Picture:
    """One picture of a folder.

    Attributes:
        prompt: the position of its prompt.
        seed: of its generator.
        text: the prompt.
        sha256: of its file; empty where it is yet to be drawn.
    """

    prompt: int
    seed: int
    text: str
    sha256: str = ""

    @property
    def file(self) -> str:
        """Its path in the folder: ``PROMPT/SEED.png``."""
        return f"{self.prompt:05d}/{self.seed}.png"


@dataclass(frozen=True)
class Folder:
    """A folder of pictures of one arm.

    Attributes:
        path: the folder.
        settings: all that decides what its pictures show.
        told: what else ``sample.json`` has: names and starts.
    """

    path: Path
    settings: dict[str, Any]
    told: dict[str, Any]

    @property
    def name(self) -> str:
        """What the arm is called: the folder's name."""
        return self.path.resolve().name

    def pictures(self) -> list[Picture]:
        """Those that are there, by prompt and seed.

        Raises:
            SampleError: the manifest cannot be read, or a picture is gone.
        """
        held = list(_known(self.path).values())
        if not held:
            raise SampleError(f"{self.path} holds no pictures yet; draw them with `pcpo sample`")
        for picture in held:
            if not (self.path / picture.file).is_file():
                raise SampleError(
                    f"{self.path / picture.file} is gone; `pcpo sample` with the same arguments draws it again"
                )
        return sorted(held)

    def read(self, picture: Picture) -> Tensor:
        """A picture, (3, H, W) uint8.

        Raises:
            SampleError: its file is damaged, or not the one that was drawn.
        """
        data = (self.path / picture.file).read_bytes()
        if hashlib.sha256(data).hexdigest() != picture.sha256:
            raise SampleError(
                f"{self.path / picture.file} is not the picture that was drawn; move it away, and "
                "`pcpo sample` with the same arguments draws it again"
            )
        return decode(data)


def load(path: Path) -> Folder:
    """A folder that ``pcpo sample`` began.

    Raises:
        SampleError: it is none.
    """
    try:
        kept = read_object(path / SETTINGS)
        if kept.get("format") != FORMAT or not isinstance(kept.get("settings"), dict):
            raise SampleError(
                f"{path / SETTINGS} is not of this version of pcpo (format {kept.get('format')!r:.20})"
            )
    except FileNotFoundError:
        raise SampleError(f"{path} is no folder of `pcpo sample`: it has no {SETTINGS}") from None
    except (OSError, RunError) as error:
        raise SampleError(f"{path / SETTINGS} cannot be read: {told(error)}") from None
    return Folder(path, kept["settings"], {k: v for k, v in kept.items() if k != "settings"})


def begin(path: Path, settings: dict[str, Any], names: dict[str, Any], start: dict[str, Any]) -> Folder:
    """Make the folder, or take up one that was begun with the very same settings.

    Args:
        path: the folder; its parents are made.
        settings: all that decides what the pictures show.
        names: how the user named what the settings have digests of; those of the first start stay.
        start: versions, device and the like of this start, appended to the others.

    Raises:
        SampleError: it holds anything else.
    """
    settings = json.loads(json.dumps(jsonable(settings)))
    with held(path / LOCK, f"{path} is in use", wait=True):
        if (path / SETTINGS).exists():
            kept = load(path)
            if kept.settings != settings:
                raise SampleError(
                    f"{path} was drawn with other settings ({_difference(kept.settings, settings)}); choose another "
                    "folder, or type those again"
                )
            told = {**kept.told, "starts": [*kept.told.get("starts", []), start]}
        else:
            strangers = sorted(p.name for p in path.iterdir() if p.name != LOCK)
            if strangers:
                raise SampleError(
                    f"{path} holds what `pcpo sample` did not make ({strangers[0]}); choose another folder"
                )
            told = {"format": FORMAT, **names, "starts": [start]}
        content = {**told, "settings": settings}
        write_atomically(path / SETTINGS, json.dumps(jsonable(content), indent=1) + "\n")
    return Folder(path, settings, told)


def _difference(kept: dict[str, Any], wanted: dict[str, Any], within: str = "") -> str:
    """The first setting that differs, with both of its values."""
    for name in sorted(kept.keys() | wanted.keys()):
        one, other = kept.get(name), wanted.get(name)
        if one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            return _difference(one, other, f"{within}{name}.")
        return f"{within}{name} is {json.dumps(one):.60}, not {json.dumps(other):.60}"
    return "none differs"


def missing(folder: Folder, wanted: Sequence[Picture]) -> set[str]:
    """The files of the pictures that are yet to be drawn."""
    known = _known(folder.path)
    return {p.file for p in wanted if p.file not in known or not (folder.path / p.file).is_file()}


def keep(folder: Folder, drawn: Sequence[tuple[Picture, Tensor]]) -> None:
    """Write pictures, (3, H, W) uint8 each, and then their lines."""
    lines = []
    for picture, pixels in drawn:
        data = encode(pixels)
        file = folder.path / picture.file
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, data)
        lines.append(_line(picture, hashlib.sha256(data).hexdigest()))
    with held(folder.path / LOCK, f"{folder.path} is in use", wait=True):
        path = folder.path / MANIFEST
        with path.open("ab+") as manifest:
            if manifest.tell():
                manifest.seek(-1, io.SEEK_END)
                if manifest.read(1) != b"\n":  # a kill cut the last line short; it counts for none
                    lines.insert(0, "\n")
            manifest.write("".join(lines).encode())
            manifest.flush()


def sort(folder: Folder, wanted: Sequence[Picture]) -> bool:
    """Once every wanted picture is there, write the manifest anew in their order, a line each.

    Returns:
        Whether they all are.
    """
    with held(folder.path / LOCK, f"{folder.path} is in use", wait=True):
        if missing(folder, wanted):
            return False
        known = _known(folder.path)
        lines = "".join(_line(p, p.sha256) for p in sorted(known.values()))
        path = folder.path / MANIFEST
        if path.read_bytes() != lines.encode():
            write_atomically(path, lines)
    return True


def _line(picture: Picture, sha256: str) -> str:
    line = {
        "file": picture.file, "prompt": picture.prompt, "seed": picture.seed, "text": picture.text, "sha256": sha256
    }  # fmt: skip
    return json.dumps(line, ensure_ascii=False) + "\n"


def _known(path: Path) -> dict[str, Picture]:
    """The pictures of a manifest by their file; of one drawn twice the last line counts.

    Raises:
        SampleError: a line, other than one that a kill cut short, is none.
    """
    known: dict[str, Picture] = {}
    place = path / MANIFEST
    for number, _, line in read_lines(place):
        if not line.rstrip().endswith(b"}"):
            continue  # cut short by a kill
        try:
            line_of = parse_object(line.decode(), f"line {number} of {place}")
            picture = Picture(line_of["prompt"], line_of["seed"], line_of["text"], line_of["sha256"])
            numbers, texts = (picture.prompt, picture.seed), (picture.text, picture.sha256)
            if any(type(n) is not int or n < 0 for n in numbers) or any(type(t) is not str for t in texts):
                raise ValueError("a field of it is of another kind")
        except (ValueError, KeyError, TypeError, RunError):
            raise SampleError(
                f"line {number} of {place} is no picture's; take it out, and `pcpo sample` with the same arguments "
                "draws it again"
            ) from None
        known[picture.file] = picture
    return known


def encode(pixels: Tensor) -> bytes:
    """The PNG of a picture (3, H, W) uint8; it holds pixels and nothing else."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(file, "PNG")
    return file.getvalue()


def decode(data: bytes) -> Tensor:
    """The picture (3, H, W) uint8 of a PNG."""
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
