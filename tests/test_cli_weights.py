"""``python -m pcpo_overlay weights``: its table, JSON, plot, and the one line it answers a wrong argument with."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pcpo_overlay.__main__ import main
from pcpo_overlay.tools import palette
from pcpo_overlay.tools.weights.table import (
    bagel_table,
    dancegrpo_table,
    ddim_table,
    flow_grpo_table,
    wan_table,
)

Capture = pytest.CaptureFixture[str]

COLUMNS = {
    "ddim": ["timestep", "dt", "weight_native", "weight", "std", "std_native"],
    "dancegrpo": ["sigma", "dt", "weight_native", "weight", "std"],
    "flow-grpo": ["sigma", "dt", "weight_native", "weight", "std"],
    "flow-grpo-wan": ["sigma", "dt", "weight_native", "weight", "std"],
    "flow-grpo-bagel": ["sigma", "dt", "weight_native", "weight", "std"],
}
PARAMETERS = {
    "ddim": {"steps", "eta"},
    "dancegrpo": {"steps", "shift", "eta"},
    "flow-grpo": {"steps", "shift", "noise_level"},
    "flow-grpo-wan": {"steps", "shift"},
    "flow-grpo-bagel": {"steps", "shift", "noise_level"},
}
MORE = {
    "ddim": {"weight_policy", "variance", "why", "w_star"},
    "dancegrpo": {"weight_policy"},
    "flow-grpo": {"weight_policy"},
    "flow-grpo-wan": {"weight_policy"},
    "flow-grpo-bagel": {"weight_policy"},
}
SCALARS = {
    "ddim": {"mean_native"},
    "dancegrpo": {"zeta", "mean_native"},
    "flow-grpo": {"zeta", "mean_native"},
    "flow-grpo-wan": {"zeta", "mean_native"},
    "flow-grpo-bagel": {"zeta", "mean_native"},
}


def run(capsys: Capture, *argv: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``pcpo weights ...``."""
    try:
        code = main(["weights", *argv])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def run_json(capsys: Capture, *argv: str) -> dict[str, Any]:
    code, out, err = run(capsys, *argv, "--json")
    assert (code, err) == (0, "")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    result: dict[str, Any] = json.loads(out, parse_constant=refuse)
    return result


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [
        (sampler, steps)
        for sampler in COLUMNS
        for steps in (None, 1, 2, 7, 999)
        if (sampler, steps) != ("flow-grpo-wan", 1)  # which is refused
    ],
)
def test_json_has_every_key_and_one_value_per_step(capsys: Capture, sampler: str, steps: int | None) -> None:
    result = run_json(capsys, sampler, *(["--steps", str(steps)] if steps else []))
    assert set(result) == {"sampler", "mode", "resolved"} | PARAMETERS[sampler]
    resolved = result["resolved"]
    assert (
        set(resolved)
        == SCALARS[sampler] | set(COLUMNS[sampler]) | {"timestep", "std_native", "trained"} | MORE[sampler]
    )
    assert result["sampler"] == sampler
    default = {"ddim": 50, "dancegrpo": 12, "flow-grpo": 10, "flow-grpo-wan": 20, "flow-grpo-bagel": 14}
    assert result["steps"] == (steps or default[sampler])
    for name in COLUMNS[sampler]:
        column = resolved[name]
        assert len(column) == result["steps"]
        assert all(type(x) is (int if name == "timestep" else float) and math.isfinite(x) for x in column)
    position = resolved[COLUMNS[sampler][0]]
    assert position == sorted(position, reverse=True)
    assert all(x > 0 for x in resolved["dt"] + resolved["weight_native"] + resolved["std"])


def test_json_carries_the_defaults(capsys: Capture) -> None:
    assert run_json(capsys, "ddim") == ddim_table(50, eta=1.0).as_dict()
    assert run_json(capsys, "dancegrpo") == dancegrpo_table(12, shift=3.0, eta=0.3).as_dict()
    assert run_json(capsys, "flow-grpo") == flow_grpo_table(10, shift=3.0, noise_level=0.7).as_dict()
    assert run_json(capsys, "flow-grpo-wan") == wan_table(20, shift=3.0).as_dict()
    assert run_json(capsys, "flow-grpo-bagel") == bagel_table(14, shift=3.0, noise_level=1.3).as_dict()


def test_every_option_reaches_the_table(capsys: Capture) -> None:
    result = run_json(capsys, "ddim", "--steps", "20", "--eta", "0.5", "--mode", "full,w_star=6")
    assert result == ddim_table(20, eta=0.5, mode="full,w_star=6").as_dict()
    assert result["resolved"]["w_star"] == 6
    result = run_json(capsys, "dancegrpo", "--steps", "16", "--shift", "5", "--eta", "0.25")
    assert result == dancegrpo_table(16, shift=5.0, eta=0.25).as_dict()
    result = run_json(capsys, "flow-grpo", "--steps", "40", "--shift", "2", "--noise-level", "0.9")
    assert result == flow_grpo_table(40, shift=2.0, noise_level=0.9).as_dict()
    result = run_json(capsys, "flow-grpo-wan", "--steps", "50", "--shift", "5")
    assert result == wan_table(50, shift=5.0).as_dict()


