"""Running a plan: a process group per run, finished runs passed over, a failure never stopping the others."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from pcpo_overlay.tools.ab.plan import Planned, free_port
from pcpo_overlay.tools.ab.state import (
    LOG,
    is_finished,
    set_aside,
    tail,
    write_record,
)
from pcpo_overlay.tools.progress import Display
from pcpo_overlay.tools.runs.files import read_object_or_none
from pcpo_overlay.tools.runs.run import ended
from pcpo_overlay.tools.runs.tail import MetricsTail

LOCK = ".ab.lock"
POLL_S = 0.25
#: How long a stopped run may take to end before it is told again, more firmly.
GRACE_S = 15.0


class Interrupted(Exception):
    """The user, or the machine, asked the command to stop; the run under way was stopped first."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP stop the command as Ctrl-C does, so that no training run is left behind."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [n for n in ("SIGTERM", "SIGHUP") if hasattr(signal, n)]
    before = {n: signal.signal(getattr(signal, n), stop) for n in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


@dataclass
class Active:
    """A run under way."""

    index: int
    planned: Planned
    metrics: MetricsTail
    process: subprocess.Popen[bytes]
    gpus: Sequence[str]


def run_all(
    plan: Sequence[Planned], display: Display, shares: Sequence[Sequence[str]] = ((),)
) -> list[Planned]:
    """Run what is not finished yet, as many at a time as there are shares.

    Args:
        shares: the GPUs of each of the runs at one time; an empty one is all that are there.

    Returns:
        The runs that failed.

    Raises:
        ABError: a folder holds something else; found out before the first run starts.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP.
    """
    finished = [is_finished(planned) for planned in plan]
    waiting = deque(enumerate(plan))
    active: list[Active] = []
    failed: list[Planned] = []
    free = deque(shares)

    with stoppable(), display:
        try:
            while waiting or active:
                while waiting and free:
                    index, planned = waiting.popleft()
                    if finished[index]:
                        metrics = MetricsTail(planned.folder)
                        metrics.poll()
                        display.ended(index, "finished already", metrics.epochs)
                        continue
                    aside = set_aside(planned.folder)
                    if aside is not None:
                        display.say(f"{planned.name}: {aside}")
                    why = start(index, planned, active, free[0])
                    if why is None:
                        gpus = free.popleft()
                        where = f"on GPU{'s' * (len(gpus) > 1)} {', '.join(gpus)}, " if gpus else ""
                        display.started(index, f"{where}output in {planned.folder}")
                    else:
                        failed.append(planned)
                        tell_end(display, index, planned, why)
                for run in list(active):
                    ended = run.process.poll() is not None
                    show_progress(display, run.index, run.metrics)
                    if ended:
                        active.remove(run)
                        free.append(run.gpus)
                        write_record(run.planned, exit_code=run.process.returncode, pid=run.process.pid)
                        why = verdict(run.planned, run.process.returncode)
                        failed += [run.planned] if why else []
                        tell_end(display, run.index, run.planned, why)
                if active:
                    time.sleep(POLL_S)
        except BaseException as error:
            for run in active:
                stop_group(run.process)
                write_record(run.planned, exit_code=run.process.returncode, pid=run.process.pid, stopped=True)
                display.ended(run.index, "stopped")
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted from None
            raise
    return failed


def tell_end(display: Display, index: int, planned: Planned, why: str | None, log: str = LOG) -> None:
    """Say that a run is finished, or why it failed and what it last said."""
    if why is None:
        display.ended(index, "finished")
        return
    path = planned.folder / log
    display.ended(index, "FAILED")
    display.say(f"{planned.name} failed: {why}. The end of {path}:")
    for line in tail(path):
        display.say(f"    {line}")


def show_progress(display: Display, index: int, metrics: MetricsTail) -> None:
    """Show the epochs done, the last reward and how long it took, where they changed."""
    if not metrics.poll():
        return
    reward = "-" if metrics.reward is None else f"{metrics.reward:.4g}"
    seconds = f", {metrics.seconds:.1f} s" if metrics.seconds is not None else ""
    display.step(index, metrics.epochs, metrics.total, f"reward {reward}{seconds}")


def start(index: int, planned: Planned, active: list[Active], gpus: Sequence[str]) -> str | None:
    """Start one command on its GPUs and add it to ``active``; None where that worked, else what went wrong."""
    planned.folder.mkdir(parents=True, exist_ok=True)
    if planned.workplace is not None:
        planned.workplace.make()
    if planned.needs_port:
        planned = planned.at_port(free_port({run.planned.port for run in active}))
    planned = planned.on(gpus)
    write_record(planned, exit_code=None, pid=None)
    with (planned.folder / LOG).open("wb") as log:
        try:
            # A session of its own: Ctrl-C in the terminal reaches this process alone, which then stops the group.
            process = subprocess.Popen(
                planned.command,
                cwd=planned.cwd,
                env={**os.environ, **planned.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            write_record(planned, exit_code=127, pid=None)
            return f"it could not be started ({error})"
    active.append(Active(index, planned, MetricsTail(planned.folder), process, gpus))
    write_record(planned, exit_code=None, pid=process.pid)
    return None


def verdict(planned: Planned, code: int) -> str | None:
    """What is wrong with how a run ended; None for nothing."""
    run = read_object_or_none(planned.folder / "run.json")
    if code != 0:
        why = f"; it {ended(run)}" if run is not None and run.get("status") == "failed" else ""
        return (f"exit code {code}" if code > 0 else f"killed by signal {-code}") + why
    if run is None:
        return "it ended without a word but left no run.json, so the clone's hooks never ran; is the patch applied?"
    if run.get("status") != "finished":
        return f"exit code 0, but run.json has status {run.get('status')!r:.80}"
    return None


def stop_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and everything it started: interrupted first, then terminated, then killed.

    A launcher may start its workers in sessions of their own and passes an interrupt on to them; one of ours besides
    would disturb their way out. The later signals go to every one of them. A second Ctrl-C meanwhile kills at once.
    """
    groups = _groups_below(process)
    try:
        _signal_group(process.pid, signal.SIGINT)
        if _groups_ended(process, groups, GRACE_S):
            return
        groups |= _groups_below(process)
        for group in groups:
            _signal_group(group, signal.SIGTERM)
        _groups_ended(process, groups, GRACE_S)
    finally:
        for group in groups | _groups_below(process):
            _signal_group(group, signal.SIGKILL)
        process.wait()


def _groups_below(process: subprocess.Popen[bytes]) -> set[int]:
    """The process groups of a group's leader and of all its descendants, as long as it has any."""
    groups = {process.pid}
    try:
        psutil: Any = importlib.import_module("psutil")  # accelerate brings it
    except ImportError:
        return groups
    try:
        below = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        return groups
    for child in below:
        with suppress(OSError):
            groups.add(os.getpgid(child.pid))
    return groups - {os.getpgrp()}


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to what is left of a group; False where nothing is."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS answers the second for a group of zombies
        return False
    return True


def _groups_ended(process: subprocess.Popen[bytes], groups: set[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None and not any(_signal_group(group, 0) for group in groups):
            return True
        time.sleep(0.05)
    return False
