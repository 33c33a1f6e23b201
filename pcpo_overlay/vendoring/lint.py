"""What every patch has to be, beyond parsing: a header that says why, and nothing but calls into the overlay."""

from __future__ import annotations

import re
from pathlib import Path

from .gitio import decode
from .lockfile import Lock
from .patchfile import Insertion, Patch

HEADER_PARTS = ("Why:", "When it may go:")
HEADER_WORDS = 20
_QUOTED = re.compile(r"(\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')")
_CODE_LABEL = re.compile(r"(def|class|async|if|for|while|with|return|import|from|@)\b|.*[:(\[{]$")


def unpatchable(path: str) -> str | None:
    """Why a file is never patched, or None if it may be: only Python code outside upstream's configs is."""
    if not path.endswith(".py"):
        return f"{path} is not Python code; launch scripts, configs and data of upstream are never patched"
    if path.startswith(("config/", "configs/")):
        return f"{path} is a config of upstream; those are never patched"
    return None


def inserted_code(insertion: Insertion) -> list[str]:
    """Problems of one hunk's lines: each statement names pcpo; other lines continue one, are comments or empty."""
    out: list[str] = []
    depth = 0
    for line in insertion.lines:
        code = _QUOTED.sub("''", line.strip()).split("#", 1)[0]
        if depth <= 0 and code and "pcpo" not in code:
            out.append(f"inserted line does not call or import pcpo: {line.strip()!r}")
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
        need = "say why, what the hooks do, when they may go"
        out.append(f"the header is shorter than {HEADER_WORDS} words: {need}")
    reason = unpatchable(patch.path)
    out += [reason] if reason else []
    for hook in patch.insertions:
        found = inserted_code(hook)
        if not hook.label.strip():
            found.insert(0, "no words of our own after the second @@")
        elif _CODE_LABEL.match(hook.label.strip()):
            found.insert(0, f"the words after the second @@ look like code: {hook.label!r}")
        out += [f"hunk after line {hook.after}: {problem}" for problem in found]
    return out


def upstream_lines(patch: Patch, base: bytes) -> list[str]:
    """Lines and labels of a patch that are lines of upstream's file, ignoring white space at both ends."""
    known = {line.strip() for line in decode(base).split("\n")} - {""}
    out: list[str] = []
    for hook in patch.insertions:
        where, label = f"hunk after line {hook.after}", hook.label.strip()
        if label and any(line.startswith(label) for line in known):
            out.append(f"{where}: its words are upstream's: {label!r}")
        same = [line.strip() for line in hook.lines if line.strip() in known]
        out += [f"{where}: inserts a line that upstream has: {line!r}" for line in same]
    return out


def orphans(lock: Lock, folder: Path | None = None) -> list[str]:
    """Patch files under ``patches/`` that the lock does not list."""
    listed = {patch.file for upstream in lock.upstreams for patch in upstream.patches}
    found = (folder or lock.root / "patches").rglob("*.patch")
    return sorted({path.relative_to(lock.root).as_posix() for path in found} - listed)


def misplaced(lock: Lock) -> list[str]:
    """Patches listed under one upstream but kept in another's folder."""
    listed = [(upstream.name, patch.file) for upstream in lock.upstreams for patch in upstream.patches]
    wrong = [(name, file) for name, file in listed if not file.startswith(f"patches/{name}/")]
    return [f"{file} is listed under {name}" for name, file in wrong]
