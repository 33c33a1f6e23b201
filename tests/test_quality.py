"""Quality at matched reward and the mixed model, on invented evaluations whose answers are known."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic_runs import write_quality, write_run

from pcpo_overlay.tools.report import build as report
from pcpo_overlay.tools.report import mixed_model, quality
from pcpo_overlay.tools.report.build import build
from pcpo_overlay.tools.report.compare import Comparison, Document, compare
from pcpo_overlay.tools.report.mixed_model import CannotFit, fit
from pcpo_overlay.tools.runs import policies
from pcpo_overlay.tools.runs.files import RunError
from pcpo_overlay.tools.runs.run import load


def compared(*folders: Path, **options: Any) -> Document:
    document = compare([load(f) for f in folders], **options)
    plain = document.as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    return document


def linear(prompt: str, reward: float) -> dict[str, float]:
    return {"accuracy": 1 - reward / 100, "diversity": 10 - reward, "frechet": 2 * reward}


def steeper(prompt: str, reward: float) -> dict[str, float]:
    return {"accuracy": 1.0, "diversity": 10 - 2 * reward, "frechet": reward}


def run_of(path: Path, mode: str, seed: int, rewards: dict[int, float], **options: Any) -> Path:
    trainer = options.pop("trainer", None)
    return write_quality(
        write_run(path, mode, seed=seed, rewards=[0.0, 1.0], trainer=trainer), rewards, **options
    )


# --- matched reward ---------------------------------------------------------------------------------------------


def test_the_policy_at_a_reward_lies_between_its_checkpoints(tmp_path: Path) -> None:
    way = policies.points(
        load(run_of(tmp_path / "a", "observe", 0, {0: 1.0, 5: 0.5, 9: 2.5, 13: 2.0}, quality=linear))
    )
    point = policies.at_reward(way, 1.5)
    assert point is not None and point.epoch == pytest.approx(7)
    assert point.reward == pytest.approx(1.5)
    assert point.values["diversity"] == pytest.approx(8.5)
    assert point.values["frechet_prompt"] == pytest.approx(3)
    assert point.values["frechet"] == pytest.approx(0.9), "all prompts' own distance, not the mean of theirs"
    assert point.prompts["a one"] == pytest.approx(
        {"reward": 1.5, "accuracy": 0.985, "diversity": 8.5, "frechet": 3}
    )
    at = policies.at_reward(way, 2.5)
    assert at is way[2]
    assert policies.at_reward(way, 2.6) is None
    assert policies.at_reward(way, 0.9) is None, "the base model is past it, and nothing was matched"


def test_arms_are_compared_at_the_same_reward_by_hand(tmp_path: Path) -> None:
    ends = {0: 2.0, 1: 3.0, 2: 4.0}
    folders = [
        run_of(tmp_path / f"{mode}{seed}", mode, seed, {0: 0.0, 10: end * speed}, quality=made)
        for mode, speed, made in (("observe", 1.0, linear), ("full", 2.0, steeper))
        for seed, end in ends.items()
    ]
    comparison = compared(*folders).comparisons[0]
    held = comparison.quality
    assert held is not None and held.last.base is not None
    # between the base's 0 and the lowest of the runs' best, 2
    assert [level.reward for level in held.levels] == pytest.approx([0.4, 0.8, 1.2, 1.6])
    observe, full = held.levels[1].arms
    assert observe.runs == full.runs == 3
    epochs = [10 * 0.8 / end for end in ends.values()]
    assert observe.epochs.mean == pytest.approx(sum(epochs) / 3)
    assert (observe.epochs.low, observe.epochs.high) == pytest.approx((min(epochs), max(epochs)))
    assert full.epochs.mean == pytest.approx(sum(epochs) / 6)
    assert observe.values["diversity"].mean == pytest.approx(9.2) and full.values[
        "diversity"
    ].mean == pytest.approx(8.4)
    assert full.difference is not None and full.difference.runs == 3
    assert full.difference.values["diversity"].low == pytest.approx(-0.8)
    assert full.difference.values["frechet_prompt"].mean == pytest.approx(0.8 - 1.6)
    assert full.difference.values["accuracy"].mean == pytest.approx(0.008)
    assert observe.difference is None

    assert held.last.epoch == 10
    assert held.last.base["diversity"] == 10 and held.last.base["frechet"] == 0
    assert held.last.arms[1].reward.mean == pytest.approx(6)
    tables = comparison.tables()
    assert "| 0.8000 | baseline | 3 of 3 |" in tables["Quality at matched reward"]
    assert "50 images a prompt and policy (steps 5, noise level 0.7" in tables["Quality at matched reward"]
    assert "-0.8" in tables["Quality at matched reward, difference to the baseline"]
    assert "(base model)" in tables["Quality at the last checkpoint"]


def test_two_seeds_have_no_intervals_and_a_level_may_be_out_of_reach(tmp_path: Path) -> None:
    folders = [
        run_of(tmp_path / f"{mode}{seed}", mode, seed, {0: 0.0, 4: 1.0 + seed})
        for mode in ("observe", "full")
        for seed in (0, 1)
    ]
    comparison = compared(*folders, thresholds=[0.5, 1.5]).comparisons[0]
    assert comparison.quality is not None
    low, high = comparison.quality.levels
    assert [arm.runs for arm in low.arms] == [2, 2] and [arm.runs for arm in high.arms] == [1, 1]
    assert low.arms[0].values["diversity"].low is None
    tables = comparison.tables()
    assert "Intervals take 3 seeds" in tables["Quality at matched reward"]
    assert "they take 3 seeds that both" in tables["Quality at matched reward, difference to the baseline"]


def test_no_level_where_a_run_never_rose(tmp_path: Path) -> None:
    folders = [
        run_of(tmp_path / "a", "observe", 0, {0: 1.0, 4: 0.9}),
        run_of(tmp_path / "b", "full", 0, {0: 1.0, 4: 2.0}),
    ]
    document = compared(*folders)
    held = document.comparisons[0].quality
    assert held is not None and held.levels == []
    assert document.comparisons[0].tables()["Quality at matched reward"] == quality.NO_MATCH
    (model,) = document.mixed_models
    assert model.metrics == {} and "no level of reward" in model.notes[0]
    assert model.notes[0].endswith(f"never above the model it began as: `{tmp_path.name}/a`")


def test_runs_evaluated_differently_are_not_compared(tmp_path: Path) -> None:
    a = run_of(tmp_path / "a", "observe", 0, {0: 0.0, 4: 1.0})
    b = run_of(tmp_path / "b", "full", 0, {0: 0.0, 4: 1.0}, digest="e" * 64, samples=20)
    document = compared(a, b)
    (comparison,) = document.comparisons
    assert comparison.quality is None and document.mixed_models == []
    assert "`a`: 50 samples, seed 0, steps 5, noise_level 0.7; `b`: 20 samples" in comparison.warnings[-1]
    assert "Quality at matched reward" not in comparison.tables()


def test_runs_that_were_not_evaluated_are_named(tmp_path: Path) -> None:
    a = run_of(tmp_path / "a", "observe", 0, {0: 0.0, 4: 1.0})
    b = write_run(tmp_path / "b", "full", rewards=[0.0, 1.0])
    (comparison,) = compared(a, b).comparisons
    assert any("not evaluated, and so not in the tables on quality: `b`" in w for w in comparison.warnings)
    assert "| 0 of 1 |" in comparison.tables()["Quality at matched reward"]


def test_without_evaluations_nothing_is_said_of_quality(tmp_path: Path) -> None:
    document = compared(write_run(tmp_path / "a", rewards=[0.0, 1.0]))
    assert document.comparisons[0].quality is None and document.mixed_models == []
    assert "Fréchet distance" not in document.definitions


def test_of_a_checkpoint_evaluated_twice_the_last_counts(tmp_path: Path) -> None:
    run = run_of(tmp_path / "a", "observe", 0, {0: 0.0, 4: 1.0})
    again = run_of(tmp_path / "b", "observe", 0, {4: 3.0})
    with (run / "evaluation.jsonl").open("a") as file:
        file.write((again / "evaluation.jsonl").read_text())
    held = compared(run).comparisons[0].quality
    assert held is not None and held.last.epoch == 4 and held.last.arms[0].reward.mean == 3
    assert held.rewards[0].epoch == [0, 4] and held.ways[0][0].epoch == [0, 4, 4]


def test_a_damaged_evaluation_is_named(tmp_path: Path) -> None:
    run = run_of(tmp_path / "a", "observe", 0, {0: 0.0, 4: 1.0})
    whole = (run / "evaluation.jsonl").read_text()
    (run / "evaluation.jsonl").write_text(whole[:-20])
    with pytest.raises(RunError, match=r"the last line of evaluation\.jsonl is damaged"):
        load(run)
    (run / "evaluation.jsonl").write_text(whole.replace('"accuracy": 0.', '"accuracy": null, "x": 0.'))
    with pytest.raises(RunError, match=r"line 1 of evaluation\.jsonl is damaged"):
        load(run)


# --- the mixed model --------------------------------------------------------------------------------------------

#: Prompts' own levels, and what is left in each of the four cells: a balanced design of 5 prompts.
PROMPTS = (3.0, -1.0, 4.0, 0.5, 2.0)
NOISE = (
    (0.10, -0.20, 0.05, 0.30, -0.15),
    (-0.25, 0.15, 0.20, -0.05, 0.10),
    (0.05, 0.25, -0.30, 0.10, 0.00),
    (0.20, -0.10, 0.15, -0.20, 0.05),
)
CELLS = ((0, 0), (1, 0), (0, 1), (1, 1))


def observed(rows: Iterable[tuple[str, int, int, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["prompt", "algorithm", "batch", "value"])


def balanced(scale: float = 1.0, cells: tuple[tuple[int, int], ...] = CELLS) -> pd.DataFrame:
    """Algorithm worth -2, batch size -1, interaction 0.5, all but the noise."""
    return observed(
        (f"p{n}", a, b, scale * (level - 2 * a - b + 0.5 * a * b + noise[n]))
        for (a, b), noise in zip(CELLS, NOISE, strict=True)
        if (a, b) in cells
        for n, level in enumerate(PROMPTS)
    )


def means(observations: pd.DataFrame) -> pd.Series:
    return observations.groupby(["algorithm", "batch"])["value"].mean()


def residual_variance(observations: pd.DataFrame) -> float:
    """The mean square of what prompts and cells leave, which REML's estimate is in a balanced design."""
    value = observations["value"]
    by_cell = value.groupby([observations["algorithm"], observations["batch"]]).transform("mean")
    by_prompt = value.groupby(observations["prompt"]).transform("mean")
    left = value - by_cell - by_prompt + value.mean()
    freedom = (observations["prompt"].nunique() - 1) * (len(means(observations)) - 1)
    return float((left**2).sum() / freedom)


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_a_balanced_design_has_the_differences_of_cell_means(scale: float) -> None:
    observations = balanced(scale)
    m = means(observations)
    result = fit(observations)
    algorithm, batch, interaction = result.effects
    assert [e.effect for e in result.effects] == ["algorithm", "batch size", "interaction"]
    assert algorithm.coefficient == pytest.approx(m[1, 0] - m[0, 0], rel=1e-6)
    assert batch.coefficient == pytest.approx(m[0, 1] - m[0, 0], rel=1e-6)
    assert interaction.coefficient == pytest.approx(m[1, 1] - m[1, 0] - m[0, 1] + m[0, 0], rel=1e-6)
    # within a prompt: the difference of two cells' means of 5, and of four
    variance = residual_variance(observations)
    assert result.residual_variance == pytest.approx(variance, rel=1e-3)
    assert algorithm.std_error == pytest.approx((2 * variance / 5) ** 0.5, rel=1e-3)
    assert batch.std_error == pytest.approx((2 * variance / 5) ** 0.5, rel=1e-3)
    assert interaction.std_error == pytest.approx((4 * variance / 5) ** 0.5, rel=1e-3)
    assert algorithm.p_value is not None and interaction.p_value is not None
    assert algorithm.p_value < 1e-6 < interaction.p_value
    assert result.notes == []


