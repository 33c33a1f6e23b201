"""Three-way merges of one file, and insertions as a difference of two texts."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import ExitCode, Fault, GitFailed
from .gitio import call, environment
from .patchfile import Insertion, decode, encode

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


@dataclass(frozen=True)
class Merged:
    """A merge's result; with ``conflicts`` it holds conflict markers."""

    text: bytes
    conflicts: int


def three_way(ours: bytes, base: bytes, theirs: bytes, names: Sequence[str]) -> Merged:
    """Take what changed from ``base`` to ``theirs`` over to ``ours``; ``names`` label the three in markers."""
    with tempfile.TemporaryDirectory(prefix="pcpo-merge-") as folder:
        root = Path(folder)
        for name, data in (("ours", ours), ("base", base), ("theirs", theirs)):
            (root / name).write_bytes(data)
        labels = [word for name in names for word in ("-L", name)]
        command = ["merge-file", "-p", "--diff3", *labels, "ours", "base", "theirs"]
        result = call(command, root, environment())
        if result.status < 0 or result.status > 127:
            raise GitFailed(command, result.status, result.stderr)
        return Merged(result.stdout, result.status)


def conflict_markers(text: str) -> str:
    """The conflicting places of a merged text, with their line numbers."""
    out: list[str] = []
    inside = False
    for n, line in enumerate(text.split("\n"), start=1):
        if line.startswith("<<<<<<< "):
            inside = True
            out.append(f"at line {n}:")
        if inside:
            out.append(f"  {line}")
        if line.startswith(">>>>>>> "):
            inside = False
    return "\n".join(out)


def insertions(base: bytes, new: bytes, where: str) -> tuple[Insertion, ...]:
    """The lines that ``new`` adds to ``base``, with empty labels.

    Raises:
        Fault: NOT_INSERTIONS if ``new`` also changes, removes or reorders lines, with the lines named.
    """
    with tempfile.TemporaryDirectory(prefix="pcpo-diff-") as folder:
        root = Path(folder)
        (root / "base").write_bytes(base)
        (root / "new").write_bytes(new)
        command = [
            "diff",
            "--no-index",
            "--no-ext-diff",
            "--no-textconv",
            "--text",
            "-U0",
            "--minimal",
            "base",
            "new",
        ]
        result = call(command, root, environment())
        if result.status not in (0, 1):
            raise GitFailed(command, result.status, result.stderr)
    lines = decode(result.stdout).split("\n")
    out: list[Insertion] = []
    bad: list[str] = []
    at = 0
    while at < len(lines):
        match = _HUNK.match(lines[at])
        at += 1
        if match is None:
            continue
        start, removed = int(match[1]), int(match[2] or 1)
        added = int(match[4] or 1)
        body = lines[at : at + removed + added]
        if removed or any(line.startswith("\\") for line in lines[at : at + removed + added + 1]):
            bad += [f"{where}:{start + n}: {line[1:]}" for n, line in enumerate(body[:removed])]
        else:
            out.append(Insertion(start, tuple(line[1:] for line in body), ""))
        at += removed + added
    if bad:
        raise Fault(
            ExitCode.NOT_INSERTIONS,
            "these lines of upstream's were changed or removed, and a patch only inserts:\n  "
            + "\n  ".join(bad),
        )
    return tuple(out)


def to_lf(text: bytes) -> bytes:
    return text.replace(b"\r\n", b"\n")


def to_crlf(text: bytes) -> bytes:
    return encode(decode(to_lf(text)).replace("\n", "\r\n"))
