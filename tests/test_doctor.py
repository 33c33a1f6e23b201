"""The doctor on folders whose numbers are known, and on launch lines of our own."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pcpo_overlay.__main__ import main
from pcpo_overlay.tools.doctor.findings import examine
from pcpo_overlay.tools.doctor.launch import LaunchLine
from pcpo_overlay.tools.doctor.page import page
from pcpo_overlay.tools.faults import WrongArgument
from pcpo_overlay.tools.runs.run import load

#: Three steps of a flow, of which two can be trained. The last trained one has 3/4 of the credit for half of the way.
RESOLVED = {
    "timestep": [1000, 600, 200],
    "weight_native": [1.0, 3.0, 9.0],
    "dt": [0.4, 0.4, 0.2],
    "std_native": [0.1, 0.1, 0.1],
    "trained": 2,
    "mean_native": 13 / 3,
}


def written(folder: Path, low: float, high: float, outside: float = 0.0, **changed: Any) -> Path:
    """A run folder of one epoch whose first optimizer step has these ratios."""
    info = {
        "format": 1,
        "upstream": "flow_grpo",
        "mode": "observe",
        "pcpo": {"mode": "observe"},
        "status": "stopped",
        "clip_range": 1e-4,
        "trainer": {"mixed_precision": "no", "num_epochs": 9},
        "resolved": RESOLVED,
        "precision": {"latents": "float32", "prediction": "float32", "samples_as_trained": True},
        "argv": ["scripts/train_sd3.py", "--config", "config/grpo.py:general_ocr_sd3"],
        **changed,
    }
    steps = {
        "kind": "step", "epoch": 0, "step": 0, "samples": 8, "nonfinite": 0, "ratio_min": low, "ratio_max": high,
        "fraction_outside": outside, "fraction_masked": outside / 2,
        "per_timestep": {
            "timestep": [1000, 600], "ratio_mean": [low, high], "ratio_off": [1 - low, high - 1],
            "fraction_outside": [outside, outside], "fraction_masked": [0, outside],
        },
    }  # fmt: skip
    epoch = {
        "kind": "epoch", "epoch": 0, "nonfinite": 0, "groups_without_spread": 0.25, "tape_bytes": 2**20,
        "tape_bytes_matching": 3 * 2**20, "peak_memory_bytes": 2**30, **changed.get("epoch", {}),
    }  # fmt: skip
    info.pop("epoch", None)
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(info))
    (folder / "metrics.jsonl").write_text(f"{json.dumps(steps)}\n{json.dumps(epoch)}\n")
    return folder


def test_exact_ratios(tmp_path: Path) -> None:
    found = examine(load(written(tmp_path / "run", 1.0, 1.0)))
    assert (found.off, found.outside, found.mode) == (0, 0, "full")
    assert found.verdict[0].startswith("Before the first update every ratio is exactly 1")
    assert [(s.timestep, s.credit, s.way) for s in found.steps] == [
        (1000, 0.25, 0.5),
        (600, 0.75, 0.5),
        (200, None, None),
    ]
    assert found.verdict[1].startswith("Credit is uneven: timestep 600 gets 75% of it for 50.0% of the way.")
    assert (found.tape_bytes, found.groups_without_spread) == (3 * 2**20, 0.25)


def test_rounding_in_half_precision(tmp_path: Path) -> None:
    half = {"latents": "bfloat16", "prediction": "bfloat16", "samples_as_trained": True}
    found = examine(load(written(tmp_path / "run", 0.99, 1.002, 0.75, precision=half)))
    assert found.off == pytest.approx(0.01)
    assert found.mode == "full"
    said = found.verdict[0]
    assert (
        "75% of the ratios are outside the clip range, by up to 1.0e-02, and 38% of the samples have no"
        in said
    )
    assert "kept in bfloat16" in said and "float32 mends it" in said


def test_sampling_outside_the_autocast_needs_precision_match(tmp_path: Path) -> None:
    lora = {"latents": "bfloat16", "samples_as_trained": False}
    found = examine(load(written(tmp_path / "run", 0.99, 1.002, 0.75, precision=lora)))
    assert found.mode == "full,precision=match"
    assert "samples outside the autocast that it trains under" in found.verdict[0]


def test_off_in_float32_is_no_rounding(tmp_path: Path) -> None:
    found = examine(load(written(tmp_path / "run", 0.99, 1.002, 0.75)))
    assert "does not give the same output twice: look for dropout" in found.verdict[0]


def test_a_sampler_that_rounds_and_hands_out_float32(tmp_path: Path) -> None:
    run = load(written(tmp_path / "run", 0.99, 1.002, 0.75, trainer={"mixed_precision": "bf16"}))
    assert (
        "the run is in bf16: the sampler rounds on its way what the training does not"
        in examine(run).verdict[0]
    )


def test_off_within_the_clip_range_is_harmless(tmp_path: Path) -> None:
    half = {"latents": "float16", "samples_as_trained": True}
    found = examine(load(written(tmp_path / "run", 1 - 3e-5, 1.0, precision=half)))
    assert "by rounding and within the clip range of 0.0001: harmless" in found.verdict[0]


def test_groups_and_numbers_that_are_not_finite(tmp_path: Path) -> None:
    epoch = {"groups_without_spread": 1.0, "nonfinite": 3}
    said = examine(load(written(tmp_path / "run", 1.0, 1.0, epoch=epoch))).verdict
    assert said[0].startswith("3 log ratios or losses are not finite.")
    assert said[2].startswith("Every group of images has equal rewards")


def test_nearly_equal_credit_is_said(tmp_path: Path) -> None:
    even = {**RESOLVED, "weight_native": [1.0, 1.1, 0.5], "mean_native": 2.6 / 3}
    said = examine(load(written(tmp_path / "run", 1.0, 1.0, resolved=even))).verdict
    assert said[1].startswith("Credit is nearly in proportion")


def test_weights_on_another_output_are_no_credit(tmp_path: Path) -> None:
    """A DDIM network that predicts v: its native mean, on the noise estimate, is another than its weights'."""
    found = examine(load(written(tmp_path / "run", 1.0, 1.0, resolved={**RESOLVED, "mean_native": 2.0})))
    assert all(s.credit is None for s in found.steps)
    assert len(found.verdict) == 1


