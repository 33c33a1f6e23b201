"""``benchmarks.pictures``: the same noise in every column, the checkpoint that was evaluated, and its own numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_evaluate import ddpo_run, quality, save_unet

from benchmarks import pictures
from pcpo_overlay.__main__ import main as pcpo
from pcpo_overlay.tools.miniature import PROMPTS, sd
from pcpo_overlay.tools.runs.run import load

pytestmark = pytest.mark.usefixtures("offline_on_one_thread")

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two evaluated runs; the second one's checkpoints lie further from the base model."""
    base = tmp_path_factory.mktemp("runs")
    made = [ddpo_run(base / "slow"), ddpo_run(base / "fast")]
    for run, shifts in zip(made, ([0.001, 0.01], [0.02, 0.03]), strict=True):
        for number, shift in zip((0, 2), shifts, strict=True):
            save_unet(run, number, shift)
    assert pcpo(["evaluate", *map(str, made), "--samples", "2"]) == 0
    return made


def described(path: Path) -> list[dict[str, object]]:
    with Image.open(path) as image:
        held: list[dict[str, object]] = json.loads(image.info["Description"])
    return held


def test_arms_are_matched_by_their_evaluated_reward(
    runs: list[Path], tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "new" / "matched.png"
    shown = ",".join(PROMPTS[:2])
    rewards = [line["overall"]["reward"] for line in quality(runs[0])]
    words = ["matched", *map(str, runs), "--prompts", shown, "--seeds", "2", "--out", str(out)]
    assert pictures.main([*words, "--reward", str(rewards[1])]) == 0
    told = described(out)
    assert [(t["run"], t["epoch"]) for t in told[:2]] == [("slow", 0), ("slow", 5)]
    assert told[1]["values"] == quality(runs[0])[1]["overall"]
    other = {line["epoch"]: line["overall"]["reward"] for line in quality(runs[1])}
    assert told[2]["epoch"] == min(other, key=lambda epoch: abs(other[epoch] - rewards[1]))
    assert capsys.readouterr().out.splitlines()[-1] == str(out)

    # without one it is the least of the best
    assert pictures.main(words) == 0
    best = [max(line["overall"]["reward"] for line in quality(run)) for run in runs]
    assert any(t["values"]["reward"] == min(best) for t in described(out)[1:])  # type: ignore[index]


def test_every_policy_is_given_the_same_noise(runs: list[Path]) -> None:
    arms = [pictures.Arm.of(load(run), "arm") for run in runs]
    by_hand = sd.sample(sd.load_pipeline(), PROMPTS[:3], steps=2, guidance=1.0, eta=1.0, seed=7)
    for arm in arms:
        assert torch.equal(arm.draw(0, PROMPTS[:3], [3, 7])[:, 1], by_hand)
        moved = [(arm.draw(epoch, PROMPTS[:3], [7])[:, 0] - by_hand).abs().mean() for epoch in (5, 13)]
        assert 0 < moved[0] < moved[1] < 0.1


def test_a_film_has_a_row_an_arm_and_the_epochs_that_all_have(
    runs: list[Path], tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "film.png"
    words = ["film", *map(str, runs), "--prompts", PROMPTS[4], "--out", str(out)]
    assert pictures.main(words) == 0
    assert [(t["run"], t["epoch"]) for t in described(out)] == [
        (name, epoch) for name in ("slow", "fast") for epoch in (0, 5, 13)
    ]
    with Image.open(out) as image:
        wide = image.size
        assert np.asarray(image.convert("L")).min() < 64  # not white alone
    assert pictures.main([*words, "--epochs", "0,13"]) == 0
    with Image.open(out) as image:
        assert image.size[0] < wide[0] and image.size[1] == wide[1]
    before = out.read_bytes()
    assert pictures.main([*words, "--epochs", "0,4"]) == 2
    assert "no checkpoint of 4 in all; there are 0, 5, 13" in capsys.readouterr().err
    assert out.read_bytes() == before


def test_what_is_not_evaluated_or_no_longer_what_was_is_refused(tmp_path: Path, capsys: Capture) -> None:
    run = ddpo_run(tmp_path / "run")
    save_unet(run, 0, 0.1)
    words = ["film", str(run), "--prompts", PROMPTS[0], "--out", str(tmp_path / "out.png")]
    assert pictures.main(words) == 1
    assert f"pictures: {run} is not evaluated; type pcpo evaluate {run}" in capsys.readouterr().err
    assert pcpo(["evaluate", str(run), "--samples", "2"]) == 0
    save_unet(run, 0, 0.2)
    capsys.readouterr()
    assert pictures.main(words) == 1
    assert "is not what was evaluated; type pcpo evaluate" in capsys.readouterr().err
    assert pcpo(["evaluate", str(run), "--samples", "2"]) == 0
    assert pictures.main(words) == 0
    capsys.readouterr()
    assert pictures.main(["film", str(run), "--prompts", "a cat", "--out", str(tmp_path / "out.png")]) == 2
    assert "--prompts: 'a cat' is none of a handwritten zero, " in capsys.readouterr().err


def test_runs_that_were_evaluated_otherwise_are_not_put_side_by_side(
    runs: list[Path], tmp_path: Path, capsys: Capture
) -> None:
    other = ddpo_run(tmp_path / "other")
    save_unet(other, 0, 0.1)
    assert pcpo(["evaluate", str(other), "--samples", "3"]) == 0
    words = ["matched", str(runs[0]), str(other), "--prompts", PROMPTS[0], "--out", str(tmp_path / "out.png")]
    assert pictures.main(words) == 1
    assert "evaluated with different settings; evaluate them all alike" in capsys.readouterr().err
