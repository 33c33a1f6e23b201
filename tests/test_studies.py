"""The studies: what they run, their pages, and the figures that are redrawn from the data in the repository."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from synthetic_runs import learning_curve, write_quality, write_run

from benchmarks import ROOT, figures, learning
from benchmarks.measuring import ratio_figure, ratios, study
from benchmarks.measuring.ratio_figure import OnPolicy
from benchmarks.measuring.study_data import StudyData
from pcpo_overlay.config import parse
from pcpo_overlay.steps import read_scheduler
from pcpo_overlay.tools.miniature import sd_path
from pcpo_overlay.tools.report.build import save
from pcpo_overlay.tools.report.text import estimated
from pcpo_overlay.tools.runs.labels import label_of

STORED = sorted(
    path for path in figures.DATA.glob("*.json") if path not in (figures.ON_POLICY, figures.GUIDANCE)
)

# ------------------------------------------------------------------ learning


@pytest.mark.parametrize("name", study.STUDIES)
def test_a_study_compares_the_ladder_at_one_setting_and_two_or_three_arms_at_others(name: str) -> None:
    studied = study.STUDIES[name]
    ladder, smaller, *further = study.parts(studied)
    swept = [part for part in further if part.kind in (study.RATES, study.CLIPS)]
    count = 4 if "animals" in name else 5
    assert len(ladder.seeds) == 5 and ladder.modes == studied.modes and len(ladder.modes) == count
    assert smaller.modes == (studied.arms["baseline"], studied.arms["pcpo"]) and "full" in smaller.modes[1]
    assert smaller.modes[0].startswith("observe")
    assert set(ladder.settings) < set(smaller.settings)
    assert all(part.modes == (*smaller.modes, *studied.modes[4:]) for part in swept)
    assert all(part.seeds == ladder.seeds[:2] for part in swept)
    for sweep in studied.sweeps:
        of_sweep = [part for part in swept if part.kind == sweep.kind]
        assert len({sweep.value, *sweep.others}) == 3 and len(of_sweep) == 2
        for part, value in zip(of_sweep, sweep.others, strict=True):
            words = study.command(studied, part, Path("out"), 2)
            assert words[:3] == ["-m", "pcpo_overlay", "ab"]
            assert [w for w in words if w.startswith(f"{sweep.flag}=")] == [f"{sweep.flag}={value:g}"]
    assert any(word == f"{studied.rates.flag}={studied.rates.value:g}" for word in ladder.settings)


@pytest.mark.parametrize(
    ("name", "steps"),
    [("ddpo-jpeg", 10), ("ddpo-digit", 10), ("ddpo-digit-50", 50), ("dancegrpo-sd", 10)],
)
def test_no_two_arms_of_a_study_on_ddim_are_the_same(name: str, steps: int) -> None:
    studied = study.STUDIES[name]
    if studied.upstream == ("ddpo",):
        setting = f"--config.sample.num_steps={steps}"
        assert setting in studied.settings or (steps == 50 and "num_steps" not in str(studied.settings))
    scheduler = DDIMScheduler.from_pretrained(sd_path() / "scheduler")
    scheduler.set_timesteps(steps)
    resolved = [read_scheduler(scheduler, 1.0, parse(mode)) for mode in studied.modes]
    variances = dict(zip(studied.arms, (steps.variance for steps in resolved), strict=True))
    assert {variances["pcpo"], variances["other"]} == {"native", "paper"}


def test_the_page_of_a_study_has_its_tables_figures_and_sweep(tmp_path: Path) -> None:
    studied = study.STUDIES["ddpo-digit"]
    parts = study.parts(studied, (0, 1, 2))
    speeds = {"observe": 1.5, "log": 1.8, "match": 2.2, "full": 3.5, "full,variance=paper": 3.0}
    for part in parts:
        batches = 4 if part.name == study.SMALLER else 8
        for mode in part.modes:
            for seed in part.seeds:
                run = write_run(
                    tmp_path / "runs" / part.name / f"{mode}-{seed}",
                    mode,
                    seed=seed,
                    rewards=learning_curve(seed, speeds[mode]),
                    trainer={"sample": {"batch_size": 8, "num_batches_per_epoch": batches}},
                    # what `variance=auto` takes at the study's 10 steps
                    resolved={"variance": "paper" if "variance=paper" in mode else "native"},
                )
                slow = 5.0 if part.name == "rate-0.001" and mode == "observe" else 0.0
                write_quality(run, {0: -60.0, 20: -50.0 + seed - slow, 40: -40.0 + seed - 3 * slow})
    runs, where = tmp_path / "runs", [tmp_path / name for name in ("pages", "figures", "data")]
    page = learning.write(studied, parts, learning.runs_of(parts, runs), runs, *where)
    text = page.read_text()
    for heading in (
        "## ddpo, 64 samples an epoch",
        "### Epochs to reach an evaluated reward",
        "### Quality at matched reward",
        "### Gradients",
        "## ddpo, 32 samples an epoch",
        "## ddpo: mixed model of `full` against `baseline`",
        "## Other learning rates",
        "## Other clip ranges",
    ):
        assert heading in text, heading
    assert text.count("### Gradients") == 1  # the smaller batch is there for the mixed model
    assert str(tmp_path) not in text and "pcpo_ab/learning" in text
    assert "- `python -m benchmarks.learning ddpo-digit --seeds 0,1,2`, which runs:" in text
    sweep = text.split("## Other learning rates")[1].split("##")[0]
    assert sweep.count("baseline") == sweep.count("| full ") == sweep.count("| full,variance=paper") == 3
    slower, fastest = sweep.split("| 0.001", 1)
    assert "epochs to -56.00" in sweep and "never" in fastest and "never" not in slower
    for name in ("learning-ddpo-digit.png", "learning-ddpo-digit-quality.png"):
        assert (tmp_path / "figures" / name).stat().st_size > 10_000 and f"../figures/{name}" in text
    evaluated, training = (
        text.index(f"### Epochs to reach {kind} reward") for kind in ("an evaluated", "a training")
    )
    assert evaluated < training, "the evaluated reward compares arms whatever they draw with"
    assert "these rewards do not compare them" in text
    kept = StudyData.read(tmp_path / "data" / "ddpo-digit.json")
    assert (
        kept.labels == list(speeds)
        and kept.commands[0] == "python -m benchmarks.learning ddpo-digit --seeds 0,1,2"
    )
    assert "25 epochs" not in kept.source and set(kept.arms[3].configuration) >= {
        "mode",
        "weights",
        "variance",
    }
    redrawn = kept.figures()
    save(redrawn["-quality"], tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (
        tmp_path / "figures" / "learning-ddpo-digit-quality.png"
    ).read_bytes()


def test_a_page_of_the_ladder_alone_says_so(tmp_path: Path) -> None:
    studied = study.STUDIES["ddpo-jpeg"]
    ladder, *_ = study.parts(studied)
    for mode in ("observe", "full"):
        for seed in ladder.seeds:
            folder = tmp_path / "runs" / ladder.name / f"{mode}-{seed}"
            write_run(folder, mode, seed=seed, rewards=learning_curve(seed, 2.0))
    runs, where = tmp_path / "runs", [tmp_path / name for name in ("pages", "figures", "data")]
    page = learning.write(studied, [ladder], learning.runs_of([ladder], runs), runs, *where)
    text = page.read_text()
    assert "- `python -m benchmarks.learning ddpo-jpeg --parts ladder`, which runs:" in text
    assert "## Other" not in text and "### Gradients" in text


def test_a_sweep_without_the_ladder_runs_its_arms_at_the_ladders_setting(tmp_path: Path) -> None:
    studied = study.STUDIES["ddpo-digit"]
    middle, *others = made = study.parts(studied, kinds=[study.RATES])
    ladder = study.parts(studied)[0]
    assert middle.settings == ladder.settings and middle.seeds == (0, 1) and middle.modes == studied.trio
    assert [part.kind for part in others] == [study.RATES] * 2
    for part in made:
        for mode in part.modes:
            for seed in part.seeds:
                folder = tmp_path / "runs" / part.name / f"{mode}-{seed}"
                run = write_run(folder, mode, seed=seed, rewards=learning_curve(seed, 2.0))
                write_quality(run, {0: -60.0, 20: -50.0 + seed, 40: -40.0 + seed})
    runs, where = tmp_path / "runs", [tmp_path / name for name in ("pages", "figures", "data")]
    page = learning.write(studied, made, learning.runs_of(made, runs), runs, *where)
    text = page.read_text()
    assert page.name == "ddpo-digit-rates.md" and not (tmp_path / "figures").exists()
    assert "- `python -m benchmarks.learning ddpo-digit --parts rates`, which runs:" in text
    sweep = text.split("## Other learning rates")[1].split("##")[0]
    assert sweep.count("| baseline") == 3 and "## Other clip ranges" not in text


def test_wrong_arguments_of_learning(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, says in (
        (
            ["--parts", "rates,smaller-batch"],
            "--parts has smaller-batch without ladder, which it is held against",
        ),
        (["--parts", "ladder,clip-ranges"], "--parts: ddpo-jpeg has no clip-ranges"),
        (
            ["--parts", "ladder,lost"],
            "no part lost; there are ladder, smaller-batch, rates, clip-ranges, powers",
        ),
        (["--parts", "powers,rates"], "--parts: ddpo-jpeg has no powers"),
        (["--seeds", "0,one"], "--seeds: expected a whole number, 0 or more, got 'one'"),
        (["--jobs", "0"], "--jobs: expected a whole number, 1 or more, got '0'"),
    ):
        with pytest.raises(SystemExit) as stop:
            learning.main(["ddpo-jpeg", *arguments])
        assert stop.value.code == 2
        assert says in capsys.readouterr().err


def test_rivals_are_held_against_the_ladders_own_runs_on_a_page_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studied, runs = study.STUDIES["flow-digit"], tmp_path / "runs"
    parts = study.parts(studied, (0, 1), (study.LADDER, study.POWERS, study.GUARD))
    ladder, powers, guard = parts
    for part in (powers, guard):
        assert part.settings == ladder.settings and not set(part.modes) & set(ladder.modes) - {
            "observe,unique_prompts=true"
        }
    words = study.command(studied, guard, Path("out"), 1)
    assert words[3:6] == ["flow_grpo", "--trainer", "sd3_GRPO_Guard"]
    assert study.command(studied, powers, Path("out"), 1)[3:5] == ["flow_grpo", "--mode"]
    for n, (part, mode) in enumerate((held, mode) for held in parts for mode in held.modes):
        for seed in (0, 1, 2):  # of the third there are runs, and it is not asked for
            run = write_run(
                runs / part.name / f"{mode}-{seed}",
                mode,
                seed=seed,
                rewards=learning_curve(seed, 2.0 + n),
                upstream="flow_grpo_sd3_guard" if part is guard else "flow_grpo",
                trainer={"sample": {"train_batch_size": 8, "num_batches_per_epoch": 2, "num_steps": 10}},
                resolved={},
                arm="GRPO-Guard" if part is guard else None,
            )
            write_quality(run, {0: -60.0, 20: -50.0 + n + seed, 40: -40.0 + n + seed})
    argv = ["flow-digit", "--parts", "ladder,powers,guard", "--seeds", "0,1", "--only-pages"]
    argv += [
        "--out",
        str(runs),
        "--pages",
        str(tmp_path),
        "--figures",
        str(tmp_path),
        "--data",
        str(tmp_path),
    ]
    assert learning.main(argv) == 0
    assert capsys.readouterr().out.split() == [
        str(tmp_path / f"flow-digit{end}.md") for end in ("", "-powers", "-guard")
    ]
    arms = {
        "": ["baseline", "log", "match", "full", "full,weights=uniform"],
        "-powers": [
            *("baseline", "match", "full"),
            *(f"full,weights=power,power={power}" for power in ("-0.5", "-1", "0.5")),
            "full,weights=uniform",
        ],
        "-guard": ["baseline", "full", "full,weights=uniform", "GRPO-Guard"],
    }
    for end, names in arms.items():
        kept = StudyData.read(tmp_path / f"flow-digit{end}.json")
        assert sorted(kept.shown().names) == sorted(names) and kept.shown().names[kept.baseline] == "baseline"
        assert {arm.seeds for arm in kept.arms} == {2} and set(kept.figures()) == {"", "-quality"}
        text = (tmp_path / f"flow-digit{end}.md").read_text()
        assert "Quality at matched reward" in text and f"learning-flow-digit{end}.png" in text
        parts_told = "" if not end else f",{end[1:]}"
        assert f"flow-digit --seeds 0,1 --parts ladder{parts_told}`, which runs:" in text

    missing = next((runs / "guard").glob("*-1"))
    missing.rename(tmp_path / "elsewhere")
    assert learning.main(argv) == 1
    assert "has not all runs of guard" in capsys.readouterr().err


def test_what_is_evaluated_is_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of another seed, which was stopped, has nothing to evaluate: that is no failure of these seeds'."""
    (ladder,) = study.parts(study.STUDIES["ddpo-digit"], (0, 1), (study.LADDER,))
    folder = tmp_path / study.LADDER
    for mode in ladder.modes:
        for seed in ladder.seeds:
            write_run(folder / f"{mode}-{seed}", mode, seed=seed, rewards=learning_curve(seed, 2.0))
    write_run(folder / "full-2", "full", seed=2, rewards=learning_curve(2, 2.0), status="stopped")
    asked: list[Path] = []

    def run(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        if "evaluate" in words:
            asked.extend(map(Path, words[words.index("evaluate") + 1 :]))
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(subprocess, "run", run)
    argv = ["ddpo-digit", "--parts", study.LADDER, "--seeds", "0,1", "--out", str(tmp_path), "--jobs", "2"]
    places = [str(tmp_path / name) for name in ("pages", "figures", "data")]
    assert learning.main([*argv, "--pages", places[0], "--figures", places[1], "--data", places[2]]) == 0
    assert {path.name for path in asked} == {f"{mode}-{seed}" for mode in ladder.modes for seed in (0, 1)}


def test_a_study_whose_part_failed_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["ddpo-jpeg", "--vendor", str(tmp_path), "--out", str(tmp_path / "out"), "--pages", str(tmp_path)]
    assert learning.main(argv) == 1
    assert "type the same command to go on" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.md"))


# ------------------------------------------------------------------- figures


def test_every_figure_is_redrawn_from_data_in_less_than_a_minute(tmp_path: Path) -> None:
    started = time.process_time()
    assert figures.main(["--out", str(tmp_path)]) == 0
    assert time.process_time() - started < 60
    drawn = {path.name for path in tmp_path.iterdir()}
    pictures = ("miniature-", "study-", "guidance-")  # of samples and of pages, which their own commands take
    kept = {path.name for path in figures.FIGURES.glob("*.png") if not path.name.startswith(pictures)}
    assert drawn == kept, "a figure of the repository that no data is behind, or one that is not kept"
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())