def test_json_has_the_published_numbers(capsys: Capture) -> None:
    ddim = run_json(capsys, "ddim")["resolved"]
    assert ddim["timestep"][0] == 981 and ddim["timestep"][-1] == 1
    assert ddim["weight_native"][0] == pytest.approx(0.512551, abs=5.1e-7)
    assert ddim["weight"] == pytest.approx([0.516900] * 50, abs=5.1e-7)
    assert ddim["mean_native"] == pytest.approx(0.516900, abs=5.1e-7)
    assert ddim["w_star"] == 4.5
    assert run_json(capsys, "dancegrpo")["resolved"]["zeta"] == pytest.approx(11.484157, abs=5.1e-7)
    assert run_json(capsys, "flow-grpo")["resolved"]["zeta"] == pytest.approx(5.705396, abs=5.1e-7)


@pytest.mark.parametrize("sampler", COLUMNS)
def test_table_is_aligned_and_holds_the_json(capsys: Capture, sampler: str) -> None:
    numbers = run_json(capsys, sampler)
    code, out, err = run(capsys, sampler)
    assert (code, err) == (0, "")
    headline, header, *rows = out.splitlines()
    assert headline.split()[:2] == [sampler, numbers["mode"]]
    assert {part.split("=")[0] for part in headline.split()[2:]} == PARAMETERS[sampler] | SCALARS[sampler] | (
        {"w_star"} if sampler == "ddim" else set()
    )
    assert header.split() == ["step", *COLUMNS[sampler]]
    assert len(rows) == numbers["steps"]
    assert {len(row) for row in rows} == {len(header)}
    for i, row in enumerate(rows):
        cells = row.split()
        assert int(cells[0]) == i
        expected = [numbers["resolved"][name][i] for name in COLUMNS[sampler]]
        assert [float(cell) for cell in cells[1:]] == pytest.approx(expected, rel=1e-5)


BAD = [
    "ddim --steps 0",
    "ddim --steps -3",
    "ddim --steps 1001",
    "ddim --steps 10.5",
    "ddim --steps ten",
    "ddim --steps",
    "ddim --eta 0",
    "ddim --eta -0.5",
    "ddim --eta 1.01",
    "ddim --eta nan",
    "ddim --eta inf",
    "ddim --eta x",
    "ddim --mode full,w_star=3",
    "ddim --steps 10 --mode full,w_star=8.3",
    "ddim --mode full,w_star=0",
    "ddim --mode full,w_star=-5",
    "ddim --mode full,w_star=nan",
    "ddim --mode full,w_star=inf",
    "ddim --mode full,w_star=1e308 --eta 1e-300",
    "ddim --shift 3",
    "ddim --noise-level 0.7",
    "ddim --step 10",
    "ddim extra",
    "ddim --plot figure.pdf",
    "dancegrpo --steps 0",
    "dancegrpo --steps 1001",
    "dancegrpo --shift 0",
    "dancegrpo --shift -1",
    "dancegrpo --shift nan",
    "dancegrpo --shift inf",
    "dancegrpo --shift 1e30",
    "dancegrpo --eta 0",
    "dancegrpo --eta -1",
    "dancegrpo --eta inf",
    "dancegrpo --eta 1e-320",
    "dancegrpo --mode full,w_star=5",
    "dancegrpo --noise-level 0.7",
    "flow-grpo --steps 0",
    "flow-grpo --steps 1001",
    "flow-grpo --shift 0",
    "flow-grpo --shift -3",
    "flow-grpo --shift nan",
    "flow-grpo --shift 1e30",
    "flow-grpo --noise-level 0",
    "flow-grpo --noise-level -0.7",
    "flow-grpo --noise-level nan",
    "flow-grpo --noise-level inf",
    "flow-grpo --eta 1",
    "flow-grpo --mode full,w_star=5",
    "ddim --mode fast",
    "ddim --mode full,speed=2",
    "ddim --mode full,unique_prompts=true",
    "ddim --mode full,zeta=trained",
    "ddim --mode match,weights=uniform",
    "ddim --trained 0",
    "ddim --mu 1",
    "ddim --scheduler no/such/scheduler_config.json",
    "dancegrpo --mode full,variance=native,w_star=5",
    "dancegrpo --scheduler scheduler_config.json",
    "flow-grpo --mode full,variance=paper",
    "flow-grpo --mu 1",
    "flow-grpo --shift 3 --scheduler scheduler_config.json",
    "flow-grpo-bagel --noise-level 0",
    "flow-grpo-bagel --scheduler scheduler_config.json",
    "flow-grpo-wan --steps 1",
    "flow-grpo-wan --shift 0",
    "flow-grpo-wan --noise-level 0.7",
    "flow-grpo-wan --shift 3 --scheduler scheduler_config.json",
    "sd3",
    "",
]


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("arguments", BAD)
def test_a_wrong_argument_is_one_line_and_exit_code_2(capsys: Capture, arguments: str, as_json: bool) -> None:
    code, out, err = run(capsys, *arguments.split(), *(["--json"] if as_json else []))
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1 and err.endswith("\n")
    assert err.startswith("pcpo weights") and ": error: " in err
    assert "Traceback" not in err and "usage" not in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("ddim --steps 0", "steps must be between 1 and 1000, got 0"),
        ("ddim --steps 10.5", "argument --steps: expected a whole number, got '10.5'"),
        ("ddim --eta 0", "eta must be a positive number, got 0.0"),
        ("ddim --eta 1.5", "eta is 1.5: PCPO needs a stochastic DDIM sampler, with eta in (0, 1]"),
        (
            "ddim --steps 10 --mode full,w_star=8.3",
            "w_star=8.3 has no real root on this schedule of 10 steps; the smallest that has is 8.319436",
        ),
        ("ddim --shift 3", "unrecognized arguments: --shift 3"),
        ("flow-grpo --shift -3", "shift must be a positive number, got -3.0"),
        ("flow-grpo --noise-level 0", "noise_level must be a positive number, got 0.0"),
        ("flow-grpo-wan --steps 1", "one step of Wan's draws no noise"),
        ("dancegrpo --shift 1e30", "sigmas do not fall from step to step"),
    ],
)
def test_a_wrong_argument_is_explained(capsys: Capture, arguments: str, text: str) -> None:
    assert text in run(capsys, *arguments.split())[2]


