"""One epoch of the user's own launch line under ``observe``: started, watched, stopped once its epoch is recorded."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pcpo_overlay.config import VARIABLE as PCPO
from pcpo_overlay.record.run_folder import VARIABLE as RUN_DIR
from pcpo_overlay.tools.ab.runner import POLL_S, stop_group, stoppable
from pcpo_overlay.tools.ab.state import LOG, tail
from pcpo_overlay.tools.doctor import DoctorError
from pcpo_overlay.tools.faults import WrongArgument, told
from pcpo_overlay.tools.runs.run import METRICS, RUN
from pcpo_overlay.tools.runs.tail import MetricsTail

#: The predictions wait in the CPU's memory, so that a run that fits its GPU does so here; the run is nobody's to track.
MODE = "observe,tape=cpu,track=false"
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


@dataclass(frozen=True)
class LaunchLine:
    """A launch line as a shell takes it.

    Attributes:
        words: the command.
        variables: what was assigned in front of it.
    """

    words: list[str]
    variables: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(words: Sequence[str]) -> LaunchLine:
        """The words of a command line, ``NAME=VALUE`` in front among them; ``PCPO=...`` is left out.

        Raises:
            WrongArgument: no command, or one with a ``--pcpo`` of its own, which would win.
        """
        variables = {}
        rest = list(words)
        while rest and (match := _ASSIGNMENT.fullmatch(rest[0])):
            variables[match[1]] = match[2]
            rest.pop(0)
        if not rest:
            raise WrongArgument("there is no launch line after --")
        if any(word == "--pcpo" or word.startswith("--pcpo=") for word in rest):
            raise WrongArgument(
                "the launch line has a --pcpo of its own; leave it out, the baseline is looked at"
            )
        variables.pop(PCPO, None)
        return LaunchLine(rest, variables)

    def __str__(self) -> str:
        assigned = [f"{name}={shlex.quote(value)}" for name, value in self.variables.items()]
        return " ".join([*assigned, shlex.join(self.words)])


def one_epoch(line: LaunchLine, folder: Path, environ: Mapping[str, str]) -> None:
    """Run a launch line until an epoch is recorded in ``folder``, then stop it and all that it started.

    Raises:
        DoctorError: it could not be started, or it ended before that; the message has its last words.
    """
    if (folder / METRICS).exists() or (folder / RUN).exists():
        raise DoctorError(
            f"{folder} holds a run already; choose another --out, or look at it: pcpo doctor {folder}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        "WANDB_MODE": "disabled",
        **environ,
        **line.variables,
        PCPO: MODE,
        RUN_DIR: str(folder),
    }
    metrics = MetricsTail(folder)
    log = folder / LOG
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                line.words,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise DoctorError(f"{line.words[0]} could not be started: {told(error)}") from None
    try:
        with stoppable():
            while process.poll() is None and not metrics.poll():
                time.sleep(POLL_S)
    finally:
        stop_group(process)
    if not metrics.epochs and not metrics.poll():
        raise DoctorError(_why(line, process.returncode, folder, log))


_ERROR = re.compile(r"(?!.*(CalledProcessError|ChildFailedError))[\w.]*(Error|Exception): .")


def _why(line: LaunchLine, code: int, folder: Path, log: Path) -> str:
    """Why there is no epoch, in a line."""
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    lines = tail(log, 200)
    # of the script, and not that its launcher saw it fail
    errors = [text for text in lines if _ERROR.match(text)]
    last = "".join((errors or lines)[-1:]).strip()
    said = f'; {"its last error" if errors else "its last line"}: "{last[:300]}"' if last else ""
    if not (folder / RUN).exists():
        return (
            f"{Path(line.words[0]).name} ended ({how}) and no hook of PCPO ran: is the script in a patched clone "
            f"(`pcpo apply`), and this package in the Python that runs it? All of its output: {os.fspath(log)}{said}"
        )
    return f"{Path(line.words[0]).name} ended ({how}) before its first epoch; all of its output: {os.fspath(log)}{said}"
