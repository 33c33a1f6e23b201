"""``pcpo report`` on scored folders: what stands beside what, and the numbers by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from scored_folders import pictured, told

from pcpo_overlay.__main__ import main
from pcpo_overlay.tools.report import paper_tables

Capture = pytest.CaptureFixture[str]
PROMPTS = ("an ant", "a bee", "a cat")
OWN = dict(zip(PROMPTS, (0.0, 3.0, -1.0), strict=True))


def arm(path: Path, checkpoint: str | None, **metrics: Any) -> Path:
    """A scored folder: of each metric a number, the prompts' own being a little apart in a known way."""
    pictured(path, torch.zeros(12, 3, 8, 8, dtype=torch.uint8), PROMPTS, checkpoint=checkpoint)
    by_metric = {
        name.replace("_", "-").replace("hpsv2-1", "hpsv2.1"): {
            "": value,
            **{t: value + OWN[t] for t in PROMPTS},
        }
        for name, value in metrics.items()
    }
    told(path, by_metric)
    return path


def report(tmp_path: Path, *words: object) -> dict[str, Any]:
    assert main(["report", *map(str, words), "--out", str(tmp_path / "report")]) == 0
    held: dict[str, Any] = json.loads((tmp_path / "report" / "report.json").read_text())
    return held


def test_folders_as_they_are(tmp_path: Path, capsys: Capture) -> None:
    base = arm(tmp_path / "base", None, fid=0.0, aesthetic=5.0)
    first = arm(tmp_path / "baseline", "a", fid=30.0, aesthetic=6.0)
    second = arm(tmp_path / "full", "b", fid=20.0, aesthetic=6.5)
    held = report(tmp_path, base, first, second)
    assert held["metrics"] == ["fid", "aesthetic"] and held["notes"] == []
    assert held["folders"][str(second)] == pytest.approx(
        {"fid": 20, "fid_prompt": 20 + 2 / 3, "aesthetic": 6.5}
    )
    (model,) = held["mixed_models"]
    assert (model["arm"], model["baseline"], model["prompts"]) == ("full", "baseline", 3)
    (effect,) = model["metrics"]["fid"]["effects"]
    assert effect["coefficient"] == pytest.approx(-10)
    text = (tmp_path / "report" / "report.md").read_text()
    assert (
        "| base (base model) |       12 |" in text
        and "As drawn, whatever their rewards: 2 runs, 3 prompts" in text
    )
    assert "report: " in capsys.readouterr().out
    report(tmp_path, base, first, second)  # an earlier one is replaced


def noise(text: str, n: int) -> float:
    return 0.05 * ((3 * len(text) + 5 * n) % 4)


