"""Patch files: a prose header, then one file's hunks that only insert lines, with no context.

The hunks are standard (``git apply --unidiff-zero`` takes them), but there is one spelling only, and it has no room for
a removed line, a context line, a new, renamed or deleted file, or two files. A patch that parses cannot hold a line of
upstream's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from .errors import ExitCode
from .gitio import decode, encode
from .paths import safe_name, safe_relative

_HEAD = re.compile(r"(?:((?s:.*?))\n\n)?--- a/(.*)\n\+\+\+ b/(.*)\n")
_HUNK = re.compile(r"@@ -(\d+),0 \+\d+(?:,\d+)? @@(?: (.*))?\n((?:\+.*\n)+)")
_NOT_PROSE = ("diff ", "index ", "@@", "--- ", "+++ ", "rename ", "new file", "deleted file", "GIT binary")
_HOOK_CALL = re.compile(r"pcpo\w*(?:\.\w+)*\.(\w+)\s*\(")
_COMMENT = re.compile(r"#\s*(?:pcpo:\s*)?(.+?)\s*$")


@dataclass(frozen=True)
class Insertion:
    """Lines, without their endings, that go in after line ``after`` of upstream's file (0 is its top).

    ``label`` is our own words after the second ``@@``.
    """

    after: int
    lines: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class Patch:
    """One patch file: why it exists, which upstream file it touches, what it inserts, its name in the lock."""

    header: str
    path: str
    insertions: tuple[Insertion, ...]
    file: str = field(default="", compare=False)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(insertion.label for insertion in self.insertions)


def parse(data: bytes, file: str) -> Patch:
    """Read one patch file.

    Raises Fault: PATCH_CHANGED when it is not in the spelling of :func:`render`, UNSAFE_PATH when its target escapes.
    """

    def need(good: object, line: int, why: str) -> None:
        if not good:
            raise ExitCode.PATCH_CHANGED.fault(f"{file}:{line}: {why}")

    text = decode(data)
    head = _HEAD.match(text)
    if head is None:
        why = "no '--- a/PATH' and '+++ b/PATH', after a header and an empty line, of an existing file to change"
        raise ExitCode.PATCH_CHANGED.fault(f"{file}:{len(text.splitlines())}: {why}")
    header, old, new = head[1] or "", head[2], safe_relative(head[3], file)
    for n, line in enumerate(header.split("\n"), start=1):
        need(not line.startswith(_NOT_PROSE), n, "the header above '---' must be prose, not part of a diff")
    need(old == new, header.count("\n") + 3, "a patch may not rename a file")
    hunks = _HUNK.findall(text, head.end())
    insertions = tuple(Insertion(int(n), tuple(body[1:-1].split("\n+")), label) for n, label, body in hunks)
    patch = Patch(header, new, insertions, file)
    shape = "expected a hunk that only inserts, '@@ -N,0 +M,K @@ words of our own' and K lines with a plus"
    need(insertions, len(text.splitlines()), shape)
    spelled = zip_longest(text.split("\n"), decode(render(patch)).split("\n"), fillvalue="nothing more")
    for n, (found, wanted) in enumerate(spelled, start=1):
        need(found == wanted, n, f"{shape}; {found!r} should be {wanted!r}")
    places = [insertion.after for insertion in insertions]
    need(places == sorted(set(places)), len(text.splitlines()), "the hunks do not follow each other")
    return patch


def render(patch: Patch) -> bytes:
    """The one spelling of a patch; ``parse`` reads it back to an equal value."""
    out = [patch.header, ""] if patch.header else []
    out += [f"--- a/{patch.path}", f"+++ b/{patch.path}"]
    line = 1
    for insertion in patch.insertions:
        count = len(insertion.lines)
        size = "" if count == 1 else f",{count}"
        label = f" {insertion.label}" if insertion.label else ""
        out.append(f"@@ -{insertion.after},0 +{insertion.after + line}{size} @@{label}")
        out += [f"+{text}" for text in insertion.lines]
        line += count
    return encode("\n".join(out) + "\n")


def put(insertions: Iterable[Insertion], lines: Sequence[str]) -> list[str]:
    """``lines`` with those of ``insertions`` between them."""
    out: list[str] = []
    at = 0
    for insertion in insertions:
        out += [*lines[at : insertion.after], *insertion.lines]
        at = insertion.after
    return [*out, *lines[at:]]


def insert(patch: Patch, base: bytes) -> bytes:
    """Upstream's file with the patch's lines in it; every upstream line survives, in order.

    Raises Fault: WRONG_TREE when the file is too short, or an insertion would join an unterminated last line.
    """
    lines = decode(base).split("\n")
    last = patch.insertions[-1].after
    if last >= len(lines):
        raise ExitCode.WRONG_TREE.fault(f"{patch.path} is too short for a hunk after line {last}")
    return encode("\n".join(put(patch.insertions, lines)))


def strip(patch: Patch, text: bytes) -> bytes | None:
    """``text`` without the patch's lines, wherever they are, or None if not all are in it, in order and unbroken."""
    lines = decode(text).split("\n")
    out: list[str] = []
    at = 0
    for hook in patch.insertions:
        size = len(hook.lines)
        places = range(at, len(lines) - size + 1)
        found = next((place for place in places if tuple(lines[place : place + size]) == hook.lines), None)
        if found is None:
            return None
        out += lines[at:found]
        at = found + size
    return encode("\n".join(out + lines[at:]))


def derive_label(lines: Sequence[str]) -> str:
    """Words for a hunk header taken from the inserted lines alone, never from what upstream has around them."""
    for comment in filter(None, map(_COMMENT.search, lines)):
        return str(comment[1])
    for call in filter(None, map(_HOOK_CALL.search, lines)):
        return f"pcpo hook: {call[1].replace('_', ' ')}"
    imported = any(re.match(r"\s*(?:import|from)\s+pcpo", line) for line in lines)
    return "pcpo hook: import of the overlay" if imported else "pcpo hook"


def keep_labels(old: Iterable[Insertion], new: Iterable[Insertion]) -> tuple[Insertion, ...]:
    """``new`` with the labels of those hunks of ``old`` that insert the same lines, or stand at the same place."""
    known: dict[object, str] = {key: hook.label for hook in old for key in (hook.after, hook.lines)}
    words = {hook: known.get(hook.lines) or known.get(hook.after) or derive_label(hook.lines) for hook in new}
    return tuple(replace(hook, label=label) for hook, label in words.items())


def file_name(path: str, taken: Iterable[str] = ()) -> str:
    """The patch file's name for an upstream file: ``a/the_step.py`` gives ``the-step.patch`` (``a-the-step.patch``).

    Raises Fault: UNSAFE_PATH when the name would hold more than letters, digits, ``.``, ``_`` and ``-``.
    """
    parts = path.removesuffix(".py").replace("_", "-").split("/")
    names = ("-".join(parts[-n:]) + ".patch" for n in range(1, len(parts) + 1))
    return safe_name(next(name for name in names if name not in taken), f"the patch of {path}")
