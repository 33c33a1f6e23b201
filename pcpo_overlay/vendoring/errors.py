"""Faults a user can meet, each with its exit code and a message that says what to do."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of ``apply.py``; :data:`MEANING` is what ``--help`` prints about them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    MISSING_PACKAGE = 3
    BAD_LOCK = 4
    UNSAFE_PATH = 5
    PATCH_CHANGED = 6
    UNREACHABLE = 7
    WRONG_TREE = 8
    WRONG_COMMIT = 9
    EDITED = 10
    BUSY = 11
    UNWRITABLE = 12
    CONFLICT = 13
    NOT_IN_ORDER = 14
    INCOMPLETE = 15
    NOT_INSERTIONS = 16
    INTERRUPTED = 130


MEANING: dict[ExitCode, str] = {
    ExitCode.OK: "done, or nothing to do",
    ExitCode.FAILED: "git failed in a way not listed here; its own words are shown",
    ExitCode.USAGE: "wrong arguments, or an unknown upstream name",
    ExitCode.MISSING_PACKAGE: "GitPython, filelock, rich or git itself is not installed, or git does not run",
    ExitCode.BAD_LOCK: "vendor.lock is missing or malformed",
    ExitCode.UNSAFE_PATH: "a path in vendor.lock or in a patch points outside its folder; nothing was written",
    ExitCode.PATCH_CHANGED: "a patch file is missing, malformed, or not the one vendor.lock lists",
    ExitCode.UNREACHABLE: "the upstream cannot be reached: no network, or not in the mirror",
    ExitCode.WRONG_TREE: "the pinned commit is not there, or does not hold (or patch to) the locked tree",
    ExitCode.WRONG_COMMIT: "the folder is not a clone of the upstream at its pin",
    ExitCode.EDITED: "files the overlay would touch were edited by hand; they were left as they are",
    ExitCode.BUSY: "another run, or another git, is at work on the same clone",
    ExitCode.UNWRITABLE: "the destination cannot be written, or its disk is full",
    ExitCode.CONFLICT: "a three-way merge did not come out clean; nothing was written",
    ExitCode.NOT_IN_ORDER: "check found a clone that is absent, unpatched, half-patched or edited",
    ExitCode.INCOMPLETE: "the mirror lacks a file that the patches touch",
    ExitCode.NOT_INSERTIONS: "refresh found more than inserted hook lines in the clone; nothing was written",
    ExitCode.INTERRUPTED: "interrupted; run the same command again to finish or undo",
}


def exit_code_table() -> str:
    """The exit codes as the block of text at the end of ``--help``."""
    return "\n".join(f"  {int(code):>3}  {MEANING[code]}" for code in ExitCode)


class Fault(Exception):
    """Something the user has to know about: ``code`` for the shell, the message for stderr."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def spoken(stderr: str, status: int | None = None) -> str:
    """git's own words without its progress lines; never empty."""
    lines = [line.strip() for line in stderr.replace("\r", "\n").splitlines() if line.strip()]
    said = [line for line in lines if not line.endswith(("%", "done.")) and "% (" not in line]
    return "\n  ".join(said[-6:]) or f"git said nothing (exit {status})"


def disk_full(words: str) -> bool:
    """Whether git's words, or an error's, are about a disk that takes no more."""
    return any(w in words for w in ("No space left", "quota exceeded", "Read-only file", "File too large"))
