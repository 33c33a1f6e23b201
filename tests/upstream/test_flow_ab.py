"""``pcpo ab flow_grpo`` on the miniatures: upstream's own scripts by its own launch line, and the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from launch import HERE, ROOT

from pcpo_overlay.tools.evaluate.run import Request, evaluate
from pcpo_overlay.tools.runs.run import load

pytestmark = pytest.mark.upstream("flow_grpo")

#: 2 epochs of 8 samples of 4 prompts, 2 optimizer steps.
SMALL = (
    "--config.sample.train_batch_size=4", "--config.sample.num_image_per_prompt=2", "--config.train.batch_size=4",
    "--config.sample.test_batch_size=10", "--config.sample.eval_num_steps=3", f"--config.dataset={HERE / 'prompts'}",
    "--config.save_freq=1",
)  # fmt: skip


@pytest.mark.parametrize(
    ("trainer", "name", "modes", "label"),
    [
        ("flux_fast", "flow_grpo_flux_fast", ["--modes", "full"], "full"),
        ("sd3_GRPO_Guard", "flow_grpo_sd3_guard", [], "GRPO-Guard"),
    ],
)
def test_trains_the_miniature(
    upstream_clone: Any, tmp_path: Path, trainer: str, name: str, modes: list[str], label: str
) -> None:
    clone, out = upstream_clone("flow_grpo", True), tmp_path / "out"
    command = ["ab", "flow_grpo", "--trainer", trainer, "--clone", str(clone), "--out", str(out), *modes]
    done = subprocess.run(
        [sys.executable, "-m", "pcpo_overlay", *command, "--epochs", "2", "--", *SMALL],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 2/2" in done.stdout and "report:" in done.stdout
    (folder,) = out.glob("*-seed0")
    run = load(folder)
    assert (run.finished, run.upstream, run.label, len(run.epochs)) == (True, name, label, 2)
    assert all(line["reward_count"] == 8 for line in run.epochs)
    assert run.epochs[0]["reward_mean"] > 0.5  # it draws the digits that it is asked for
    assert evaluate(folder, Request(samples=2, seed=0), lambda _: None) == []
    lines = [json.loads(line) for line in (folder / "evaluation.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines][-2:] == [1, 2]
    assert all(line["overall"]["reward"] > 0.5 for line in lines)