def test_at_the_same_reward_by_hand(tmp_path: Path) -> None:
    """The reward rises by 1 in 10 epochs, or in 5; FID by 2 a reward, or by 1."""
    base = arm(tmp_path / "base", None, fid=0.0, aesthetic=5.0, lpips=0.6)
    words: list[object] = [base]
    for name, speed, drift in (("baseline", 0.1, 2.0), ("full", 0.2, 1.0)):
        for seed in (0, 1):
            folders = []
            for epoch in (5, 10):
                gain = speed * epoch * (1 + 0.1 * seed)
                path = tmp_path / f"{name}-{seed}-{epoch}"
                pictured(path, torch.zeros(12, 3, 8, 8, dtype=torch.uint8), PROMPTS, checkpoint=path.name)
                values = {
                    "fid": {t: drift * gain + OWN[t] + noise(t, seed + epoch) for t in PROMPTS},
                    "aesthetic": {t: 5 + gain + OWN[t] for t in PROMPTS},
                    "lpips": {t: 0.6 - 0.1 * gain + noise(t, epoch) for t in PROMPTS},
                }
                of_all = {"fid": drift * gain, "aesthetic": 5 + gain, "lpips": 0.6 - 0.1 * gain}
                told(path, {metric: {"": of_all[metric], **held} for metric, held in values.items()})
                folders.append(f"{path}@{epoch}")
            words += ["--arm", f"{name}:256={','.join(folders)}"]
    held = report(tmp_path, *words, "--reward", "aesthetic")
    levels = held["quality"]["levels"]
    assert [level["reward"] for level in levels] == pytest.approx([5.2, 5.4, 5.6, 5.8])
    baseline, full = levels[1]["arms"]
    assert baseline["epochs"]["mean"] == pytest.approx((4 + 4 / 1.1) / 2)
    assert full["epochs"]["mean"] == pytest.approx((2 + 2 / 1.1) / 2)
    assert (baseline["values"]["fid"]["mean"], full["values"]["fid"]["mean"]) == pytest.approx((0.8, 0.4))
    assert full["difference"]["values"]["fid"]["mean"] == pytest.approx(-0.4)
    assert held["quality"]["metrics"] == ["fid", "fid_prompt", "lpips"]
    (model,) = held["mixed_models"]
    assert (model["runs"], model["prompts"], model["batch_sizes"]) == (4, 3, [256])
    assert model["reward"] == pytest.approx(5.8)
    assert model["metrics"]["fid"]["effects"][0]["coefficient"] == pytest.approx(-0.8, abs=0.1)
    text = (tmp_path / "report" / "report.md").read_text()
    assert "## Quality at matched reward\n" in text and "LPIPS diversity" in text and "(quality.png)" in text
    assert "4 images a prompt and policy (DDIMScheduler, steps 5), 3 policies a run" in text
    assert (tmp_path / "report" / "quality.png").is_file()


def test_two_batch_sizes_as_in_table_3(tmp_path: Path) -> None:
    words: list[object] = []
    for a, name in enumerate(("baseline", "full")):
        for b, size in enumerate((256, 512)):
            path = tmp_path / f"{name}-{size}"
            pictured(path, torch.zeros(12, 3, 8, 8, dtype=torch.uint8), PROMPTS, checkpoint=path.name)
            values = {t: 30 - 8 * a - 13 * b + 4 * a * b + OWN[t] + noise(t, a + 2 * b) for t in PROMPTS}
            told(path, {"fid": {"": 1.0, **values}})
            words += ["--arm", f"{name}:{size}={path}"]
    (model,) = report(tmp_path, *words)["mixed_models"]
    found = [effect["coefficient"] for effect in model["metrics"]["fid"]["effects"]]
    assert found == pytest.approx([-8, -13, 4], abs=0.3)
    text = (tmp_path / "report" / "report.md").read_text()
    assert "4 runs, 3 prompts, 256 (0) and 512 (1) samples an epoch" in text


def test_folders_of_one_name_are_two_arms(tmp_path: Path) -> None:
    folders = [arm(tmp_path / parent / "full", parent, fid=n) for n, parent in enumerate(("a", "b"), 1)]
    (model,) = report(tmp_path, *folders)["mixed_models"]
    assert (model["baseline"], model["arm"]) == tuple(map(str, folders))


def test_numbers_that_do_not_compare_are_left_out(tmp_path: Path, capsys: Capture) -> None:
    one = arm(tmp_path / "one", "a", fid=1.0, aesthetic=5.0)
    other = arm(tmp_path / "other", "b", aesthetic=5.5)
    told(other, {"fid": {"": 2.0, "an ant": 1.0}, "aesthetic": {"": 5.5, **dict.fromkeys(PROMPTS, 5.5)}})
    held = report(tmp_path, one, other)
    assert held["metrics"] == ["aesthetic"]
    assert (
        "FID is left out: `one` and `other` have it of other pictures; score them alike" in held["notes"][0]
    )
    assert "note: FID is left out" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["2", "5", "9"])