def test_it_is_what_statsmodels_fits_of_the_formula() -> None:
    """Unbalanced, so that nothing but the likelihood decides; as it is, not scaled for the optimizer."""
    from statsmodels.formula.api import mixedlm

    frame = balanced()[:-2]
    told = mixedlm("value ~ algorithm * batch", frame, groups=frame["prompt"]).fit(reml=True)
    for effect, name in zip(fit(frame).effects, ("algorithm", "batch", "algorithm:batch"), strict=True):
        assert effect.coefficient == pytest.approx(told.params[name], rel=1e-4)
        assert effect.std_error == pytest.approx(told.bse[name], rel=1e-3)
        assert effect.p_value == pytest.approx(told.pvalues[name], rel=1e-2, abs=1e-12)


@pytest.mark.parametrize("batch", [0, 1])
def test_with_one_batch_size_the_algorithm_alone(batch: int) -> None:
    observations = balanced(cells=((0, batch), (1, batch)))
    m = means(observations)
    (algorithm,) = fit(observations).effects
    assert algorithm.coefficient == pytest.approx(m[1, batch] - m[0, batch], rel=1e-6)
    assert algorithm.std_error == pytest.approx((2 * residual_variance(observations) / 5) ** 0.5, rel=1e-3)


def test_a_singular_fit_is_told() -> None:
    """Prompts that differ by less than chance would have it: their intercepts' variance is estimated as 0."""
    observations = observed(
        (f"p{n}", a, 0, 2.0 * a + (1 if (n + r) % 2 else -1) * 0.5)
        for n in range(6)
        for a in (0, 1)
        for r in range(2)
    )
    result = fit(observations)
    assert result.effects[0].coefficient == pytest.approx(2)
    assert any("singular" in note for note in result.notes)
    model = mixed_model.MixedModel("ddpo", "observe", "full", [64], 4, 1.0, 6, {"diversity": result}, [])
    assert "singular" in mixed_model.model_table(model)


