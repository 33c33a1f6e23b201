"""Patch files: a prose header, then one file's hunks that only insert lines, with no context.

The hunks are standard (``git apply --unidiff-zero`` takes them), but this module reads a narrow dialect on
purpose: no removed line, no context line, no new, renamed or deleted file, one file per patch. Whatever is
outside the dialect is an error, so a patch that parses cannot hold a line of upstream's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .errors import ExitCode, Fault
from .paths import safe_name, safe_relative

_HUNK = re.compile(r"@@ -(\d+),0 \+(\d+)(?:,(\d+))? @@(?: (.*))?")
_HOOK_CALL = re.compile(r"pcpo\w*(?:\.\w+)*\.(\w+)\s*\(")
_COMMENT = re.compile(r"#\s*(?:pcpo:\s*)?(.+?)\s*$")


@dataclass(frozen=True)
class Insertion:
    """Lines that go in after line ``after`` of upstream's file (1-based; 0 is the top of the file).

    ``lines`` hold no line ending. ``label`` is our own words after the second ``@@``.
    """

    after: int
    lines: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class Patch:
    """One patch file: why it exists, which upstream file it touches, and what it inserts."""

    header: str
    path: str
    insertions: tuple[Insertion, ...]

    def labels(self) -> list[str]:
        return [insertion.label for insertion in self.insertions]


def decode(data: bytes) -> str:
    """Bytes to text without loss, whatever the encoding."""
    return data.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def parse(data: bytes, where: str) -> Patch:
    """Read one patch file.

    Raises Fault: PATCH_CHANGED when it is not in the dialect above, UNSAFE_PATH when its target escapes.
    """

    def bad(line: int, why: str) -> Fault:
        return Fault(ExitCode.PATCH_CHANGED, f"{where}:{line}: {why}")

    lines = decode(data).split("\n")
    if lines and lines[-1] == "":
        lines.pop()
    start = next((i for i, line in enumerate(lines) if line.startswith("--- ")), None)
    if start is None or start + 1 >= len(lines) or not lines[start + 1].startswith("+++ "):
        raise bad(len(lines), "no '--- a/...' line followed by '+++ b/...'")
    for i, line in enumerate(lines[:start]):
        if line.startswith(
            ("diff ", "index ", "@@", "+++ ", "rename ", "new file", "deleted file", "GIT binary")
        ):
            raise bad(i + 1, "the header above '---' must be prose, not part of a diff")
    old, new = lines[start][4:].split("\t")[0], lines[start + 1][4:].split("\t")[0]
    if not old.startswith("a/") or not new.startswith("b/"):
        raise bad(start + 1, "a patch changes an existing file: expected '--- a/PATH' and '+++ b/PATH'")
    safe_relative(old[2:], where)
    path = safe_relative(new[2:], where)
    if old[2:] != path:
        raise bad(start + 1, "a patch may not rename a file")

    insertions: list[Insertion] = []
    shift, at = 0, start + 2
    while at < len(lines):
        match = _HUNK.fullmatch(lines[at])
        if match is None:
            raise bad(at + 1, "expected a hunk that only inserts, '@@ -N,0 +M,K @@ words of our own'")
        after, begin = int(match[1]), int(match[2])
        count = int(match[3] or 1)
        body = lines[at + 1 : at + 1 + count]
        if count == 0 or len(body) < count or not all(line.startswith("+") for line in body):
            raise bad(at + 1, f"the hunk announces {count} inserted lines but does not hold them")
        if begin != after + shift + 1 or (insertions and after <= insertions[-1].after):
            raise bad(at + 1, "the hunk's line numbers do not follow from the hunks before it")
        insertions.append(Insertion(after, tuple(line[1:] for line in body), match[4] or ""))
        shift += count
        at += 1 + count
    if not insertions:
        raise bad(len(lines), "no hunk")
    return Patch("\n".join(lines[:start]).strip("\n"), path, tuple(insertions))


def render(patch: Patch) -> bytes:
    """The one canonical spelling of a patch; ``parse`` reads it back to an equal value."""
    out = [patch.header, ""] if patch.header else []
    out += [f"--- a/{patch.path}", f"+++ b/{patch.path}"]
    shift = 0
    for insertion in patch.insertions:
        count = len(insertion.lines)
        size = "" if count == 1 else f",{count}"
        label = f" {insertion.label}" if insertion.label else ""
        out.append(f"@@ -{insertion.after},0 +{insertion.after + shift + 1}{size} @@{label}")
        out += [f"+{line}" for line in insertion.lines]
        shift += count
    return encode("\n".join(out) + "\n")


def insert(patch: Patch, base: bytes) -> bytes:
    """Upstream's file with the patch's lines in it; every upstream line survives, in order.

    Raises Fault: WRONG_TREE when the file is too short, or an insertion would join an unterminated last line.
    """
    lines = decode(base).split("\n")
    tail = lines.pop()  # "" when the file ends in a newline
    out: list[str] = []
    taken = 0
    for insertion in patch.insertions:
        if insertion.after > len(lines):
            raise Fault(
                ExitCode.WRONG_TREE, f"{patch.path} is too short for a hunk after line {insertion.after}"
            )
        out += lines[taken : insertion.after]
        out += insertion.lines
        taken = insertion.after
    out += lines[taken:]
    return encode("\n".join([*out, tail]))


def strip(patch: Patch, text: bytes) -> bytes | None:
    """``text`` without the patch's lines, or None if they are not all in it, in order and in one piece each.

    The lines need not be at the patch's line numbers: this is how a three-way result is checked.
    """
    lines = decode(text).split("\n")
    out: list[str] = []
    at = 0
    for insertion in patch.insertions:
        size = len(insertion.lines)
        places = (
            i for i in range(at, len(lines) - size + 1) if tuple(lines[i : i + size]) == insertion.lines
        )
        found = next(places, None)
        if found is None:
            return None
        out += lines[at:found]
        at = found + size
    return encode("\n".join(out + lines[at:]))


def derive_label(lines: Sequence[str]) -> str:
    """Words for a hunk header taken from the inserted lines alone, never from what upstream has around them."""
    for line in lines:
        comment = _COMMENT.search(line)
        if comment is not None:
            return comment[1]
    for line in lines:
        call = _HOOK_CALL.search(line)
        if call is not None:
            return f"pcpo hook: {call[1].replace('_', ' ')}"
    if any(re.match(r"\s*(?:import|from)\s+pcpo", line) for line in lines):
        return "pcpo hook: import of the overlay"
    return "pcpo hook"


def keep_labels(old: Iterable[Insertion], new: Iterable[Insertion]) -> tuple[Insertion, ...]:
    """``new`` with the labels of those hunks of ``old`` that insert the same lines, or stand at the same place."""
    by_lines = {insertion.lines: insertion.label for insertion in old}
    by_place = {insertion.after: insertion.label for insertion in old}
    return tuple(
        Insertion(n.after, n.lines, by_lines.get(n.lines) or by_place.get(n.after) or derive_label(n.lines))
        for n in new
    )


def file_name(path: str, taken: Iterable[str] = ()) -> str:
    """The patch file's name for an upstream file: ``a/the_step.py`` gives ``the-step.patch`` (``a-the-step.patch``).

    Raises Fault: UNSAFE_PATH when the name would hold more than letters, digits, ``.``, ``_`` and ``-``.
    """
    parts = path.removesuffix(".py").replace("_", "-").split("/")
    for n in range(1, len(parts) + 1):
        name = "-".join(parts[-n:]) + ".patch"
        if name not in taken:
            return safe_name(name, f"the patch of {path}")
    raise ValueError(f"no patch file name left for {path}")
