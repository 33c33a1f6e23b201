"""The run folder: strict JSON, atomic, nothing of an earlier run lost."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pcpo_overlay.config import PCPOError
from pcpo_overlay.record import run_folder
from pcpo_overlay.record.provenance import clone_state
from pcpo_overlay.record.run_folder import RunFolder, jsonable
from pcpo_overlay.tools.runs.run import load


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_life_of_a_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "run", {"mode": "full", "lr": math.inf}, resume=False)
    run = json.loads((folder.path / "run.json").read_text())
    assert (run["mode"], run["lr"], run["status"], run["finished"]) == ("full", None, "running", None)
    folder.append({"kind": "epoch", "epoch": 0, "loss": math.nan})
    assert lines(folder.path / "metrics.jsonl") == [{"kind": "epoch", "epoch": 0, "loss": None}]
    folder.end("finished")
    folder.end("stopped")  # what the end of the process would say
    run = json.loads((folder.path / "run.json").read_text())
    assert run["status"] == "finished"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", run["finished"])


def test_an_earlier_run_is_not_written_over(tmp_path: Path) -> None:
    RunFolder(tmp_path, {}, resume=False).append({"epoch": 0})
    with pytest.raises(PCPOError, match="already holds the metrics of a run"):
        RunFolder(tmp_path, {}, resume=False)
    assert lines(tmp_path / "metrics.jsonl") == [{"epoch": 0}]


def test_resume_sets_repeated_epochs_aside(tmp_path: Path) -> None:
    first = RunFolder(tmp_path, {}, resume=False)
    for epoch in range(3):
        first.append({"epoch": epoch, "run": 1})
    with (tmp_path / "metrics.jsonl").open("a") as cut_short:
        cut_short.write('{"epoch": 3, "ru')
    second = RunFolder(tmp_path, {}, resume=True)
    second.rewind(1)
    second.append({"epoch": 1, "run": 2})
    assert lines(tmp_path / "metrics.jsonl") == [{"epoch": 0, "run": 1}, {"epoch": 1, "run": 2}]
    aside = (tmp_path / "metrics.superseded.jsonl").read_text().splitlines()
    assert aside == ['{"epoch": 1, "run": 1}', '{"epoch": 2, "run": 1}', '{"epoch": 3, "ru']


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PCPOError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "run", {}, resume=False)


RUN = {"upstream": "ddpo", "mode": "full"}


def test_default_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PCPO_RUN_DIR", raising=False)
    monkeypatch.setattr(run_folder.datetime, "datetime", Frozen)
    names = [RunFolder(None, RUN, resume=False).path.name for _ in range(3)]
    assert names == ["20260102T030405Z-ddpo-full" + more for more in ("", "-2", "-3")]
    monkeypatch.setenv("PCPO_RUN_DIR", str(tmp_path / "mine"))
    assert RunFolder(None, RUN, resume=False).path == tmp_path / "mine"


class Frozen(run_folder.datetime.datetime):
    @classmethod
    def now(cls, tz: Any = None) -> Frozen:
        return cls(2026, 1, 2, 3, 4, 5, tzinfo=tz)


def test_many_starts_in_one_second_get_a_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PCPO_RUN_DIR", raising=False)
    monkeypatch.setattr(run_folder.datetime, "datetime", Frozen)
    barrier = threading.Barrier(8)

    def start(_: int) -> list[Path]:
        barrier.wait()
        return [RunFolder(None, RUN, resume=False).path for _ in range(15)]

    with ThreadPoolExecutor(8) as pool:
        paths = [path for made in pool.map(start, range(8)) for path in made]
    assert len(set(paths)) == 120


@pytest.mark.parametrize(
    ("name", "value"),
    [("upstream", "flow_grpo"), ("mode", "observe"), ("pcpo", {"weights": "uniform"}), ("clip_range", 0.1)],
)
def test_another_run_does_not_resume_into_the_folder(tmp_path: Path, name: str, value: Any) -> None:
    run = {**RUN, "pcpo": {"weights": "native"}, "clip_range": 1e-4}
    RunFolder(tmp_path, run, resume=False).append({"epoch": 0})
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(PCPOError, match=f"holds a run with {name} .* they are not one run"):
        RunFolder(tmp_path, {**run, name: value}, resume=True)
    assert (tmp_path / "run.json").read_bytes() == before


def test_a_clip_range_that_comes_with_the_loss_is_no_difference(tmp_path: Path) -> None:
    RunFolder(tmp_path, {**RUN, "clip_range": None}, resume=False).write_run(clip_range=1e-4)
    assert RunFolder(tmp_path, {**RUN, "clip_range": None}, resume=True).run["status"] == "running"


def test_every_start_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(f"2026-01-02T03:04:0{n}Z" for n in range(3))
    monkeypatch.setattr(run_folder, "utc_now", lambda: next(times))
    for n in range(3):
        RunFolder(tmp_path, {**RUN, "argv": ["train.py", str(n)]}, resume=n > 0).append({"epoch": n})
    run = json.loads((tmp_path / "run.json").read_text())
    assert [start["argv"] for start in run["starts"]] == [["train.py", str(n)] for n in range(3)]
    assert {start["pid"] for start in run["starts"]} == {os.getpid()}
    assert run["started"] == run["starts"][0]["time"] == "2026-01-02T03:04:00Z"


@pytest.mark.parametrize("damage", ["{", "[]", None])
def test_a_folder_whose_run_is_unreadable_is_not_resumed(tmp_path: Path, damage: str | None) -> None:
    RunFolder(tmp_path, RUN, resume=False).append({"epoch": 0})
    path = tmp_path / "run.json"
    path.unlink() if damage is None else path.write_text(damage)
    with pytest.raises(PCPOError, match="cannot be read"):
        RunFolder(tmp_path, RUN, resume=True)


END = """
import os, sys
from pathlib import Path
from pcpo_overlay.record.run_folder import RunFolder
RunFolder(Path(sys.argv[1]), {"upstream": "ddpo", "mode": "full"}, resume=False).end_with_process()
exec(sys.argv[2])
"""


@pytest.mark.parametrize(
    ("last", "status", "error"),
    [
        ("raise ValueError('too big')", "failed", "ValueError: too big"),
        ("raise KeyboardInterrupt", "stopped", "KeyboardInterrupt: "),
        ("sys.exit(3)", "stopped", None),
        ("os._exit(1)", "running", None),
    ],
)
def test_how_a_run_ended(tmp_path: Path, last: str, status: str, error: str | None) -> None:
    command = [sys.executable, "-c", END, str(tmp_path), last]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode != 0
    assert (b"Traceback" in done.stderr) == last.startswith("raise")  # as without PCPO
    run = json.loads((tmp_path / "run.json").read_text())
    assert (run["status"], run.get("error")) == (status, error)
    assert (
        isinstance(run["starts"][0]["pid"], int) and run["starts"][0]["host"]
    )  # for who wonders if it still runs


WRITES = ("write_run", "append", "rewind", "end")


@pytest.mark.parametrize("fails", WRITES)
def test_a_write_that_fails_is_said_once_and_ends_the_recording_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails: str
) -> None:
    folder = RunFolder(tmp_path, RUN, resume=False)
    folder.append({"epoch": 0})

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def each(name: str) -> None:
        {
            "write_run": lambda: folder.write_run(clip_range=0.1),
            "append": lambda: folder.append({"epoch": 1}),
            "rewind": lambda: folder.rewind(0),
            "end": lambda: folder.end("finished"),
        }[name]()

    with monkeypatch.context() as patch:
        if fails == "append":
            patch.setattr(folder, "_metrics", SimpleNamespace(write=full, flush=full, close=full))
        else:
            patch.setattr(run_folder, "write_atomically", full)
        each(fails)
    said = capsys.readouterr().err
    assert said.count("can no longer be written") == said.count("\n") == 1
    for name in WRITES:
        each(name)
    assert capsys.readouterr().err == ""
    assert lines(tmp_path / "metrics.jsonl") == [{"epoch": 0}]  # what was there is there


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_said_once_until_the_process_ends(tmp_path: Path) -> None:
    """What could not be written is not tried anew when the file is closed at last, which Python reports."""
    code = (
        "import os\n"
        "from pathlib import Path\n"
        "from pcpo_overlay.record.run_folder import RunFolder\n"
        f"folder = RunFolder(Path({str(tmp_path / 'run')!r}), {RUN!r}, resume=False)\n"
        "os.dup2(os.open('/dev/full', os.O_WRONLY), folder._metrics.fileno())\n"
        "folder.append({'epoch': 0})\n"
        "folder.end('finished')\n"
    )
    # in its development mode as Python 3.13 and later do it always
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stderr.count("\n") == done.stderr.count("No space left on device") == 1, done.stderr


@pytest.mark.parametrize("worktree", [False, True], ids=["clone", "worktree"])
def test_clone_state(tmp_path: Path, worktree: bool) -> None:
    root, script = tmp_path / "clone", tmp_path / "clone" / "scripts" / "train.py"
    script.parent.mkdir(parents=True)
    script.write_text("x = 1\n")
    git = tmp_path / "elsewhere" if worktree else root / ".git"
    git.mkdir()
    if worktree:
        (root / ".git").write_text(f"gitdir: {git}\n")
    assert clone_state(script) is None
    digest = hashlib.sha256(script.read_bytes()).hexdigest()
    stamp = {"commit": "c", "patched_tree": "t", "files": {"scripts/train.py": digest}}
    (git / "pcpo-overlay.json").write_text(json.dumps(stamp))
    assert clone_state(script) == {"commit": "c", "patched_tree": "t", "modified": False}
    script.write_text("x = 2\n")
    state = clone_state(script)
    assert state is not None and state["modified"] is True


def test_jsonable() -> None:
    given = {"a": (1, 2.5, math.nan), 3: {"b": True, "c": None, "d": pytest}}
    assert jsonable(given) == {"a": [1, 2.5, None], "3": {"b": True, "c": None, "d": str(pytest)}}


def test_where_nothing_is_repeated_nothing_is_set_aside(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, RUN, resume=False)
    folder.append({"epoch": 0})
    folder.rewind(1)
    assert not (tmp_path / "metrics.superseded.jsonl").exists()


def test_peak_memory_is_in_bytes() -> None:
    """Python with torch takes more than 50 million of them, and fewer than a terabyte's."""
    peak = run_folder.peak_memory(torch.device("cpu"))
    assert peak is not None and 5e7 < peak < 1e12


def test_a_run_whose_path_is_not_utf8_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9")
    told = {"upstream": "ddpo", "mode": "observe", "argv": [str(path)], "trainer": {str(path): path}}
    folder = RunFolder(path, told, resume=False)
    folder.append({"kind": "epoch", "epoch": 0, "reward_mean": 1.0, "grad_layer": str(path)})
    folder.end("failed", error=f"no such file: {path}")
    run = load(path)
    assert run.info["argv"] == [f"{tmp_path}/caf\\udce9"] and run.status == "failed"
    assert run.info["trainer"] == {run.info["argv"][0]: run.info["argv"][0]} and len(run.epochs) == 1
    RunFolder(path, told, resume=True).end("finished")
    assert load(path).finished