def test_the_papers_tables(tmp_path: Path, name: str) -> None:
    base = arm(tmp_path / "base", None, fid=0.0, hpsv2=0.26, hpsv2_1=0.25, aesthetic=5.0)
    tuned = arm(tmp_path / "tuned", "a", fid=12.345, hpsv2=0.28, hpsv2_1=0.3, aesthetic=6.5)
    report(tmp_path, base, tuned, "--paper-table", name)
    text = (tmp_path / "report" / "report.md").read_text()
    told = text[text.index(f"## Table {name} of the paper") :]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in told.splitlines()
        if line.startswith("| ")
    ]
    yours = [row for row in rows if row[0] == "yours"]
    papers = [row for row in rows if row[0] == "the paper's"]
    assert yours[1][1:4] == ["noise", "tuned", {"2": "12.35", "5": "0.300", "9": "0.280"}[name]]
    assert "-" in yours[1], "what was not scored is no number"
    expected = {
        "2": ["(a) DDPO, 512 a batch", "PCPO", "22.06", "391.30", "25.65", "0.6525"],
        "5": ["(b) MJHQ, FLUX", "PCPO, epoch 120", "0.350", "6.56", "0.398", "22.28", "1.32"],
        "9": ["SSPO", "gains", "+0.034", "+0.57", "+1.37", "+0.86"],
    }[name]
    assert expected in [row[1:] for row in papers]
    assert len(papers) == {"2": 8, "5": 12, "9": 12}[name]
    if name == "9":
        assert ["yours", "noise", "gains of tuned", "+0.020", "+1.50", "-", "-"] in yours
    assert "**Not the paper's protocol:** yours are of 12 pictures of 3 prompts" in told
    assert "A dash: not scored; `pcpo score ... --metrics " in told


def test_the_papers_own_protocol_has_no_warning() -> None:
    row = paper_tables.Row("", "base", {"hpsv2": 0.26}, True, 2048, 2048)
    (text,) = paper_tables.render("9", [row]).values()
    assert "Not the paper's protocol" not in text


def test_the_tables_are_the_papers() -> None:
    """The gains that the paper prints are those of the rows that are kept; LPO's PickScore too, to its digits."""
    (text,) = paper_tables.render("9", []).values()
    for gains in (
        "+0.010",
        "+0.71",
        "+2.33",
        "+0.90",
        "+0.005",
        "+0.48",
        "+0.82",
        "+0.20",
        "+0.011",
        "+1.13",
        "+0.58",
    ):
        assert gains in text


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["one", "runs"], 2, "runs is no scored folder"),
        (["one", "--window", "3"], 2, "--window is for run folders"),
        (["one", "--thresholds", "1"], 2, "say which metric with --reward"),
        (
            ["one", "--reward", "is"],
            2,
            "--reward 'is' is none that every folder has alike; there are fid, aesthetic",
        ),
        (["--arm", "a=one", "--reward", "fid"], 2, "say how long one was trained, with --arm NAME=one@EPOCH"),
        (["bare"], 1, "bare is not scored yet; `pcpo score bare --metrics ...` does it"),
        (["broken"], 1, "sets.jsonl is damaged; move it away and score the folder again"),
        (["--arm", "a=nowhere"], 1, "nowhere is no folder of `pcpo sample`"),
        ([], 2, "name run folders, or scored ones"),
    ],
)
def test_refuses_in_one_line(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    arm(Path("one"), "a", fid=1.0, aesthetic=5.0)
    arm(Path("bare"), "a", fid=1.0)
    Path("bare/sets.jsonl").unlink()
    arm(Path("broken"), "a", fid=1.0)
    Path("broken/sets.jsonl").write_text('{"metric": "fid"}\n')
    Path("runs").mkdir()
    assert main(["report", *words, "--out", "out"]) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and told in err, err
    assert not Path("out").exists()


@pytest.mark.parametrize("words", [["--arm", "a"], ["--paper-table", "3"]])
def test_wrong_arguments(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["report", *words])
    assert stopped.value.code == 2
