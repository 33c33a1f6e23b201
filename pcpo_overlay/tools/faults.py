"""How a command fails: what is expected is one line and a documented code, and no traceback reaches the terminal."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress

from pcpo_overlay.config import PCPOError

#: Ran and failed; a wrong argument; a fault of the command itself; stopped by Ctrl-C or a signal.
FAILED, WRONG, UNEXPECTED, STOPPED = 1, 2, 70, 130


class Fault(Exception):
    """Something that a command cannot do: its message is one line that says what, where and what to do."""

    code = FAILED


class WrongArgument(Fault):
    """An argument is missing, or is not one that the command takes."""

    code = WRONG


class Stopped(Fault):
    """The user, or the machine, asked the command to stop; the message says what is left of it."""

    code = STOPPED


def require(module: str, what: str, extra: str = "report") -> None:
    """Raise an ImportError that says what needs a library and which extra has it, where it is missing."""
    try:
        importlib.import_module(module)
    except ImportError:
        library = module.partition(".")[0]
        raise ImportError(f'{what} {library}; install it with: pip install "pcpo-overlay[{extra}]"') from None


def printable(text: object) -> str:
    """A text on one line that every terminal and file takes, whatever it is made of."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def told(error: BaseException) -> str:
    """An error in a line: of the system's without its number and path, which the reader is told anyway."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
    return printable(words) or type(error).__name__


def complain(command: str, problem: object) -> None:
    """Say on stderr what is wrong, in one line."""
    if isinstance(problem, OSError) and problem.filename is not None:
        problem = f"{os.fsdecode(problem.filename)!s}: {told(problem)}"
    elif isinstance(problem, BaseException):
        problem = " ".join(str(problem).split()) or type(problem).__name__
    print(f"{command}: {printable(problem)}", file=sys.stderr, flush=True)


def guarded(command: str, run: Callable[[], int]) -> int:
    """Run a command and return its exit code.

    Args:
        command: as the user types it, for messages.
        run: the command; a :class:`Fault`, a wrong mode, a missing library and an error of the system are expected
            of it.
    """
    try:
        return run()
    except BrokenPipeError:  # `pcpo weights ddim | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Fault as error:
        complain(command, error)
        return error.code
    except PCPOError as error:
        complain(command, error)
        return WRONG
    except (OSError, ImportError) as error:
        complain(command, error)
        return FAILED
    except KeyboardInterrupt:
        complain(command, "stopped")
        return STOPPED
    except Exception as error:
        complain(command, f"unexpected {type(error).__name__}: {told(error)[:300]}; {_kept(command, error)}")
        return UNEXPECTED


def _kept(command: str, error: Exception) -> str:
    """Write a traceback to a file in the system's temporary folder, and say where."""
    words = "".join(traceback.format_exception(error))
    with suppress(OSError):
        handle, path = tempfile.mkstemp(prefix=f"{command.replace(' ', '-')}-", suffix=".traceback.txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(words)
        return f"this is a fault of pcpo, and {path} has the traceback for a report of it"
    return "this is a fault of pcpo, and its traceback could not be written"
