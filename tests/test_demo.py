"""``pcpo demo``: what it prints of a comparison, and one whole demo on upstream's own script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import write_run

from pcpo_overlay.__main__ import main
from pcpo_overlay.tools.cli import ab, demo
from pcpo_overlay.tools.report.compare import compare
from pcpo_overlay.tools.runs.run import load

#: Two seeds of each arm; their means are what the table has.
REWARDS = {"observe": ([0.4, 0.5, 0.6], [0.6, 0.7, 0.8]), "full": ([0.4, 0.6, 0.8], [0.6, 0.8, 1.0])}


def _document(folder: Path, thresholds: list[float] | None) -> Any:
    for mode, seeds in REWARDS.items():
        for seed, rewards in enumerate(seeds):
            write_run(folder / f"{mode}-seed{seed}", mode, seed=seed, rewards=rewards)
    return compare([load(run) for run in sorted(folder.iterdir())], thresholds=thresholds)


def test_it_tells_the_highest_reward_that_every_arm_reached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.tell(_document(tmp_path, [0.53, 0.58, 0.65]))
    lines = capsys.readouterr().out.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("reward"))
    head, baseline, full = lines[at : at + 3]
    assert "epochs to 0.580" in head and "last 3" in head
    assert baseline.split() == ["baseline", "0.5000", "0.6000", "3"]
    assert full.split() == ["full", "0.5000", "0.7000", "2"]


def test_an_arm_that_never_gets_there_is_said_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.tell(_document(tmp_path, [0.65, 0.69]))
    out = capsys.readouterr().out
    assert "epochs to 0.650" in out and "never" in out


def test_no_level_no_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.tell(_document(tmp_path, []))
    assert "epochs to" not in capsys.readouterr().out


def test_without_a_clone_it_answers_as_apply_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ab, "require_libraries", lambda: None)
    (tmp_path / "mirror").mkdir()
    words = ["--mirror", str(tmp_path / "mirror"), "--vendor", str(tmp_path / "vendor")]
    assert main(["demo", *words, "--out", str(tmp_path / "out")]) == 7
    assert "error:" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.upstream("ddpo-pytorch")
@pytest.mark.parametrize(("more", "shown"), [((), demo.DIGITS), (("--animals",), demo.ANIMALS)])
def test_one_command_trains_both_arms_and_doing_it_again_repeats_nothing(
    ddpo_patched: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    more: tuple[str, ...],
    shown: demo.Demo,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    words = ["demo", *more, "--epochs", "1", "--seeds", "0", "--vendor", str(ddpo_patched.parent)]
    assert main(words) == 0
    first = capsys.readouterr().out
    assert f"pcpo ab ddpo {' '.join(shown.words)}" in first and shown.reward in first
    assert "--modes observe,full --epochs 1 --seeds 0" in first
    out = tmp_path / "pcpo_ab" / shown.out
    report = out / "report" / "report.md"
    assert f"report: {report}" in first and report.is_file()
    rows = {
        line.split()[0]: line.split()[1:]
        for line in first.splitlines()
        if line.startswith(("baseline", "full "))
    }
    assert set(rows) == {"baseline", "full"}
    info = json.loads((out / "full-seed0" / "run.json").read_text())
    assert (info["upstream"], info["mode"], info["status"]) == ("ddpo", "full", "finished")

    assert main(words) == 0
    assert capsys.readouterr().out.count("finished already") == 2
