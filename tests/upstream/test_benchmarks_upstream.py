"""Every section of the benchmarks on upstream's own code, at its smallest: that it runs, not what it measures."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from launch import ROOT

from benchmarks import gpu_check
from benchmarks.gpu.networks import networks
from benchmarks.measuring import loss_step, ratios, startup, study, training
from benchmarks.measuring.miniature_run import Miniatures
from pcpo_overlay import hooks
from pcpo_overlay.__main__ import main
from pcpo_overlay.tools.ab.upstreams import UPSTREAMS

CLONES = ("ddpo-pytorch", "flow_grpo", "DanceGRPO")
#: One batch of two samples, two denoising steps.
SMALL = (
    "--config.sample.num_steps=2", "--config.sample.batch_size=2", "--config.sample.num_batches_per_epoch=2",
    "--config.train.batch_size=2", "--config.train.gradient_accumulation_steps=1",
)  # fmt: skip


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.upstream(*CLONES)
def test_loss_steps_of_every_trainer(upstream_clone: Any) -> None:
    (vendor,) = {upstream_clone(name, True).parent for name in CLONES}
    shapes = [(2, *(min(n, 4) for n in case.shape[1:])) for case in loss_step.CASES]
    cases = [replace(case, shape=s, steps=5) for case, s in zip(loss_step.CASES, shapes, strict=True)]
    before = hooks.current()
    sections = loss_step.measure(vendor, torch.device("cpu"), 2, 1e-3, random.Random(0), cases)
    assert hooks.current() is before
    assert len(sections[0].rows) == 2 * len(cases)
    for values in sections[0].values:
        assert all(len(times) == 2 and min(times) > 0 for times in values["seconds"].values())
        # prediction matching itself never waits; Flow-GRPO's step function still looks its sigmas up
        own = values["waits"]["upstream"] if values["case"].startswith("Flow-GRPO") else 0
        assert values["waits"]["full"] == own


@pytest.mark.upstream
def test_a_race_of_four_arms(ddpo_patched: Path, one_thread: None) -> None:
    short = {"ddpo": SMALL}
    measured, memory = training.run(ddpo_patched.parent, random.Random(0), 2, [UPSTREAMS["ddpo"]], short)
    assert measured[0].steps == 2
    for arm in training.ARMS:
        assert len(measured[0].epochs(arm, "wall")) == len(measured[0].training_steps(arm, "process")) == 1
        assert 0 < measured[0].training_steps(arm, "wall")[0] < measured[0].epochs(arm, "wall")[0]
    assert memory[0]["samples"] == 4
    # prediction and noise of two steps, each 4x8x8 float32, and two weights
    assert memory[0]["tape_bytes"] == 4 * 2 * (2 * 4 * 4 * 8 * 8 + 2 * 4)
    assert min(memory[0]["peak"].values()) > 2**20
    assert len(training.training_section(measured, "wall").rows) == 2


@pytest.mark.upstream
def test_ratios_before_the_first_update(ddpo_patched: Path, tmp_path: Path, one_thread: None) -> None:
    setting = ratios.Setting("ddpo", "bf16", "whole network", (*SMALL, "--config.mixed_precision=bf16"))
    found = ratios.measure(Miniatures(ddpo_patched.parent, tmp_path), [setting], jobs=2)
    modes = found[setting]
    assert list(modes) == ["observe", "match", "full"]
    assert [r.ratio.numel() for r in modes.values()] == [4] * 3
    assert modes["full"].is_exact and modes["match"].is_exact and not modes["observe"].is_exact
    assert not ratios.summary(found).missed
    assert [row[1] for row in ratios.by_timestep(setting, modes).rows] == ["2", "2"]


@pytest.mark.upstream(*CLONES)
def test_every_part_of_the_gpu_check(upstream_clone: Any, tmp_path: Path, one_thread: None) -> None:
    (vendor,) = {upstream_clone(name, True).parent for name in CLONES}
    out = tmp_path / "out"
    code = gpu_check.main(["--tiny", "--minutes", "10", "--out", str(out), "--vendor", str(vendor)])
    text = (out / "page.md").read_text()
    assert code == 0, text
    found = {
        name: [json.loads(x) for x in (out / f"{name}.jsonl").read_text().splitlines()]
        for name in gpu_check.PARTS
    }
    ran = [(row["trainer"], row["mode"], row["exit_code"]) for row in found["faults"] if "trainer" in row]
    assert ran == [("dancegrpo_flux", "off", 0), ("dancegrpo_flux_lora", "full", 0)]
    assert {row["mode"]: row["largest"] for row in found["ratios"] if "mode" in row}.keys() == {
        "observe",
        "match",
        "full",
    }
    sizes = [row for row in found["sizes"] if "tape_bytes" in row]
    assert len(sizes) == len(networks(tiny=True)) and all(row["tape_bytes"]["full"] > 0 for row in sizes)
    assert [row["forwards"]["2 experts"] for row in found["guidance"] if "forwards" in row] == [
        {"base": 2, "expert": 4}
    ]
    assert "left out" not in text


@pytest.mark.upstream
def test_startup() -> None:
    imports = startup.imports(ROOT, 1, random.Random(0))
    assert len(imports.rows) == 3
    applied = startup.apply(ROOT, None)
    assert "ddpo-pytorch" in [row[0] for row in applied.rows]


def test_an_upstream_out_of_reach_is_a_line(tmp_path: Path) -> None:
    applied = startup.apply(ROOT, tmp_path)
    assert not applied.rows
    assert applied.notes[0] == f"ddpo-pytorch was not measured: the mirror {tmp_path} has no ddpo-pytorch."


@pytest.mark.upstream(*CLONES)
@pytest.mark.parametrize("name", study.STUDIES)
def test_every_command_of_a_study_is_one_that_ab_takes(
    upstream_clone: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    (vendor,) = {upstream_clone(clone, True).parent for clone in CLONES}
    monkeypatch.chdir(ROOT)
    studied = study.STUDIES[name]
    for part in study.parts(studied):
        words = study.command(studied, part, tmp_path, jobs=2, vendor=vendor)
        words.insert(words.index("--"), "--dry-run")
        assert words[:2] == ["-m", "pcpo_overlay"] and main(words[2:]) == 0
        shown = capsys.readouterr().out
        runs = [line for line in shown.splitlines() if "PCPO_RUN_DIR=" in line]
        assert len(runs) == len(part.modes) * len(part.seeds)
        assert all(setting in line for line in runs for setting in part.settings)