def test_a_perfect_fit_is_told() -> None:
    result = fit(observed((f"p{n}", a, 0, n + 2.0 * a) for n in range(5) for a in (0, 1)))
    assert result.effects[0].coefficient == pytest.approx(2)
    assert any("errors and p mean nothing" in note for note in result.notes)


def test_a_fit_that_fails_is_told() -> None:
    with pytest.raises(CannotFit, match="the fit failed"):
        fit(observed((f"p{n}", a, 0, 2.0 * a) for n in range(5) for a in (0, 1)))


@pytest.mark.parametrize(
    ("observations", "told"),
    [
        (observed([]), "an arm has no run"),
        (balanced(cells=((0, 0),)), "an arm has no run"),
        (balanced(cells=((0, 0), (1, 0), (1, 1))), "at one of the batch sizes"),
        (balanced().query("prompt == 'p1'"), "several prompts"),
        (balanced().assign(value=1.0), "the same in every run"),
    ],
)
def test_what_cannot_be_fitted(observations: pd.DataFrame, told: str) -> None:
    with pytest.raises(CannotFit, match=told):
        fit(observations)


def of_batch(size: int) -> dict[str, Any]:
    return {"sample": {"num_steps": 50, "eta": 1.0, "batch_size": size, "num_batches_per_epoch": 4}}


