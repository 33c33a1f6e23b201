"""How two versions of a file correspond, line by line, and where inserted lines go in another version."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from .errors import ExitCode
from .gitio import decode, encode
from .patchfile import Insertion, put


def _lines(text: bytes) -> list[str]:
    return decode(text).split("\n")


def _images(a: Sequence[str], b: Sequence[str]) -> list[int | None]:
    """For each line of ``a``, where it is in ``b``, or None."""
    out: list[int | None] = [None] * len(a)
    for start, there, size in SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks():
        out[start : start + size] = range(there, there + size)
    return out


def _first_chances(a: Sequence[str], b: Sequence[str]) -> list[int] | None:
    """For each line of ``a`` its first place in ``b`` after that of the line before; None if one has no place."""
    out: list[int] = []
    for line in a:
        try:
            out.append(b.index(line, out[-1] + 1 if out else 0))
        except ValueError:
            return None
    return out


def insertions(
    base: bytes, new: bytes, where: str, likely: tuple[Insertion, ...] = ()
) -> tuple[Insertion, ...]:
    """The lines that ``new`` adds to ``base``, with empty labels; ``likely`` if they are those.

    Raises Fault: NOT_INSERTIONS if ``new`` also changes, removes or reorders lines, with the lines named.
    """
    a, b = _lines(base), _lines(new)
    if likely and put(likely, a) == b:
        return tuple(replace(hook, label="") for hook in likely)
    if a.pop() != b.pop():
        raise ExitCode.NOT_INSERTIONS.fault(f"{where}: the end, after the last line ending, was changed")
    found = _images(a, b)
    images = [place for place in found if place is not None]
    if len(images) < len(a):  # a longest match can hide that lines were only added; this cannot
        first = _first_chances(a, b)
        if first is None:
            changed = [f"{where}:{n + 1}: {line}" for n, line in enumerate(a) if found[n] is None]
            words = "these lines of upstream's were changed or removed, and a patch only inserts:"
            raise ExitCode.NOT_INSERTIONS.fault("\n  ".join([words, *changed]))
        images = first
    edges = [-1, *images, len(b)]
    added = (Insertion(n, tuple(b[edges[n] + 1 : edges[n + 1]]), "") for n in range(len(a) + 1))
    return tuple(hook for hook in added if hook.lines)


@dataclass(frozen=True)
class Carried:
    """Hooks carried over to another version of a file: ``text`` holds those in ``moved``; ``lost`` are the others."""

    text: bytes
    moved: tuple[Insertion, ...]
    lost: tuple[Insertion, ...]
    why_lost: str


def carry(hooks: Sequence[Insertion], base: bytes, ours: bytes) -> Carried:
    """Insert lines where they belong in ``ours``, given that they belong in ``base``: a three-way merge.

    A hook has its place where the two lines around it both survive. What ``ours`` has inserted between them stays,
    before the hook or, where only that parses, after it.
    """
    a, b = _lines(base), _lines(ours)
    images = [-1, *_images(a[:-1], b[:-1]), len(b) - 1]
    moved: list[Insertion] = []
    lost: dict[Insertion, str] = {}
    for hook in hooks:
        above, below = images[hook.after], images[hook.after + 1]
        if above is None or below is None:
            around = [n for n in (hook.after - 1, hook.after) if images[n + 1] is None]
            changed = [f"  {a[n]}" for n in around]
            lost[hook] = "\n".join(["the lines around its place were changed:", *changed])
            continue
        tried = [replace(hook, after=place) for place in dict.fromkeys((below, above + 1))]
        fitting = [hook for hook in tried if len(tried) == 1 or _parses(put([hook], b))]
        if fitting:
            moved.append(fitting[0])
        else:
            lost[hook] = "other lines were inserted at its place, and with the hook they are no Python code"
    where = "hook '{0.label}', after line {0.after} at the pin: {1}".format
    why = "\n".join(where(hook, words) for hook, words in lost.items())
    return Carried(encode("\n".join(put(moved, b))), tuple(moved), tuple(lost), why)


def _parses(lines: Sequence[str]) -> bool:
    try:
        ast.parse(encode("\n".join(lines)))
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True


def take_out(before: bytes, after: bytes, now: bytes) -> bytes | None:
    """``now`` without the lines that ``after`` has and ``before`` has not; None if they were edited or torn apart."""
    b, c = _lines(after), _lines(now)
    images = _images(b, c)
    drop: set[int | None] = set()
    shift = 0
    for hook in insertions(before, after, "a record"):
        start, shift = hook.after + shift, shift + len(hook.lines)
        there = images[start : start + len(hook.lines)]
        if there[0] is None or there != list(range(there[0], there[0] + len(there))):
            return None
        drop.update(there)
    return encode("\n".join(line for n, line in enumerate(c) if n not in drop))


def to_lf(text: bytes) -> bytes:
    return text.replace(b"\r\n", b"\n")


def like(text: bytes, now: bytes) -> bytes:
    """``text`` with the line endings of ``now``: carriage returns where every line of that has one."""
    crlf = b"\r\n" in now and now.count(b"\r\n") == now.count(b"\n")
    return to_lf(text).replace(b"\n", b"\r\n") if crlf and b"\r\n" not in text else text
