"""Upstream clones for tests: whether they can be had is decided once, and a missing one is never silent.

A test that needs upstream's code carries ``@pytest.mark.upstream`` (ddpo-pytorch) or
``@pytest.mark.upstream("DanceGRPO", ...)``. Where the upstream is neither in ``PCPO_MIRROR`` nor on the network, the
test is skipped with the reason in the summary; ``PCPO_REQUIRE_UPSTREAM=1`` turns that skip into a failure.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import pytest

from benchmarks.measuring.clones import why_out_of_reach
from pcpo_overlay.vendoring import lockfile

# Before torch is imported, here and in what the tests start: processes that share the cores only wait for each other
# on more threads than these.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_UPSTREAM = "ddpo-pytorch"

CloneMaker = Callable[[str, bool], Path]


def session_folder(config: pytest.Config) -> Path:
    """A folder of this test session, one for all pytest-xdist workers."""
    base: Path = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


def require_upstream(config: pytest.Config, name: str) -> None:
    """Skip the running test, or fail it under ``PCPO_REQUIRE_UPSTREAM=1``, if an upstream cannot be had."""
    folder = session_folder(config)
    answers = folder / "upstream-reach.json"
    with filelock.FileLock(str(folder / "upstream-reach.lock")):
        known: dict[str, str | None] = json.loads(answers.read_text()) if answers.exists() else {}
        if name not in known:
            upstream, mirror = lockfile.load(ROOT / "vendor.lock").get(name), os.environ.get("PCPO_MIRROR")
            why = why_out_of_reach(name, upstream.url, mirror)
            known[name] = why and (f"PCPO_MIRROR: {why}" if mirror else f"{why} and PCPO_MIRROR is not set")
            answers.write_text(json.dumps(known))
    reason = known[name]
    if reason is None:
        return
    if os.environ.get("PCPO_REQUIRE_UPSTREAM") == "1":
        pytest.fail(f"PCPO_REQUIRE_UPSTREAM=1, but {name} is out of reach: {reason}", pytrace=False)
    pytest.skip(f"needs upstream {name}: {reason}")


def pytest_configure(config: pytest.Config) -> None:
    """Let tests of Ctrl-C meet what a user in a terminal meets: a background job inherits SIGINT as ignored."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("upstream"):
        for name in marker.args or (DEFAULT_UPSTREAM,):
            require_upstream(item.config, name)


@pytest.fixture(scope="session")
def upstream_clone(pytestconfig: pytest.Config) -> CloneMaker:
    """``upstream_clone(NAME, patched)``: a clone made by apply.py, shared by the session. Copy it to change it."""

    def make(name: str, patched: bool) -> Path:
        require_upstream(pytestconfig, name)
        dest = session_folder(pytestconfig) / ("upstream-patched" if patched else "upstream-pristine")
        command = [sys.executable, str(ROOT / "apply.py"), name, "--dest", str(dest)]
        with filelock.FileLock(str(session_folder(pytestconfig) / f"clone-{name}.lock")):
            result = subprocess.run(
                command + ([] if patched else ["--no-patch"]), capture_output=True, text=True, check=False
            )
        if result.returncode != 0:
            pytest.fail(f"{' '.join(command)} exited {result.returncode}:\n{result.stderr}", pytrace=False)
        return dest / name

    return make


@pytest.fixture(scope="session")
def ddpo_pristine(upstream_clone: CloneMaker) -> Path:
    """ddpo-pytorch at the pin, as upstream wrote it. Shared: read it, or copy it."""
    return upstream_clone("ddpo-pytorch", False)


@pytest.fixture(scope="session")
def ddpo_patched(upstream_clone: CloneMaker) -> Path:
    """ddpo-pytorch at the pin with the hooks in. Shared: read it, or copy it."""
    return upstream_clone("ddpo-pytorch", True)


@pytest.fixture
def offline_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No hub, and one thread: models this small only wait for each other on more."""
    import torch

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