def test_the_smallest_w_star_that_the_error_names_is_accepted(capsys: Capture) -> None:
    err = run(capsys, "ddim", "--steps", "10", "--mode", "full,w_star=5")[2]
    named = err.split("the smallest that has is ")[1].split()[0]
    result = run_json(capsys, "ddim", "--steps", "10", "--mode", f"full,w_star={named}")
    assert result["resolved"]["w_star"] == float(named)


def test_1000_steps_come_with_a_note(capsys: Capture) -> None:
    code, out, err = run(capsys, "ddim", "--steps", "1000", "--json")
    assert code == 0
    assert json.loads(out)["resolved"]["timestep"][:3] == [999, 999, 998]
    assert (
        err.startswith("note: upstream cannot run 1000 steps")
        and "clipped from 1000 to 999" in err
        and err.count("\n") == 1
    )


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [("ddim", "1"), ("ddim", "1000"), ("dancegrpo", "12"), ("flow-grpo", "10"), ("flow-grpo-wan", "20")],
)
def test_plot_is_a_picture(capsys: Capture, tmp_path: Path, sampler: str, steps: str) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.image import imread

    path = tmp_path / "figure 2.png"
    code, out, err = run(capsys, sampler, "--steps", steps, "--json", "--plot", str(path))
    assert code == 0
    assert json.loads(out)["sampler"] == sampler
    assert f"wrote {path}" in err
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    image = imread(path)
    assert image.shape[0] > 400 and image.shape[1] > 600
    # Both series are drawn, each in its arm's colour.
    for arm in ("observe", "full"):
        matches = (abs(image[..., :3] - to_rgb(palette.look(arm).colour)) < 0.01).all(axis=-1)
        assert matches.sum() > 50


@pytest.mark.parametrize("where", ["missing/figure.png", "file/figure.png", "folder.png"])
def test_a_plot_that_cannot_be_written_is_one_line_and_exit_code_1(
    capsys: Capture, tmp_path: Path, where: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    code, out, err = run(capsys, "ddim", "--plot", str(tmp_path / where))
    assert code == 1
    assert out == ""
    assert err.startswith("pcpo weights: cannot write ") and where in err and err.count("\n") == 1


def test_a_plot_without_matplotlib_names_the_extra(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = run(capsys, "ddim", "--plot", str(tmp_path / "figure.png"))
    assert code == 1
    assert out == ""
    assert (
        err
        == 'pcpo weights: the figures need matplotlib; install it with: pip install "pcpo-overlay[report]"\n'
    )
    assert not (tmp_path / "figure.png").exists()


def test_from_a_shell() -> None:
    command = [sys.executable, "-m", "pcpo_overlay", "weights", "ddim", "--steps", "0"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (process.returncode, process.stdout, process.stderr.count("\n")) == (2, "", 1)
