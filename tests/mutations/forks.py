"""Runs tests in forks of a process that has the slow imports behind it; each imports the package under test anew.

Reads a JSON list of a time limit and tests a line, and answers a line: the first test that fails, ``timeout``, or null.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from pathlib import Path

import diffusers  # noqa: F401
import filelock  # noqa: F401
import git  # noqa: F401
import hypothesis  # noqa: F401
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler  # noqa: F401

FAILED = Path("failed")  # in the copy


class FirstFailure:
    """Ends the fork with the first test, or file, that does not pass, and leaves its name."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._end_with(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._end_with(report)

    def _end_with(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed:
            FAILED.write_text(report.nodeid)
            os._exit(1)


def in_fork(tests: list[str]) -> None:
    os.setsid()
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    code: int = 70
    try:
        marks = "not upstream and not slow"
        code = pytest.main(["-q", "-p", "no:cacheprovider", "-m", marks, *tests], [FirstFailure()])
    finally:
        os._exit(code)


def answer(tests: list[str], timeout: float) -> str | None:
    FAILED.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        in_fork(tests)
    deadline, status = time.monotonic() + timeout, None
    while status is None and time.monotonic() < deadline:
        done, code = os.waitpid(child, os.WNOHANG)
        status = code if done else time.sleep(0.01)
    if status is None:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "timeout"
    if status == 0:
        return None
    return FAILED.read_text() if FAILED.exists() else f"exit status {status}"


def main() -> None:
    torch.set_num_threads(1)
    assert "pcpo_overlay" not in sys.modules
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    gc.freeze()  # what is loaded here stays: no fork has to look through it
    for line in sys.stdin:
        timeout, *tests = json.loads(line)
        print(json.dumps(answer(tests, timeout)), flush=True)


if __name__ == "__main__":
    main()