def test_an_older_folder_says_what_it_can(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", 1.0, 1.0, resolved=None, precision=None)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    epoch = {k: v for k, v in json.loads(lines[1]).items() if k in ("kind", "epoch")}
    (folder / "metrics.jsonl").write_text(f"{lines[0]}\n{json.dumps(epoch)}\n")
    told = page(examine(load(folder)), "x")
    assert "tape of match and full    not recorded" in told
    assert "precision                 not recorded" in told


def test_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path / "run", 0.99, 1.002, 0.75, trainer={"mixed_precision": "bf16"})
    assert main(["doctor", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Flow-GRPO, SD3, observe: epoch 0"
    assert "  ratio                     0.99 to 1.002, off by up to 1.0e-02" in lines
    assert "  outside the clip range    75.0%, with a clip range of 0.0001" in lines
    assert "  groups without spread     25.0%" in lines
    assert "  tape of match and full    3 MiB a rank, 0.3% of the epoch's peak of 1 GiB" in lines
    assert "  precision                 latents float32, prediction float32, mixed_precision bf16" in lines
    assert (
        "|     1000 |  0.99 |     1.0e-02 |   75.0% |   0.0% |             1 |  25.0% |      50.0% |" in lines
    )
    assert lines[-1] == (
        "Next: PCPO=full before the line that launched scripts/train_sd3.py --config config/grpo.py:general_ocr_sd3"
    )
    assert main(["doctor", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"][0]["credit"] == 0.25


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, "give a run folder, or a launch line after --"),
        (["RUN", "--", "true"], 2, "give a run folder, or a launch line after --"),
        (["--"], 2, "give a run folder, or a launch line after --"),
        (["--", "A=1"], 2, "there is no launch line after --"),
        (["--", "python", "train.py", "--pcpo=full"], 2, "leave it out"),
        (["RUN", "--out", "X"], 2, "--out is for a launch line"),
        (["nowhere"], 1, "no run.json"),
        (["--", "no-such-command-of-ours"], 1, "could not be started"),
        (["--out", "RUN", "--", "true"], 1, "holds a run already"),
    ],
)
def test_what_it_refuses(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "RUN", 1.0, 1.0)
    assert main(["doctor", *words]) == code
    (line,) = [held for held in capsys.readouterr().err.splitlines() if held.startswith("pcpo doctor: ")]
    assert says in line


def test_a_launch_line_as_a_shell_takes_it() -> None:
    line = LaunchLine.of(["CUDA_VISIBLE_DEVICES=0,1", "PCPO=full", "NAME=a b", "bash", "x.sh", "--y=1"])
    assert line.words == ["bash", "x.sh", "--y=1"]
    assert line.variables == {"CUDA_VISIBLE_DEVICES": "0,1", "NAME": "a b"}
    assert str(line) == "CUDA_VISIBLE_DEVICES=0,1 NAME='a b' bash x.sh --y=1"
    with pytest.raises(WrongArgument):
        LaunchLine.of(["x", "--pcpo", "full"])


#: A trainer of ours that records one epoch after another, without an end, and a child that would outlive it.
ENDLESS = """
import json, os, pathlib, subprocess, sys, time
folder = pathlib.Path(os.environ["PCPO_RUN_DIR"])
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
lines = pathlib.Path(sys.argv[1]) / "metrics.jsonl"
(folder / "run.json").write_text((pathlib.Path(sys.argv[1]) / "run.json").read_text())
told = {name: os.environ[name] for name in ("PCPO", "WANDB_MODE", "MINE")}
(folder / "seen.json").write_text(json.dumps([child.pid, os.getpid(), told]))
print("loading", flush=True)
with (folder / "metrics.jsonl").open("w") as file:
    file.write(lines.read_text())
    file.flush()
    time.sleep(300)
"""


def test_one_epoch_of_a_launch_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is stopped once the epoch is there, with all that it started; the mode is in front of the user's own line."""
    template = written(tmp_path / "template", 1.0, 1.0)
    script = tmp_path / "train.py"
    script.write_text(ENDLESS)
    out = tmp_path / "out"
    began = time.monotonic()
    code = main(["doctor", "--out", str(out), "--", "MINE=1", sys.executable, str(script), str(template)])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert time.monotonic() - began < 60
    child, parent, seen = json.loads((out / "seen.json").read_text())
    assert seen == {"PCPO": "observe,tape=cpu,track=false", "WANDB_MODE": "disabled", "MINE": "1"}
    for pid in (child, parent):
        assert is_gone(pid)
    assert said.out.splitlines()[-1] == f"Next: PCPO=full MINE=1 {sys.executable} {script} {template}"
    assert "loading" in (out / "output.log").read_text()


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("print('no such config'); raise SystemExit(3)", 'exit code 3) and no hook of PCPO ran'),
        ("print('ModuleNotFoundError: No module named x\\n  at y\\na.CalledProcessError: z'); raise SystemExit(1)",
         'its last error: "ModuleNotFoundError: No module named x"'),
        ("import os, pathlib; pathlib.Path(os.environ['PCPO_RUN_DIR'], 'run.json').write_text('{}'); print('bye')",
         "(exit code 0) before its first epoch"),
    ],
)  # fmt: skip
def test_a_launch_line_that_ends_before_its_first_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], body: str, says: str
) -> None:
    code = main(["doctor", "--out", str(tmp_path / "out"), "--", sys.executable, "-c", body])
    assert code == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert says in line
    assert any(word in line for word in ("no such config", "No module named x", "bye"))