def test_every_figure_is_shown_somewhere() -> None:
    pages = [ROOT / "README.md", *ROOT.glob("benchmarks/**/*.md"), *ROOT.glob("docs/**/*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    assert [p.name for p in figures.FIGURES.glob("*.png") if f"figures/{p.name}" not in text] == []


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_the_data_of_a_study_is_what_its_page_says(path: Path) -> None:
    data = StudyData.read(path)
    page = (ROOT / "benchmarks" / "learning" / f"{data.study}.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")
    ]
    names = dict(zip(data.labels, data.shown().names, strict=True))
    for level in data.quality.levels:
        assert [arm.label for arm in level.arms] == data.labels
        for arm in level.arms:
            (row,) = [r for r in rows if r[:2] == [f"{level.reward:#.4g}", names[arm.label]] and "of" in r[2]]
            assert row[3] == estimated(arm.epochs)
    assert all(f"learning-{data.study}{end}.png" in page for end in data.figures())
    evaluated, training = (
        page.index(f"### Epochs to reach {kind} reward") for kind in ("an evaluated", "a training")
    )
    assert evaluated < training


def test_a_stored_arm_is_named_by_what_full_takes_by_itself() -> None:
    for study_name, told in (
        ("ddpo-digit", "full,variance=paper"),
        ("ddpo-digit-50", "full,variance=native"),
    ):
        data = StudyData.read(figures.DATA / f"{study_name}.json")
        by_label = dict(zip(data.labels, data.arms, strict=True))
        assert list(by_label)[3:] == ["full", told]
        assert by_label[told].configuration["variance"] == told.partition("=")[2]
        assert by_label["full"].configuration["variance"] == data.auto_variance
        for label, arm in by_label.items():
            config = parse(label)
            assert arm.configuration["mode"] == config.mode and arm.configuration["weights"] == config.weights
    assert label_of(parse("observe").on("ddpo"), "ddpo") == "observe"


def test_wrong_arguments_of_figures(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        figures.main(["lost"])
    assert stop.value.code == 2
    assert "no figure lost; there are weights, dancegrpo-flux" in capsys.readouterr().err


def test_the_numbers_before_the_first_update_are_kept(tmp_path: Path) -> None:
    x = torch.tensor([1e-3, 0.0], dtype=torch.float64)
    off = ratios.Ratios(
        torch.tensor([901.0, 1.0]), x, torch.exp(x), x > 1e-4, torch.zeros(2, dtype=torch.bool)
    )
    kept = ratio_figure.of({ratios.SETTINGS[0]: {"observe": off}}, "CPU", "a test")
    kept.write(tmp_path / "on-policy.json")
    assert OnPolicy.read(tmp_path / "on-policy.json") == kept
    assert kept.machines[0].measured[0].outside == 0.5
    again = ratio_figure.of({ratios.SETTINGS[1]: {"observe": off}}, "CPU", "a test")
    elsewhere = ratio_figure.of({ratios.SETTINGS[0]: {"observe": off}}, "H200", "a test")
    both = elsewhere.beside(kept)  # a run on a GPU keeps what a CPU measured, and the other way round
    assert [machine.name for machine in both.machines] == ["CPU", "H200"]
    assert again.beside(both).machines == [again.machines[0], elsewhere.machines[0]]
