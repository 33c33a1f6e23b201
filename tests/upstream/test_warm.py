"""A process forked from a warm server computes the bits of one that torchrun starts and that imports all by itself."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dance.launch
import dance.runs
import launch
import pytest
import torch
import warm
from bits import first_difference
from launch import DDPO, FLOW_GRPO, TIMEOUT_S


def assert_as_by_torchrun(
    words: list[str], cwd: Path, environment: dict[str, str], folder: Path, ranks: list[dict]
) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={len(ranks)}"]
    done = subprocess.run(
        [sys.executable, *torchrun, *words],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    cold = [torch.load(folder / f"record.{rank}.pt", weights_only=False) for rank in range(len(ranks))]
    assert first_difference(cold, ranks) is None


@pytest.mark.upstream
def test_ddpo(ddpo_run: Any, ddpo_patched: Path, tmp_path: Path) -> None:
    words = launch.recorded(DDPO, tmp_path)
    environment = launch.environment(ddpo_patched, PCPO="full", PCPO_RUN_DIR=str(tmp_path / "run"))
    assert_as_by_torchrun(words, ddpo_patched, environment, tmp_path, ddpo_run("full", procs=2).ranks)


@pytest.mark.upstream("flow_grpo")
def test_flow_grpo(flow_run: Any, upstream_clone: Any, tmp_path: Path) -> None:
    clone = upstream_clone("flow_grpo", True)
    environment = launch.environment(clone, PCPO="full", PCPO_RUN_DIR=str(tmp_path / "run"))
    assert_as_by_torchrun(
        launch.recorded(FLOW_GRPO, tmp_path), clone, environment, tmp_path, flow_run("full").ranks
    )


@pytest.mark.upstream("DanceGRPO")
def test_dancegrpo(dance_run: Any, upstream_clone: Any, tmp_path: Path) -> None:
    trainer, clone = dance.launch.FLUX, upstream_clone("DanceGRPO", True)
    run = dance_run("flux", "full", procs=2)
    folder = tmp_path / "run"
    dance.runs.place(trainer, folder, run.folder.parent / "assets")
    environment = launch.environment(clone, PCPO="full", PCPO_RUN_DIR=str(folder / "pcpo"))
    words = dance.launch.command(trainer, clone, folder)
    assert_as_by_torchrun(words, folder, environment, folder, run.ranks)


@pytest.fixture
def run_code(tmp_path: Path) -> Any:
    """``run_code(CODE, *ENVIRONMENTS)``: exit code, stdout and stderr of a file with that code."""

    def run(code: str, *environments: dict[str, str], timeout: float = 300) -> tuple[int, str, str]:
        file, out, err = tmp_path / "script.py", tmp_path / "out", tmp_path / "err"
        file.write_text(code)
        full = [launch.environment(tmp_path, **environment) for environment in environments]
        exit_code = warm.run([str(file), "a b"], tmp_path, full, out, err, timeout)
        return exit_code, out.read_text(), err.read_text()

    return run


def test_a_process_has_what_it_was_given_and_leaves_nothing_behind(run_code: Any, tmp_path: Path) -> None:
    code = """
import os, random, sys
import numpy, torch
print(sys.argv[1:], os.getcwd(), os.environ.get("FIRST"), sys.path[0], sys.stdin.read())
print(sorted(set(sys.path) & {os.environ["PYTHONPATH"].split(os.pathsep)[-1]}), file=sys.stderr)
torch.marked, os.environ["LEFT"] = os.environ.get("LEFT"), "behind"
print(torch.marked, torch.initial_seed(), numpy.random.rand(), random.random())
"""
    first, second = run_code(code, {"FIRST": "1"}), run_code(code, {})
    assert first[0] == second[0] == 0
    assert first[1].splitlines()[0] == f"['a b'] {tmp_path} 1 {tmp_path} "
    assert second[1].splitlines()[0] == f"['a b'] {tmp_path} None {tmp_path} "
    assert first[2] == second[2] == f"[{str(tmp_path)!r}]\n"
    drawn = [run[1].splitlines()[1].split() for run in (first, second)]
    assert [d[0] for d in drawn] == ["None", "None"]
    # Each draws its own numbers, as torch, NumPy and Python begin until a script seeds them.
    assert all(a != b for a, b in zip(*(d[1:] for d in drawn), strict=True))


@pytest.mark.parametrize(
    ("end", "exit_code", "said"),
    [
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('no such thing')", 1, "no such thing"),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("os.kill(os.getpid(), 9)", -9, ""),
    ],
)
def test_the_first_failure_ends_the_others(run_code: Any, end: str, exit_code: int, said: str) -> None:
    code = f"import os, time\nif os.environ['RANK'] == '1':\n    {end}\ntime.sleep(600)"
    ended, _, err = run_code(code, {"RANK": "0"}, {"RANK": "1"})
    assert ended == exit_code
    assert said in err


def test_a_process_that_hangs_is_killed_and_the_next_runs(run_code: Any, tmp_path: Path) -> None:
    hanging = "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(600)"
    assert run_code("", {})[0] == 0  # the server is there, so that what follows is no matter of its imports
    with pytest.raises(subprocess.TimeoutExpired):
        run_code(hanging, {}, timeout=5)
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            break
        time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists()
    assert run_code("print('well')", {})[:2] == (0, "well\n")
