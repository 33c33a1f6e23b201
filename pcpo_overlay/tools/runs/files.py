"""Reading JSON and JSON lines that anybody may have written: bounded, and every fault a line that names its place."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pcpo_overlay.tools.faults import Fault, printable, told

#: Bytes of a JSON file, and of one line of a JSON-lines file.
LARGEST_TEXT = 16 * 2**20
#: Bytes of a JSON-lines file.
LARGEST_FILE = 2**30
#: Levels of nesting; what the overlay writes has six.
DEEPEST = 50
#: Digits of a whole number: more than 64 bits hold.
LONGEST_INTEGER = 20
#: Numbers beyond it, of either sign, are as good as infinite: their squares still fit a double.
HIGHEST = 1e100
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


class RunError(Fault):
    """A run folder, or a file of it, that cannot be read; one line that names the place and what is wrong there."""


class _OutOfRange:
    """Stands for a number until its place is known."""

    def __init__(self, told: str) -> None:
        self.told = told


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        FileNotFoundError: there is no such file.
        RunError: it cannot be read, is no regular file, too large or too deep, or is no JSON object of finite numbers.
    """
    with _opened(path) as file:
        data = _read(path, file, LARGEST_TEXT + 1)
    if len(data) > LARGEST_TEXT:
        raise RunError(f"{printable(path)} is larger than {LARGEST_TEXT >> 20} MiB")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise RunError(f"{printable(path)} cannot be read: it is not UTF-8") from None
    return parse_object(text, printable(path))


def read_object_or_none(path: Path) -> dict[str, Any] | None:
    """:func:`read_object`, or None where there is no readable one."""
    try:
        return read_object(path)
    except (OSError, RunError):
        return None


def read_lines(path: Path) -> Iterator[tuple[int, bool, bytes]]:
    """The lines of a file that are not blank: number from 1, whether it ends with a newline, and the bytes.

    Of a file that is not there, none.

    Raises:
        RunError: it cannot be read, is no regular file, or it or a line of it is too large.
    """
    try:
        file = _opened(path)
    except FileNotFoundError:
        return
    with file:
        if os.fstat(file.fileno()).st_size > LARGEST_FILE:
            raise RunError(f"{printable(path)} is larger than {LARGEST_FILE >> 20} MiB")
        number = 0
        while line := _read(path, file, LARGEST_TEXT + 1, line=True):
            number += 1
            if len(line) > LARGEST_TEXT:
                raise RunError(f"{printable(path)}: line {number} is longer than {LARGEST_TEXT >> 20} MiB")
            if line.strip():
                yield number, line.endswith(b"\n"), line


def parse_object(text: str, place: str) -> dict[str, Any]:
    """A JSON object, within bounds; NaN becomes None.

    Args:
        text: of the object.
        place: for messages.

    Raises:
        RunError: it is none.
    """
    found: list[_OutOfRange] = []

    def out_of_range(words: str) -> _OutOfRange:
        found.append(_OutOfRange(words))
        return found[-1]

    def whole(digits: str) -> int | _OutOfRange:
        fits = len(digits) <= LONGEST_INTEGER
        return int(digits) if fits else out_of_range(f"is a whole number of {len(digits)} digits")

    def real(digits: str) -> float | _OutOfRange:
        value = float(digits)
        return value if math.isfinite(value) else out_of_range("is too large for a number")

    def constant(name: str) -> _OutOfRange | None:
        return None if name == "NaN" else out_of_range("is infinite")

    try:
        value = json.loads(text, parse_int=whole, parse_float=real, parse_constant=constant)
    except RecursionError:
        raise RunError(f"{place} is nested more than {DEEPEST} levels deep") from None
    except ValueError as error:
        raise RunError(f"{place} is damaged: {told(error)}") from None
    if not isinstance(value, dict):
        raise RunError(f"{place} is not a JSON object but {kind_of(value)}")
    # most texts cannot hold any of it, and walking them all takes longer than parsing them
    if found or text.count("[") + text.count("{") > DEEPEST or _SURROGATE.search(text):
        _walk(value, place, "", 1)
    return value


def kind_of(value: object) -> str:
    """What a JSON value is, with its article."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite int or float of a size to compute with (a bool is not)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= HIGHEST


def _walk(value: object, place: str, field: str, depth: int) -> None:
    """Find what a text may not hold, and name its field."""
    if depth > DEEPEST:
        raise RunError(f"{place}: {field.split('.')[0]} is nested more than {DEEPEST} levels deep")
    if isinstance(value, _OutOfRange):
        raise RunError(f"{place}: {field} {value.told}")
    if isinstance(value, str) and _has_surrogate(value):
        raise RunError(f"{place}: {field} holds half of a character (a lone surrogate)")
    if isinstance(value, dict):
        for key, held in value.items():
            if _has_surrogate(key):
                raise RunError(
                    f"{place}: a name in {field or 'it'} holds half of a character (a lone surrogate)"
                )
            _walk(held, place, f"{field}.{printable(key[:80])}".lstrip("."), depth + 1)
    elif isinstance(value, list):
        for n, held in enumerate(value):
            _walk(held, place, f"{field}[{n}]", depth + 1)


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _opened(path: Path) -> BinaryIO:
    """A regular file, open to read; a pipe is refused and not waited for."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise RunError(f"{printable(path)} cannot be read: {told(error)}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise RunError(f"{printable(path)} is not a regular file")
    return os.fdopen(handle, "rb")


def _read(path: Path, file: BinaryIO, most: int, *, line: bool = False) -> bytes:
    try:
        return file.readline(most) if line else file.read(most)
    except OSError as error:
        raise RunError(f"{printable(path)} cannot be read: {told(error)}") from None
