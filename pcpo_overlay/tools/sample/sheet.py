"""A contact sheet: rows are prompts, columns the seeds of one folder, or several arms."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pcpo_overlay.files import write_atomically
from pcpo_overlay.tools.sample import SampleError
from pcpo_overlay.tools.sample.folder import Folder, Picture

#: Pixels: of a cell's side at least and, by default, at most; of the text and of its margin.
SMALLEST, LARGEST, TEXT, MARGIN = 96, 256, 15, 6
#: A sheet that nobody looks at: pixels of a side.
MOST = 30_000


def sheet(
    folders: Sequence[Folder],
    out: Path,
    *,
    labels: Sequence[str] | None = None,
    rows: int = 12,
    seeds: Sequence[int] | None = None,
    cell: int | None = None,
) -> Path:
    """Write a contact sheet as a PNG.

    Args:
        folders: one, whose seeds are the columns; or several arms, which are, with a row for each prompt and seed.
        out: the file.
        labels: of the arms, in the place of their folders' names.
        rows: prompts, the first so many.
        seeds: None is the first eight, of several arms the first.
        cell: pixels of a picture's side; None is its own, within bounds.

    Returns:
        ``out``.

    Raises:
        SampleError: the folders have no pictures in common, or too many for one sheet.
    """
    held = [{(p.prompt, p.text, p.seed): p for p in folder.pictures()} for folder in folders]
    common = sorted(set.intersection(*map(set, held)))
    several = len(folders) > 1
    if seeds is None:
        prompts = [(n, text) for n, text, _ in common]
        different = sorted({seed for *_, seed in common})
        # one picture a prompt, each of a seed of its own, is one column
        single = len(prompts) == len(set(prompts))
        seeds = different if single else different[: 1 if several else 8]
    else:
        single = False
    common = [key for key in common if key[2] in set(seeds)]
    if not common:
        raise SampleError(
            f"{' and '.join(str(f.path) for f in folders)} have no picture of the same prompt and seed"
        )
    shown = sorted({(n, text) for n, text, _ in common})[:rows]

    lines: list[tuple[str, list[tuple[Folder, Picture] | None]]] = []
    for n, text in shown:
        of_prompt = [key for key in common if key[:2] == (n, text)]
        if several or single:
            for key in of_prompt:
                told = text if len(of_prompt) == 1 else f"{text} (seed {key[2]})"
                lines.append((told, [(f, one[key]) for f, one in zip(folders, held, strict=True)]))
        else:
            by_seed = {key[2]: held[0][key] for key in of_prompt}
            lines.append((text, [(folders[0], by_seed[s]) if s in by_seed else None for s in seeds]))
    if several:
        heads = list(labels or [folder.name for folder in folders])
    else:
        heads = [] if single else [f"seed {seed}" for seed in seeds]
    image = _drawn(lines, heads, cell)
    file = io.BytesIO()
    image.save(file, "PNG")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, file.getvalue())
    return out


def _drawn(
    lines: Sequence[tuple[str, Sequence[tuple[Folder, Picture] | None]]],
    heads: Sequence[str],
    cell: int | None,
) -> Any:
    """The sheet: a column of wrapped prompts, then the pictures."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(TEXT)
    first = next(one for _, line in lines for one in line if one is not None)
    own = max(first[0].read(first[1]).shape[1:])
    side = cell or (min(own, LARGEST) if own >= SMALLEST else own * -(-SMALLEST // own))
    wide = 220 if max(len(told) for told, _ in lines) > 16 else 130
    top = TEXT + 2 * MARGIN if heads else 0
    columns = max(len(line) for _, line in lines)
    size = (wide + columns * side, top + len(lines) * side)
    if max(size) > MOST:
        raise SampleError(
            f"the sheet would have {size[0]}x{size[1]} pixels; take fewer --rows or --seeds, or a --cell"
        )
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    for n, head in enumerate(heads):
        cut = textwrap.shorten(head, max(4, int(side / (TEXT * 0.5))), placeholder="…")
        pen.text((wide + n * side + side / 2, MARGIN), cut, fill="black", font=font, anchor="ma")
    for row, (told, line) in enumerate(lines):
        wrapped = textwrap.wrap(told, int((wide - 2 * MARGIN) / (TEXT * 0.52)))
        fits = max(1, side // (TEXT + 4))
        if len(wrapped) > fits:
            wrapped = [*wrapped[: fits - 1], wrapped[fits - 1] + " …"]
        middle = top + row * side + side / 2
        pen.multiline_text(
            (wide - MARGIN, middle), "\n".join(wrapped), fill="black", font=font, anchor="rm", align="right"
        )
        for column, one in enumerate(line):
            if one is not None:
                picture = _scaled(one[0].read(one[1]), side)
                image.paste(picture, (wide + column * side, top + row * side))
    return image


def _scaled(pixels: Tensor, side: int) -> Any:
    """A picture in a square of so many pixels: small ones keep their pixels as squares."""
    from PIL import Image

    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return image.resize(size, how) if scale != 1 else image
