"""``pcpo ab dancegrpo`` on the miniatures: DanceGRPO's own scripts, both arms, and the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from launch import ROOT

from pcpo_overlay.tools.evaluate.run import Request, evaluate

pytestmark = pytest.mark.upstream("DanceGRPO")

#: 2 prompts with 4 samples each, 2 optimizer steps, 4 sampling steps.
FLUX = (
    "--train_batch_size=2", "--train_sp_batch_size=2", "--num_generations=4", "--gradient_accumulation_steps=4",
    "--sampling_steps=4",
)  # fmt: skip
SD = (
    "--config.sample.batch_size=2", "--config.num_generations=4", "--config.train.batch_size=2",
    "--config.train.gradient_accumulation_steps=2", "--config.sample.num_steps=4",
)  # fmt: skip
SMALL = {"sd": SD, "flux": FLUX, "flux_lora": FLUX}
#: What saves a checkpoint, and after how many epochs that is.
SAVED = {
    "sd": ("--config.save_freq=1", 2),
    "flux": ("--checkpointing_steps=2", 1),
    "flux_lora": ("--checkpointing_steps=2", 1),
}


def state(clone: Path) -> str:
    """All that differs in a clone from its commit, and all that is new."""
    command = ["git", "-C", str(clone), "status", "--porcelain", "--ignored", "--untracked-files=all"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return "\n".join(line for line in lines if "__pycache__" not in line)


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


@pytest.mark.parametrize(
    ("trainer", "words"), [*((name, ()) for name in SMALL), ("sd", ("--config", "animals"))]
)
def test_both_arms_train_the_miniature(
    upstream_clone: Any, tmp_path: Path, trainer: str, words: tuple[str, ...]
) -> None:
    clone = upstream_clone("DanceGRPO", True)
    before = state(clone)
    command = [
        "ab",
        "dancegrpo",
        "--trainer",
        trainer,
        "--clone",
        str(clone),
        "--out",
        str(tmp_path / "out"),
        *words,
    ]
    saving, after = SAVED[trainer]
    done = subprocess.run(
        [sys.executable, "-m", "pcpo_overlay", *command, "--epochs", "2", "--", *SMALL[trainer], saving],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 2/2" in done.stdout and "report:" in done.stdout

    for mode in ("observe", "full"):
        run = tmp_path / "out" / f"{mode}-seed0"
        info = json.loads((run / "run.json").read_text())
        assert (info["status"], info["mode"], info["upstream"]) == ("finished", mode, f"dancegrpo_{trainer}")
        assert info["seed"] == 0 and info["clone"]["modified"] is False
        epochs, steps = records(run, "epoch"), records(run, "step")
        assert len(steps) == 4 and [epoch["reward_count"] for epoch in epochs] == [8, 8]
        # what the trainer wrote where it ran, which is not the clone
        written = [float(line) for line in (run / "work" / "reward.txt").read_text().splitlines()]
        assert written == pytest.approx([epoch["reward_mean"] for epoch in epochs], rel=1e-4)
        assert list((run / "work").glob("images*/*.[pj][np]g"))
        # log-odds, and those of the digit prompted for: of any other they would be below -2
        assert all(-1 < reward < 10 for reward in written)
        assert steps[0]["grad_norm"] > 0
        if mode == "full":
            assert steps[0]["ratio_min"] == steps[0]["ratio_max"] == 1
        assert evaluate(run, Request(samples=2, seed=0), lambda _: None) == []
        lines = (run / "evaluation.jsonl").read_text().splitlines()
        base, trained = map(json.loads, lines)
        assert (base["epoch"], trained["epoch"]) == (0, after)
        assert base["overall"]["frechet"] == 0 and trained["overall"]["frechet"] > 1e-9
    assert state(clone) == before
