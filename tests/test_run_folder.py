"""The run folder: strict JSON, atomic, nothing of an earlier run lost."""

from __future__ import annotations

import hashlib
import json
import math
import re

import pytest

from pcpo_overlay.config import PCPOError
from pcpo_overlay.record import run_folder
from pcpo_overlay.record.provenance import clone_state
from pcpo_overlay.record.run_folder import RunFolder, default_path, jsonable


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_life_of_a_run(tmp_path):
    folder = RunFolder(tmp_path / "a" / "run", {"mode": "full", "lr": math.inf}, resume=False)
    run = json.loads((folder.path / "run.json").read_text())
    assert (run["mode"], run["lr"], run["status"], run["finished"]) == ("full", None, "running", None)
    folder.append({"kind": "epoch", "epoch": 0, "loss": math.nan})
    assert lines(folder.path / "metrics.jsonl") == [{"kind": "epoch", "epoch": 0, "loss": None}]
    folder.finish()
    run = json.loads((folder.path / "run.json").read_text())
    assert run["status"] == "finished"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", run["finished"])


def test_an_earlier_run_is_not_written_over(tmp_path):
    RunFolder(tmp_path, {}, resume=False).append({"epoch": 0})
    with pytest.raises(PCPOError, match="already holds the metrics of a run"):
        RunFolder(tmp_path, {}, resume=False)
    assert lines(tmp_path / "metrics.jsonl") == [{"epoch": 0}]


def test_resume_sets_repeated_epochs_aside(tmp_path):
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


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PCPOError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "run", {}, resume=False)


def test_default_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PCPO_RUN_DIR", raising=False)
    path = default_path("ddpo", "full")
    assert re.fullmatch(r"pcpo_runs/\d{8}T\d{6}Z-ddpo-full", str(path))
    monkeypatch.setattr(run_folder.datetime, "datetime", Frozen)
    first = default_path("ddpo", "full")
    first.mkdir(parents=True)
    assert default_path("ddpo", "full").name == f"{first.name}-2"
    monkeypatch.setenv("PCPO_RUN_DIR", str(tmp_path / "mine"))
    assert default_path("ddpo", "full") == tmp_path / "mine"


class Frozen(run_folder.datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 2, 3, 4, 5, tzinfo=tz)


@pytest.mark.parametrize("worktree", [False, True], ids=["clone", "worktree"])
def test_clone_state(tmp_path, worktree):
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
    assert clone_state(script)["modified"] is True


def test_jsonable():
    given = {"a": (1, 2.5, math.nan), 3: {"b": True, "c": None, "d": pytest}}
    assert jsonable(given) == {"a": [1, 2.5, None], "3": {"b": True, "c": None, "d": str(pytest)}}
