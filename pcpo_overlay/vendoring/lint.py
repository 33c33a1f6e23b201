"""What every patch has to be, beyond parsing: a header that says why, and nothing but calls into the overlay."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from .lockfile import Lock
from .patchfile import Insertion, Patch, decode

HEADER_PARTS = ("Why:", "When it may go:")
HEADER_WORDS = 20
_QUOTED = re.compile(r"(\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')")
_CODE_LABEL = re.compile(r"(def|class|async|if|for|while|with|return|import|from|@)\b|.*[:(\[{]$")
_NEVER_PATCHED = ("config/", "configs/")


def unpatchable(path: str) -> str | None:
    """Why a file is never patched, or None if it may be: only Python code outside upstream's configs is."""
    if not path.endswith(".py"):
        return f"{path} is not Python code; launch scripts, configs and data of upstream are never patched"
    if path.startswith(_NEVER_PATCHED):
        return f"{path} is a config of upstream; those are never patched"
    return None


def inserted_code(insertion: Insertion) -> list[str]:
    """Problems of one hunk's lines: each statement names pcpo; other lines continue one, are comments or empty."""
    out: list[str] = []
    depth = 0
    for line in insertion.lines:
        text = line.strip()
        bare = _QUOTED.sub("''", text)
        code = bare.split("#", 1)[0]
        if depth <= 0 and code and "pcpo" not in code:
            out.append(f"inserted line does not call or import pcpo: {text!r}")
        depth += sum(code.count(c) for c in "([{") - sum(code.count(c) for c in ")]}")
    return out


def problems(patch: Patch) -> list[str]:
    """What is wrong with a patch as far as can be told without upstream's code."""
    out: list[str] = []
    for part in HEADER_PARTS:
        match = re.search(rf"^{part}(.*(?:\n[ \t]+.*)*)", patch.header, re.MULTILINE)
        if match is None or len(match[1].split()) < 3:
            out.append(f"the header has no '{part}' followed by a few words")
    if len(patch.header.split()) < HEADER_WORDS:
        out.append(
            f"the header is shorter than {HEADER_WORDS} words: say why, what the hooks do, when they may go"
        )
    reason = unpatchable(patch.path)
    if reason:
        out.append(reason)
    for insertion in patch.insertions:
        where = f"hunk after line {insertion.after}"
        if not insertion.label.strip():
            out.append(f"{where}: no words of our own after the second @@")
        elif _CODE_LABEL.fullmatch(insertion.label.strip()) or _CODE_LABEL.match(
            insertion.label.strip() + " "
        ):
            out.append(f"{where}: the words after the second @@ look like code: {insertion.label!r}")
        out += [f"{where}: {problem}" for problem in inserted_code(insertion)]
    return out


def upstream_lines(patch: Patch, base: bytes) -> list[str]:
    """Lines and labels of a patch that are lines of upstream's file, ignoring white space at both ends."""
    known = {line.strip() for line in decode(base).split("\n")} - {""}
    out: list[str] = []
    for insertion in patch.insertions:
        label = insertion.label.strip()
        if label in known or any(line.startswith(label) for line in known if label):
            out.append(f"hunk after line {insertion.after}: its words are upstream's: {label!r}")
        out += [
            f"hunk after line {insertion.after}: inserts a line that upstream has: {line.strip()!r}"
            for line in insertion.lines
            if line.strip() in known
        ]
    return out


def orphans(lock: Lock, folder: Path | None = None) -> list[str]:
    """Patch files under ``patches/`` that the lock does not list."""
    root = lock.root / "patches" if folder is None else folder
    listed = {patch.file for upstream in lock.upstreams for patch in upstream.patches}
    found = sorted(path.relative_to(lock.root).as_posix() for path in root.rglob("*.patch"))
    return [file for file in found if file not in listed]


def misplaced(lock: Lock) -> list[str]:
    """Patches listed under one upstream but kept in another's folder."""
    return [
        f"{patch.file} is listed under {upstream.name}"
        for upstream in lock.upstreams
        for patch in upstream.patches
        if not patch.file.startswith(f"patches/{upstream.name}/")
    ]


def all_upstream_lines(patches: Sequence[Patch], base: Mapping[str, bytes]) -> list[str]:
    """:func:`upstream_lines` of several patches, each with its file."""
    return [
        f"{patch.path}: {problem}" for patch in patches for problem in upstream_lines(patch, base[patch.path])
    ]
