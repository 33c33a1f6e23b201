"""The GPU check: its words, its time and its page. That its parts run is `test_benchmarks_upstream`'s."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import ROOT, gpu_check
from benchmarks.gpu.networks import networks
from benchmarks.gpu.page import page
from benchmarks.gpu.part import Part, watched
from benchmarks.measuring import machine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "machine.json").write_text(json.dumps(machine.describe(0)))
    return tmp_path


def found(folder: Path, name: str, *rows: dict[str, Any]) -> tuple[str, list[str]]:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return page(folder, [name])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_what_to_type(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert gpu_check.main(["--out", str(tmp_path / "out")]) == 3
    assert "--tiny" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    assert gpu_check.main(["--tiny", "--out", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("words", [["lost"], ["--minutes", "0"], ["--minutes", "nan"]])
def test_wrong_arguments(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", *words], cwd=ROOT, capture_output=True
    )
    assert done.returncode == 2 and b"Traceback" not in done.stderr


def test_the_parts_share_all_of_the_time() -> None:
    assert sum(share for _, share in gpu_check.PARTS.values()) == pytest.approx(1)


def test_what_there_is_no_time_for_is_named(tmp_path: Path) -> None:
    part = Part(tmp_path / "x.jsonl", tmp_path, time.monotonic() + 5, tiny=True)
    assert part.has(1, what="short") and not part.has(60, what="long")
    with watched(part, what="broken"):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    skipped, broken = [json.loads(line) for line in part.file.read_text().splitlines()]
    assert skipped["what"] == "long" and "60 s needed" in skipped["skipped"]
    assert broken["what"] == "broken" and "illegal memory access" in broken["error"]


def test_the_page_says_first_what_is_wrong(folder: Path) -> None:
    one = {"trainer": "dancegrpo_flux", "mode": "full", "how": "as it is", "seconds": 9.0}
    text, wrong = found(
        folder,
        "faults",
        {**one, "exit_code": 0, "nan_losses": 0},
        {**one, "exit_code": -6, "nan_losses": 0, "end": "illegal"},
        {**one, "exit_code": 0, "nan_losses": 3},
        {**one, "skipped": "the part's time was up while it ran", "nan_losses": 2},
    )
    assert len(wrong) == 3 and "exit code -6" in wrong[0] and "2 losses are NaN" in wrong[2]
    assert text.index("**Wrong:**") < text.index("### Faults")
    assert text.count("| dancegrpo_flux |") == 3
    ratio = {
        "trainer": "ddpo",
        "dtype": "fp32",
        "network": "LoRA",
        "mode": "full",
        "outside": 0.0,
        "masked": 0.0,
    }
    assert not found(folder, "ratios", {**ratio, "largest": 0.0, "wrong": False})[1]
    assert "not every ratio is 1" in found(folder, "ratios", {**ratio, "largest": 1e-7, "wrong": True})[1][0]


@pytest.mark.parametrize(
    ("tape", "full", "count"), [(1, "0.99x [0.98, 1.00]", 0), (2, "1.03x [1.01, 1.05]", 2)]
)
def test_the_page_holds_cost_and_memory_against_their_goals(
    folder: Path, tape: int, full: str, count: int
) -> None:
    peaks = dict.fromkeys(("off", "again", "observe", "full", "tape=cpu"), 100)
    ratios = dict.fromkeys(("again", "observe", "tape=cpu"), "1.00x [0.99, 1.01]") | {"full": full}
    text, wrong = found(
        folder,
        "sizes",
        {"network": "SD", "what": "optimizer step", "off": 0.5, "ratios": ratios, "tiny": False},
        {
            "network": "SD",
            "peak_bytes": peaks,
            "tape_bytes": {"full": tape},
            "waits": {"off": 12, "full": 6},
        },
        {"part": "sizes", "seconds": 3.0, "exit_code": 0},
    )
    assert len(wrong) == count and "12 / 6" in text and "took 3.0 s" in text


def test_a_part_that_ended_early_is_wrong(folder: Path) -> None:
    _, wrong = found(folder, "guidance", {"part": "guidance", "seconds": 1.0, "exit_code": None})
    assert "its time was up" in wrong[0]
    _, wrong = found(folder, "guidance", {"part": "guidance", "seconds": 1.0, "exit_code": 1})
    assert "exit code 1" in wrong[0] and "guidance.log" in wrong[0]


@pytest.mark.parametrize(
    ("n", "millions"),
    [(0, 860), (2, 2243), (3, 2556)],
    ids=["SD 1.5", "SD3.5 medium", "FLUX with 4 and 8 blocks"],
)
def test_networks_of_real_sizes_predict_what_the_trainers_train_on(n: int, millions: int) -> None:
    given = networks(tiny=False)[n]
    with torch.device("meta"), torch.no_grad():  # shapes without numbers
        network = given.make(False)
        count = sum(p.numel() for p in network.parameters())
        predicted = given.call(network, torch.empty(given.case.shape), torch.tensor(500.0))
    assert predicted.shape == given.case.shape
    assert count / 1e6 == pytest.approx(millions, rel=0.01)
