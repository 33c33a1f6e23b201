"""How two versions of a file correspond, line by line, and where inserted lines go in another version."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from .errors import ExitCode, Fault
from .patchfile import Insertion, decode, encode


def _lines(text: bytes) -> list[str]:
    return decode(text).split("\n")


def _opcodes(a: Sequence[str], b: Sequence[str]) -> list[tuple[str, int, int, int, int]]:
    return list(SequenceMatcher(None, a, b, autojunk=False).get_opcodes())


def _images(a: Sequence[str], b: Sequence[str]) -> list[int | None]:
    """For each line of ``a``, where it is in ``b``, or None."""
    out: list[int | None] = [None] * len(a)
    for kind, start, end, there, _ in _opcodes(a, b):
        if kind == "equal":
            out[start:end] = range(there, there + end - start)
    return out


def insertions(
    base: bytes, new: bytes, where: str, likely: tuple[Insertion, ...] = ()
) -> tuple[Insertion, ...]:
    """The lines that ``new`` adds to ``base``, with empty labels; ``likely`` if they are those.

    Raises Fault: NOT_INSERTIONS if ``new`` also changes, removes or reorders lines, with the lines named.
    """
    a, b = _lines(base), _lines(new)
    if likely and _insert(a, [(hook.after, hook) for hook in likely]) == b:
        return tuple(replace(hook, label="") for hook in likely)
    if a.pop() != b.pop():
        raise Fault(
            ExitCode.NOT_INSERTIONS, f"{where}: the end of the file, after its last line ending, was changed"
        )
    codes = _opcodes(a, b)
    if any(kind not in ("equal", "insert") for kind, *_ in codes):
        # A longest match can hide that lines were only added; taking each line at its first chance cannot.
        images: list[int] = []
        for line in a:
            try:
                images.append(b.index(line, images[-1] + 1 if images else 0))
            except ValueError:
                changed = [
                    f"{where}:{n + 1}: {a[n]}"
                    for kind, s, e, *_ in codes
                    if kind != "equal"
                    for n in range(s, e)
                ]
                raise Fault(
                    ExitCode.NOT_INSERTIONS,
                    "these lines of upstream's were changed or removed, and a patch only inserts:\n  "
                    + "\n  ".join(changed),
                ) from None
        edges = [-1, *images, len(b)]
        codes = [("insert", n, n, edges[n] + 1, edges[n + 1]) for n in range(len(a) + 1)]
    return tuple(
        Insertion(at, tuple(b[start:end]), "")
        for kind, at, _, start, end in codes
        if kind == "insert" and end > start
    )


@dataclass(frozen=True)
class Carried:
    """Hooks carried over to another version of a file: ``text`` holds those in ``moved``; ``lost`` are the others."""

    text: bytes
    moved: tuple[Insertion, ...]
    lost: tuple[tuple[Insertion, str], ...]

    def why_lost(self) -> str:
        """Which hooks have no place, and why."""
        return "\n".join(
            f"hook '{hook.label}', after line {hook.after} at the pin: {why}" for hook, why in self.lost
        )


def carry(hooks: Sequence[Insertion], base: bytes, ours: bytes) -> Carried:
    """Insert lines where they belong in ``ours``, given that they belong in ``base``: a three-way merge.

    A hook has its place where the two lines around it both survive. What ``ours`` has inserted between them stays,
    before the hook or, where only that parses, after it.
    """
    a, b = _lines(base), _lines(ours)
    images = [-1, *_images(a[:-1], b[:-1]), len(b) - 1]
    moved: list[Insertion] = []
    lost: list[tuple[Insertion, str]] = []
    for hook in hooks:
        above, below = images[hook.after], images[hook.after + 1]
        if above is None or below is None:
            seen = [
                a[n] for n in (hook.after - 1, hook.after) if 0 <= n < len(a) - 1 and images[n + 1] is None
            ]
            lost.append(
                (
                    hook,
                    "\n".join(["the lines around its place were changed:", *(f"  {line}" for line in seen)]),
                )
            )
            continue
        places = [below, above + 1] if below != above + 1 else [below]
        done = [place for place in places if len(places) == 1 or _parses(_insert(b, [(place, hook)]))]
        if done:
            moved.append(Insertion(done[0], hook.lines, hook.label))
        else:
            lost.append(
                (hook, "other lines were inserted at its place, and with the hook they are no Python code")
            )
    text = _insert(b, [(hook.after, hook) for hook in moved])
    return Carried(encode("\n".join(text)), tuple(moved), tuple(lost))


def _insert(lines: Sequence[str], hooks: Sequence[tuple[int, Insertion]]) -> list[str]:
    out: list[str] = []
    at = 0
    for place, hook in hooks:
        out += [*lines[at:place], *hook.lines]
        at = place
    return [*out, *lines[at:]]


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
    drop: set[int] = set()
    shift = 0
    for hook in insertions(before, after, "a record"):
        start, shift = hook.after + shift, shift + len(hook.lines)
        there = images[start : start + len(hook.lines)]
        if None in there or there[-1] - there[0] != len(there) - 1:  # type: ignore[operator]
            return None
        drop |= {place for place in there if place is not None}
    return encode("\n".join(line for n, line in enumerate(c) if n not in drop))


def to_lf(text: bytes) -> bytes:
    return text.replace(b"\r\n", b"\n")


def is_crlf(text: bytes) -> bool:
    """Whether every line ends in carriage return and line feed."""
    return b"\r\n" in text and text.count(b"\r\n") == text.count(b"\n")


def to_crlf(text: bytes) -> bytes:
    return to_lf(text).replace(b"\n", b"\r\n")
