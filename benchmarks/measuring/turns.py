"""Several training runs in one race: all are started, and one at a time is let go for one optimizer step.

So the arms alternate every second or so, each in a process that is warm, whatever the machine does meanwhile.
"""

from __future__ import annotations

import json
import random
import select
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from benchmarks.measuring import in_turn
from benchmarks.measuring.miniature_run import Run, RunFailed
from pcpo_overlay.tools.ab.plan import Planned, free_port

POLL_S = 0.5
#: From one optimizer step to the next, the first from the start of the process.
MOST_S = 900.0


@dataclass
class Laps:
    """One run, from optimizer step to optimizer step.

    Attributes:
        wall, process: seconds by the wall's clock and of the process's own time, one for each lap.
        peak: peak bytes of memory.
        folder: the run folder.
    """

    folder: Path
    wall: list[float] = field(default_factory=list)
    process: list[float] = field(default_factory=list)
    peak: int | None = None


class _Runner:
    """A run under way."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.run, self.laps = run, Laps(folder)
        self._connection: socket.socket | None = None
        self._file: TextIO | None = None

    def connected(self, connection: socket.socket, file: TextIO) -> None:
        self._connection, self._file = connection, file

    @property
    def is_connected(self) -> bool:
        return self._file is not None

    def lap(self) -> bool:
        """Wait for the next optimizer step; False where the run ended instead, as it should in the end."""
        assert self._file is not None and self._connection is not None
        deadline = time.monotonic() + MOST_S
        while not select.select([self._connection], [], [], POLL_S)[0]:
            if time.monotonic() > deadline:
                raise self.run.failed(f"no optimizer step in {MOST_S:.0f} s")
        line = self._file.readline()
        if not line:
            if self.run.process.wait():
                raise self.run.failed(f"exit code {self.run.process.returncode}")
            return False
        told = json.loads(line)
        self.laps.wall.append(told["wall"])
        self.laps.process.append(told["process"])
        # PCPO starts the GPU's count anew each epoch, a run without it never does: the largest is of the same thing.
        if told["peak"] is not None:
            self.laps.peak = max(self.laps.peak or 0, told["peak"])
        return True

    def let_go(self) -> None:
        assert self._file is not None
        self._file.write("go\n")
        self._file.flush()


def race(plans: Mapping[str, Planned], rng: random.Random) -> dict[str, Laps]:
    """Run all of them to the end, in turn.

    Args:
        plans: by name, runs of one script whose file before the script is ``in_turn.py``.
        rng: draws the order of every round.

    Returns:
        by name, laps of equal number; those of one index were run one after the other.

    Raises:
        RunFailed: one of them did not come to its end, or took another number of optimizer steps.
    """
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        address = f"127.0.0.1:{server.getsockname()[1]}"
        taken: list[int] = []
        runners: dict[str, _Runner] = {}
        for name, planned in plans.items():
            if planned.needs_port:
                taken.append(free_port(taken))
                planned = planned.at_port(taken[-1])
            turn = {in_turn.TURNS: f"{address}:{name}"}
            runners[name] = _Runner(Run(name, planned, stack, turn), planned.folder)
        _accept(server, runners, stack)
        for runner in runners.values():
            if not runner.lap():
                raise runner.run.failed("it took no optimizer step")
        racing = list(runners.values())
        while racing:
            going = []
            for runner in rng.sample(racing, len(racing)):
                runner.let_go()
                if runner.lap():
                    going.append(runner)
            if going and len(going) < len(racing):
                raise RunFailed(
                    f"{going[0].run.name} took more optimizer steps than another run of the same script"
                )
            racing = sorted(going, key=lambda runner: runner.run.name)
    return {name: runner.laps for name, runner in runners.items()}


def _accept(server: socket.socket, runners: Mapping[str, _Runner], stack: ExitStack) -> None:
    """Wait until every run has come far enough to ask for its turn."""
    server.settimeout(POLL_S)
    deadline = time.monotonic() + MOST_S
    while not all(runner.is_connected for runner in runners.values()):
        try:
            connection, _ = server.accept()
        except TimeoutError:
            for runner in runners.values():
                if runner.run.process.poll() is not None:
                    raise runner.run.failed(f"exit code {runner.run.process.returncode}") from None
                if time.monotonic() > deadline:
                    raise runner.run.failed(f"it did not start in {MOST_S:.0f} s") from None
            continue
        connection.settimeout(None)
        file: Any = stack.enter_context(connection.makefile("rw", encoding="utf-8"))
        stack.enter_context(connection)
        runners[json.loads(file.readline())["name"]].connected(connection, file)
