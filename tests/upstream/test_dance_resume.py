"""FLUX with LoRA goes on from a checkpoint, in the same run folder; ranks that do not agree do not begin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dance.launch
import dance.runs
import launch
import pytest

pytestmark = pytest.mark.upstream("DanceGRPO")


def test_a_resumed_run_goes_on_at_the_trainers_step(dance_run: Any, tmp_path: Path) -> None:
    """A checkpoint before the second of three iterations; upstream resumes after the one it was saved before."""
    folder = tmp_path / "pcpo"
    settings = {"max_train_steps": 3, "checkpointing_steps": 2, "env": {"PCPO_RUN_DIR": str(folder)}}
    whole = dance_run("flux_lora", "full", **settings)
    before = (folder / "metrics.jsonl").read_text().splitlines()
    assert [r["epoch"] for r in map(json.loads, before) if r["kind"] == "epoch"] == [0, 1, 2]
    checkpoint = whole.folder / "outputs" / "lora-checkpoint-2-0"
    resumed = dance_run("flux_lora", "full", resume_from_lora_checkpoint=str(checkpoint), **settings)
    assert len(resumed.record["gradients"]) == 2  # of one iteration

    after = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in after if r["kind"] == "epoch"] == [0, 1, 2]
    assert [r["epoch"] for r in after if r["kind"] == "step"] == [0, 0, 1, 1, 2, 2]
    aside = (folder / "metrics.superseded.jsonl").read_text().splitlines()
    assert aside == [line for line in before if json.loads(line)["epoch"] == 2]
    run = json.loads((folder / "run.json").read_text())
    assert run["status"] == "finished"
    first, second = run["starts"]
    assert "--resume_from_lora_checkpoint" in second["argv"] and first["argv"] != second["argv"]


def test_ranks_with_different_modes_stop_with_one_line(upstream_clone: Any, tmp_path: Path) -> None:
    """As with a script that is started by hand on every node, the variable set on one of them.

    Each rank has to end by itself: its exit code is noted, since a rank that failed would have the others killed.
    """
    trainer, clone = dance.launch.FLUX, upstream_clone("DanceGRPO", True)
    folder = tmp_path / "run"
    dance.runs.build(trainer.reads, tmp_path / "assets")
    dance.runs.place(trainer, folder, tmp_path / "assets")
    recorder, *words = dance.launch.command(trainer, clone, folder)
    noting = tmp_path / "noting.py"
    noting.write_text(
        "import os, pathlib, runpy, sys\n"
        f"sys.argv[0] = {recorder!r}\n"
        "try:\n"
        f"    runpy.run_path({recorder!r}, run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    pathlib.Path('code.' + os.environ['RANK']).write_text(str(stop.code))\n"
    )
    environments = [
        launch.environment(clone, PCPO=mode, PCPO_RUN_DIR=str(folder / "pcpo"), **rank)
        for mode, rank in zip(("full", "off"), launch.ranks(2), strict=True)
    ]
    dance.runs.train([str(noting), *words], folder, environments)
    assert [(folder / f"code.{rank}").read_text() for rank in (0, 1)] == ["2", "2"]
    stderr = (folder / "stderr.log").read_text()
    said = {line for line in stderr.splitlines() if "[pcpo]" in line}
    (line,) = said
    assert "[pcpo] error: the ranks run different modes: " in line
    assert "off on rank 1" in line and "on rank 0" in line
    assert "Traceback" not in stderr
    assert not (folder / "pcpo").exists()
    assert not list(folder.glob("record.*"))
