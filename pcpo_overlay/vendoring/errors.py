"""Faults a user can meet, each with its exit code and a message that says what to do."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of ``apply.py``, with what ``--help`` says about each."""

    meaning: str

    OK = 0, "done, or nothing to do"
    FAILED = 1, "git failed in a way not listed here; its own words are shown"
    USAGE = 2, "wrong arguments, or an unknown upstream name"
    MISSING_PACKAGE = 3, "GitPython, filelock, rich or git itself is not installed, or git does not run"
    BAD_LOCK = 4, "vendor.lock is missing or malformed"
    UNSAFE_PATH = 5, "a path in vendor.lock or in a patch points outside its folder; nothing was written"
    PATCH_CHANGED = 6, "a patch file is missing, malformed, or not the one vendor.lock lists"
    UNREACHABLE = 7, "the upstream cannot be reached: no network, or not in the mirror"
    WRONG_TREE = 8, "the pinned commit is not there, or does not hold (or patch to) the locked tree"
    WRONG_COMMIT = 9, "the folder is not a clone of the upstream at its pin"
    EDITED = 10, "files the overlay would touch were edited by hand; they were left as they are"
    BUSY = 11, "another run, or another git, is at work on the same clone"
    UNWRITABLE = 12, "the destination cannot be written, or its disk is full"
    CONFLICT = 13, "a three-way merge did not come out clean; nothing was written"
    NOT_IN_ORDER = 14, "check found a clone that is absent, unpatched, half-patched or edited"
    INCOMPLETE = 15, "the mirror lacks a file that the patches touch"
    NOT_INSERTIONS = 16, "refresh found more than inserted hook lines in the clone; nothing was written"
    INTERRUPTED = 130, "interrupted; run the same command again to finish or undo"

    def __new__(cls, code: int, meaning: str) -> ExitCode:
        member = int.__new__(cls, code)
        member._value_, member.meaning = code, meaning
        return member

    def fault(self, message: str) -> Fault:
        return Fault(self, message)


def exit_code_table() -> str:
    """The exit codes as the block of text at the end of ``--help``."""
    return "\n".join(f"  {int(code):>3}  {code.meaning}" for code in ExitCode)


class Fault(Exception):
    """Something the user has to know about: ``code`` for the shell, the message for stderr."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def spoken(stderr: str, status: int | None = None) -> str:
    """git's own words without its progress lines; never empty."""
    lines = [line.strip() for line in stderr.replace("\r", "\n").splitlines() if line.strip()]
    said = [line for line in lines if not line.endswith(("%", "done.")) and "% (" not in line]
    return "\n  ".join(said[-6:]) or f"git said nothing (exit {status})"


def disk_full(words: str) -> bool:
    """Whether git's words, or an error's, are about a disk that takes no more."""
    return any(w in words for w in ("No space left", "quota exceeded", "Read-only file", "File too large"))