def noisy(seed: int, algorithm: int, batch: int) -> Any:
    """Fréchet distance 5 - 2 a - b at any reward, plus the prompt's own and a little of seed and prompt."""

    def made(prompt: str, reward: float) -> dict[str, float]:
        own = {"a zero": 0.0, "a one": 3.0, "a two": -1.0}[prompt]
        little = 0.01 * ((7 * seed + 3 * algorithm + 5 * batch + 2 * len(prompt) + int(own)) % 5 - 2)
        return {
            "accuracy": 1.0,
            "diversity": own + 5 * algorithm * batch + little,
            "frechet": 5 + own - 2 * algorithm - batch + little,
        }

    return made


def two_sizes(parent: Path, sizes: tuple[int, ...] = (8, 16)) -> list[Path]:
    return [
        run_of(
            parent / f"{mode}-{size}-seed{seed}",
            mode,
            seed,
            {0: 0.0, 4: 1.0 + 0.1 * seed},
            quality=noisy(seed, a, b),
            trainer=of_batch(size),
        )
        for a, mode in enumerate(("observe", "full"))
        for b, size in enumerate(sizes)
        for seed in (0, 1)
    ]


def test_report_on_two_batch_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each size is compared by itself, and the mixed model is over both."""
    monkeypatch.setattr(
        Comparison,
        "draw",
        lambda comparison: quality.figures(comparison.shown, comparison.quality),
    )
    folders = two_sizes(tmp_path)
    out = tmp_path / "report"
    document = build([load(folder) for folder in folders], out)
    small, large = document.comparisons
    assert (small.batch_size, large.batch_size) == (32, 64)
    assert [len(arm.runs) for arm in small.arms] == [2, 2]
    assert not any("seed" in w or "differs" in w for w in small.warnings)
    assert "runs of 32 and 64 samples an epoch" in document.notes[0]
    assert small.figures["quality"] == "ddpo-32-quality.png"
    assert all((out / name).is_file() for c in document.comparisons for name in c.figures.values())

    (model,) = document.mixed_models
    assert (model.batch_sizes, model.runs, model.prompts) == ([32, 64], 8, 3)
    assert model.reward == pytest.approx(0.8), "the highest of four levels between 0 and 1"
    by_metric = model.metrics
    distance = [effect.coefficient for effect in by_metric["frechet"].effects]
    assert distance == pytest.approx([-2, -1, 0], abs=0.05)
    varied = [effect.coefficient for effect in by_metric["diversity"].effects]
    assert varied == pytest.approx([0, 0, 5], abs=0.05)
    assert by_metric["accuracy"].notes == ["not fitted: the same in every run and prompt"]
    assert "not fitted: the same" in by_metric["reward"].notes[0], "it is what was matched"

    text = (out / "report.md").read_text()
    assert "## ddpo, 32 samples an epoch" in text and "## ddpo, 64 samples an epoch" in text
    assert "## ddpo: mixed model of `full` against `baseline`" in text
    assert "8 runs, 3 prompts, 32 (0) and 64 (1) samples an epoch" in text
    rows = [
        line
        for line in text.splitlines()
        if line.startswith(("| algorithm", "| batch size", "| interaction"))
    ]
    assert len(rows) == 3 * 4
    assert "**mixed model**" in text and "**matched reward**" in text
    assert json.loads((out / "report.json").read_text()) == document.as_dict()


def test_batch_sizes_evaluated_differently_have_no_model_and_a_note(tmp_path: Path) -> None:
    folders = two_sizes(tmp_path)
    for folder in folders:
        if "-16-" in folder.name:
            write_quality(folder, {0: 0.0, 4: 1.0}, digest="e" * 64, samples=20)
    document = compared(*folders)
    assert document.mixed_models == [] and all(c.quality is not None for c in document.comparisons)
    assert "evaluated with different settings" in document.notes[-1]


def test_arms_of_different_sizes_without_twins_stay_one_comparison(tmp_path: Path) -> None:
    a = run_of(tmp_path / "a", "observe", 0, {0: 0.0, 4: 1.0}, trainer=of_batch(8))
    b = run_of(tmp_path / "b", "full", 0, {0: 0.0, 4: 1.0}, trainer=of_batch(16))
    document = compared(a, b)
    (comparison,) = document.comparisons
    assert comparison.batch_size is None
    assert any("batch_size` differs" in warning for warning in comparison.warnings)
    (model,) = document.mixed_models
    assert all("at one of the batch sizes" in entry.notes[0] for entry in model.metrics.values())


def test_the_model_is_of_two_batch_sizes(tmp_path: Path) -> None:
    (model,) = compared(*two_sizes(tmp_path, (4, 8, 16))).mixed_models
    assert model.metrics == {} and "16, 32, 64" in model.notes[0]


def test_an_arm_of_one_size_is_held_against_the_baseline_at_that_size(tmp_path: Path) -> None:
    """As an arm of the ablation ladder, which is run at one size, beside the pair that is run at both."""
    third = [
        run_of(
            tmp_path / f"log-{seed}", "log", seed, {0: 0.0, 4: 1.0 + 0.1 * seed},
            quality=noisy(seed, 1, 1), trainer=of_batch(16),
        )
        for seed in (0, 1)
    ]  # fmt: skip
    document = compared(*two_sizes(tmp_path), *third)
    full, log = sorted(document.mixed_models, key=lambda model: model.arm)
    assert (full.arm, full.batch_sizes, full.runs, full.notes) == ("full", [32, 64], 8, [])
    assert (log.arm, log.batch_sizes, log.runs) == ("log", [64], 4)
    assert log.notes == ["of 64 samples an epoch alone: of 32 there are runs of one arm only"]
    effects = {metric: entry.effects for metric, entry in log.metrics.items()}
    assert [e.effect for e in effects["frechet"]] == ["algorithm"]
    assert effects["frechet"][0].coefficient == pytest.approx(-2, abs=0.05)


def test_one_batch_size_has_the_algorithm_alone(tmp_path: Path) -> None:
    document = compared(*two_sizes(tmp_path, (8,)))
    (model,) = document.mixed_models
    effects = {metric: entry.effects for metric, entry in model.metrics.items()}
    assert [e.effect for e in effects["frechet"]] == ["algorithm"]
    assert "samples an epoch" not in mixed_model.model_table(model)


def test_without_statsmodels_the_report_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = two_sizes(tmp_path)
    monkeypatch.setitem(sys.modules, "statsmodels.regression.mixed_linear_model", None)
    document = compared(*folders)
    (model,) = document.mixed_models
    assert model.metrics == {} and 'pip install "pcpo-overlay[report]"' in model.notes[0]
    assert "the mixed model needs statsmodels" in report.render(document)
