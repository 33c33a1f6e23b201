"""CONTRIBUTING's example is a real one: its entry, its patch and its hooks are held against the code, and it runs."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import ROOT, code

from pcpo_overlay import hooks
from pcpo_overlay.trainers import Trainer
from pcpo_overlay.vendoring import lint
from pcpo_overlay.vendoring.patchfile import Patch, insert, parse, render

PAGE = ROOT / "CONTRIBUTING.md"
SCRIPT, ENTRY = (piece.text for piece in code(PAGE) if piece.language == "python")
(PATCH,) = (piece.text for piece in code(PAGE) if piece.language == "diff")
#: Adds the page's entry, then runs a script as ``python SCRIPT`` would.
DRIVER = """
import runpy, sys
from pcpo_overlay import trainers
from pcpo_overlay.trainers import Trainer
trainers.TRAINERS["toy"] = {entry}
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def patch() -> Patch:
    return parse(PATCH.encode(), "toy.patch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, patch: Patch) -> Path:
    """The toy, unpatched and patched."""
    made = tmp_path_factory.mktemp("toy")
    (made / "toy.py").write_text(SCRIPT, encoding="utf-8")
    (made / "patched.py").write_bytes(insert(patch, SCRIPT.encode()))
    (made / "driver.py").write_text(DRIVER.format(entry=ENTRY), encoding="utf-8")
    return made


def test_the_entry_is_one() -> None:
    entry = eval(ENTRY, {"Trainer": Trainer})
    settings = {"steps": 4, "epochs": 3, "points": 64, "batches": 1}
    assert (entry.trained_steps(settings), entry.planned_epochs(settings)) == (range(3), 3)
    assert entry.samples_per_epoch(settings, ranks=2) == 128


def test_the_patch_passes_the_lint_of_patches(patch: Patch) -> None:
    assert lint.problems(patch) == []
    assert lint.upstream_lines(patch, SCRIPT.encode()) == []
    assert render(patch).decode() == PATCH


def test_the_patch_calls_hooks_that_there_are(patch: Patch) -> None:
    called = {
        name
        for hunk in patch.insertions
        for line in hunk.lines
        for name in re.findall(r"pcpo\.(\w+)\(", line)
    }
    assert len(called) > 10
    assert all(callable(getattr(hooks, name, None)) for name in called)


def test_the_table_lists_every_hook_that_patches_call() -> None:
    called = {
        name
        for file in (ROOT / "patches").rglob("*.patch")
        for name in re.findall(r"pcpo\.(\w+)\(", file.read_text(encoding="utf-8"))
    }
    section = PAGE.read_text(encoding="utf-8").partition("### The hooks")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == called


@functools.cache
def _run(folder: Path, script: str, mode: str | None) -> tuple[str, list[dict[str, float]]]:
    """What the toy prints, and the records of its optimizer steps."""
    run = folder / f"run-{mode}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PCPO")}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PCPO_RUN_DIR": str(run)}
    environment |= {} if mode is None else {"PCPO": mode}
    words = [sys.executable, "driver.py", script]
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    if mode in (None, "off"):
        assert not run.exists()
        return done.stdout, []
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return done.stdout, [record for record in records if record["kind"] == "step"]


def test_off_and_observe_equal_the_unpatched_toy(folder: Path) -> None:
    unpatched, _ = _run(folder, "toy.py", None)
    assert "reward" in unpatched
    assert _run(folder, "patched.py", "off")[0] == unpatched
    told, steps = _run(folder, "patched.py", "observe")
    assert told == unpatched and len(steps) == 9


@pytest.mark.parametrize("mode", ["log", "match", "full"])
def test_every_mode_trains_the_toy(folder: Path, mode: str) -> None:
    unpatched, baseline = _run(folder, "toy.py", None)[0], _run(folder, "patched.py", "observe")[1]
    told, steps = _run(folder, "patched.py", mode)
    assert told != unpatched
    assert (steps[0]["ratio_min"], steps[0]["ratio_max"]) == (1, 1)
    if mode != "full":  # the same first step, which the ratio's clipping leaves alone
        assert steps[0]["grad_norm"] == pytest.approx(baseline[0]["grad_norm"], rel=1e-6)
