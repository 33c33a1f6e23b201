"""The report: its statistics on cases worked by hand, and what it says about runs that do not match up."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic_runs import TIMESTEPS, write_flow, write_ladder, write_quality, write_run

from pcpo_overlay.__main__ import main
from pcpo_overlay.config import parse
from pcpo_overlay.tools import palette
from pcpo_overlay.tools.report import build, draw, speed, stats, validation
from pcpo_overlay.tools.report.arms import ReportError
from pcpo_overlay.tools.report.compare import Comparison, Document, compare
from pcpo_overlay.tools.report.stats import Estimate
from pcpo_overlay.tools.runs import labels
from pcpo_overlay.tools.runs.arms import common
from pcpo_overlay.tools.runs.files import RunError
from pcpo_overlay.tools.runs.run import Run, find, load


def command(*argv: object) -> int:
    """Run ``pcpo report`` in this process."""
    return main(["report", *map(str, argv)])


def compared(*folders: Path, **options: Any) -> Document:
    document = compare([load(f) for f in folders], **options)
    plain = document.as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    return document


def speedups(comparison: Comparison) -> str:
    return speed.speedup_table(comparison.shown, comparison.thresholds)


def series(values: dict[int, float]) -> pd.Series:
    return pd.Series(values, dtype="float64")


# --- statistics -------------------------------------------------------------------------------------------------


def test_moving_average_is_trailing_and_starts_with_what_there_is() -> None:
    held = {0: 1.0, 1: 2.0, 2: 6.0, 3: 7.0, 4: 4.0, 5: 11.0, 6: 2.0}
    smoothed = {0: 1.0, 1: 1.5, 2: 3.0, 3: 4.0, 4: 4.0, 5: 6.0, 6: 6.0}
    assert stats.moving_average(series(held)).to_dict() == smoothed
    assert stats.moving_average(series(held), window=1).to_dict() == held


def test_moving_average_of_a_series_with_a_hole_takes_the_epochs_not_the_entries() -> None:
    smoothed = stats.moving_average(series({0: 1.0, 3: 5.0, 7: 9.0}), window=4)
    assert smoothed.to_dict() == {0: 1.0, 3: 3.0, 7: 9.0}


def test_moving_average_refuses_an_empty_window() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        stats.moving_average(series({0: 1.0}), window=0)


def test_mean_series_keeps_only_the_epochs_that_every_seed_has() -> None:
    held = common([series({0: 1.0, 1: 2.0, 2: 9.0}), series({0: 3.0, 1: 4.0})])
    assert held.mean(axis=1).to_dict() == {0: 2.0, 1: 3.0}
    assert len(common([])) == 0


def test_epochs_to_reach_counts_from_one_and_includes_the_epoch() -> None:
    held = series({0: -3.0, 1: -1.0, 2: -2.0, 3: 0.5})
    assert stats.epochs_to_reach(held, -3.0) == 1
    assert stats.epochs_to_reach(held, -1.5) == 2
    assert stats.epochs_to_reach(held, 0.5) == 4
    assert stats.epochs_to_reach(held, 0.6) is None


@pytest.mark.parametrize(
    ("baseline", "other", "percent"),
    # rows of the paper's Table 10, one of them slower than the baseline (printed there as -19.7)
    [
        (260, 131, 98.5),
        (210, 100, 110.0),
        (246, 198, 24.2),
        (145, 155, -6.5),
        (90, 112, -19.6),
        (101, 50, 102.0),
    ],
)
def test_speedup_is_positive_where_the_arm_is_faster(baseline: int, other: int, percent: float) -> None:
    assert stats.speedup_percent(baseline, other) == pytest.approx(percent, abs=0.05)


def test_speedup_of_an_arm_that_never_arrives_is_nothing() -> None:
    assert stats.speedup_percent(None, 10) is None
    assert stats.speedup_percent(10, None) is None


def test_levels_are_evenly_spaced_inside_and_favour_no_arm() -> None:
    assert stats.levels([0.0, 1.0], [6.0, 11.0]) == [2.0, 3.0, 4.0, 5.0]
    assert stats.levels([1.0, 0.0], [11.0, 6.0]) == [2.0, 3.0, 4.0, 5.0]
    assert stats.levels([1.0, 1.0], [1.0, 5.0]) == []
    assert stats.levels([1.0, 3.0], [2.0, 5.0]) == []


def test_early_and_late_windows_never_overlap() -> None:
    assert stats.early_late(range(12)) == ([0, 1, 2, 3, 4], [7, 8, 9, 10, 11])
    assert stats.early_late(range(7)) == ([0, 1, 2], [4, 5, 6])
    assert stats.early_late([3]) == ([3], [])


def test_a_label_names_only_what_differs_from_the_mode() -> None:
    def label(text: str, upstream: str = "ddpo") -> str:
        return labels.label_of(parse(text).on(upstream), upstream)

    assert label("full") == "full"
    assert label("full,weights=proportional,variance=auto") == "full"
    assert label("full,w_star=5,precision=match") == "full,variance=paper,w_star=5,precision=match"
    assert label("observe") == "observe"
    assert labels.label({"mode": "full", "invented": 3}, "ddpo") != "full"
    assert parse(label("full,variance=native")) == parse("full,variance=native")
    assert labels.slug("full,variance=native") == "full_variance-native"


def test_a_label_is_the_upstreams() -> None:
    def label(text: str) -> str:
        return labels.label_of(parse(text).on("flow_grpo"), "flow_grpo")

    assert label("full") == "full"
    assert label("full,variance=native") == "full"
    assert label("full,zeta=trained") == "full,zeta=trained"
    # as it is written after PCPO=, not as Python writes it
    assert label("observe,unique_prompts=true") == "observe,unique_prompts=true"
    assert labels.slug("observe,unique_prompts=true") == "observe_unique_prompts-true"
    assert labels.label({"mode": "full", "variance": "native"}, "unheard_of") == "full,variance=native"


def test_arms_stand_in_the_order_of_the_ladder_and_of_their_numbers(tmp_path: Path) -> None:
    powers = [f"full,weights=power,power={power}" for power in ("-1", "-0.5", "0.5", "10")]
    modes = ["observe", "match", "full", *powers, "full,weights=uniform"]
    for n, mode in enumerate(reversed(modes)):
        write_run(tmp_path / str(n), mode, rewards=[0.0, 1.0], upstream="flow_grpo")
    (comparison,) = compare([load(folder) for folder in find([tmp_path])[0]]).comparisons
    assert [arm.label for arm in comparison.arms] == modes


def test_a_long_title_is_wrapped() -> None:
    figure = palette.new_figure(11, 4)
    draw.heading(figure, "How fast each arm learns: " + "a long name, " * 12, "small")
    lines = figure.get_suptitle().splitlines()
    assert len(lines) == 3 and max(map(len, lines)) <= 143 and lines[-1] == "small"


def test_people_read_baseline_and_no_option_that_all_arms_have() -> None:
    both = [
        "observe,unique_prompts=true",
        "full,unique_prompts=true",
        "full,weights=uniform,unique_prompts=true",
    ]
    assert list(labels.names(both).values()) == ["baseline", "full", "full,weights=uniform"]
    assert labels.names(["observe"]) == {"observe": "baseline"}
    assert labels.names(["full,variance=native"]) == {"full,variance=native": "full,variance=native"}
    assert labels.names(["observe", "off"]) == {"observe": "observe", "off": "off"}
    guard = labels.label({"mode": "observe"}, "flow_grpo", "GRPO-Guard")
    assert labels.names(["observe", guard]) == {"observe": "baseline", "GRPO-Guard": "GRPO-Guard"}


def test_an_arm_looks_the_same_in_every_comparison() -> None:
    drawn = palette.looks(["observe,unique_prompts=true", "full,unique_prompts=true"])
    assert drawn["observe,unique_prompts=true"] == palette.look("observe") == palette.look("baseline")
    assert drawn["full,unique_prompts=true"] == palette.look("full")
    several = ["observe", "log", "match", "full", "full,w_star=5", "GRPO-Guard", "full,variance=native"]
    assert len({look.colour for look in palette.looks(several).values()}) == len(several)


def test_resamples_are_all_of_them_with_their_probabilities() -> None:
    held = dict(stats.resamples(3))
    assert len(held) == 10 and sum(held.values()) == pytest.approx(1)
    assert held[0, 0, 0] == pytest.approx(1 / 27)
    assert held[0, 1, 2] == pytest.approx(6 / 27)
    assert held[0, 0, 2] == pytest.approx(3 / 27)
    assert len(stats.resamples(6)) == 462
    many = stats.resamples(9)
    assert many == stats.resamples(9) and sum(p for _, p in many) == pytest.approx(1)


def test_bootstrap_of_a_mean_by_hand() -> None:
    # of 27 orders one has the mean 0, three have 1: 4/27 is more than 2.5%, 1/27 is too
    assert stats.estimate([0.0, 3.0, 6.0]) == Estimate(3.0, 0.0, 6.0)
    # of 256 orders 1 has the mean 0, 4 the mean 1, 10 the mean 2: 2.5% is 6.4 of them
    assert stats.estimate([0.0, 4.0, 8.0, 12.0]) == Estimate(6.0, 2.0, 10.0)
    assert stats.estimate([2.0, 2.0, 2.0]) == Estimate(2.0, 2.0, 2.0)


def test_too_few_seeds_have_no_interval() -> None:
    assert stats.estimate([1.0, 2.0]) == Estimate(1.5, None, None)
    assert stats.estimate([]) == Estimate(None, None, None)
    assert stats.resamples(2) == [] and stats.bootstrap(1.0, 2, []) == Estimate(1.0)
    never = [math.nan if 2 in chosen else 1.0 for chosen, _ in stats.resamples(3)]
    assert stats.bootstrap(1.0, 3, never) == Estimate(1.0), "a resample has no such number"


# --- the comparison ---------------------------------------------------------------------------------------------


def test_thresholds_on_the_smoothed_seed_mean_and_seed_by_seed(tmp_path: Path) -> None:
    slow = [0.0, 0.0, 2.0, 4.0, 6.0, 8.0]
    fast = [0.0, 4.0, 8.0, 8.0, 8.0, 8.0]
    document = compared(
        write_run(tmp_path / "a0", "observe", seed=0, rewards=slow),
        write_run(tmp_path / "a1", "observe", seed=1, rewards=[r + 2 for r in slow]),
        write_run(tmp_path / "b0", "full,variance=native", seed=0, rewards=fast),
        write_run(tmp_path / "b1", "full,variance=native", seed=1, rewards=fast),
        thresholds=[2.0, 5.0, 7.0],
        window=2,
    )
    comparison = document.comparisons[0]
    # seed-mean observe: 1 1 3 5 7 9 -> smoothed 1 1 2 4 6 8; full: 0 4 8 8 8 8 -> 0 2 6 8 8 8
    first, second, third = comparison.thresholds.levels
    assert [arm.epochs.mean for arm in first.arms] == [3, 2]
    assert [arm.epochs.mean for arm in second.arms] == [5, 3]
    assert [arm.epochs.mean for arm in third.arms] == [6, 4]
    assert first.arms[1].speedup_percent.mean == pytest.approx(50.0)
    assert second.arms[1].speedup_percent.mean == pytest.approx(100 * (5 / 3 - 1))
    assert first.arms[0].speedup_percent == Estimate()
    # per seed: observe's smoothed are 0 0 1 3 5 7 and 2 2 3 5 7 9
    assert [s.epochs for s in third.arms[0].seeds] == [6, 5]
    assert [s.speedup_percent for s in third.arms[1].seeds] == [
        pytest.approx(50.0),
        pytest.approx(25.0),
    ]
    assert comparison.warnings == []

    text = speedups(comparison)
    assert "50.0%" in text


def test_a_threshold_nobody_or_one_arm_reaches_says_never(tmp_path: Path) -> None:
    comparison = compared(
        write_run(tmp_path / "a", "observe", rewards=[0, 1]),
        write_run(tmp_path / "b", "full", rewards=[0, 9]),
        thresholds=[4.0, 100.0],
        window=1,
    ).comparisons[0]
    assert [arm.epochs.mean for arm in comparison.thresholds.levels[0].arms] == [None, 2]
    rows = speedups(comparison).splitlines()[2:]
    assert [cell.strip() for cell in rows[0].split("|")[2:5]] == ["never", "2", "-"]
    assert [cell.strip() for cell in rows[1].split("|")[2:5]] == ["never", "never", "-"]


def test_epochs_to_a_threshold_have_an_interval_from_three_seeds_on(tmp_path: Path) -> None:
    """A seed is at the threshold of 1 from its own epoch on, so a mean over seeds is there when the last one is."""
    arrive = {"observe": (4, 6, 8), "full": (2, 3, 4)}
    folders = [
        write_run(
            tmp_path / f"{mode}{seed}", mode, seed=seed, rewards=[float(e + 1 >= epoch) for e in range(9)]
        )
        for mode, epochs in arrive.items()
        for seed, epoch in enumerate(epochs)
    ]
    comparison = compared(*folders, thresholds=[1.0], window=1).comparisons[0]
    observe, full = comparison.thresholds.levels[0].arms
    # 8/27 of the resamples lack the last seed, 1/27 (3.7%) hold the first alone
    assert observe.epochs == Estimate(8, 4, 8)
    assert full.epochs == Estimate(4, 2, 4)
    # every resample takes the same seeds of both: always twice as fast
    assert full.speedup_percent == Estimate(100, 100, 100)
    assert "| 8 [4, 8] | 4 [2, 4] | 100.0% [100.0%, 100.0%] |" in speedups(comparison)
    assert "bootstrap interval" in comparison.tables()["Epochs to reach a training reward"]

    two = compared(*folders[:2], *folders[3:5], thresholds=[1.0], window=1).comparisons[0]
    assert two.thresholds.levels[0].arms[1].epochs == Estimate(3)
    assert "they take 3 seeds an arm" in two.tables()["Epochs to reach a training reward"]
    mixed = compared(*folders[:5], thresholds=[1.0], window=1).comparisons[0]
    assert mixed.thresholds.levels[0].arms[1].speedup_percent.low is None
    assert "none for full, with fewer than 3 seeds" in mixed.tables()["Epochs to reach a training reward"]


def test_a_seed_that_never_arrives_is_in_the_interval(tmp_path: Path) -> None:
    rewards = {0: [0.0, 1.0, 1.0], 1: [0.0, 0.0, 1.0], 2: [0.0, 0.0, 0.0]}
    folders = [
        write_run(tmp_path / f"{mode}{seed}", mode, seed=seed, rewards=values)
        for mode in ("observe", "full")
        for seed, values in rewards.items()
    ]
    comparison = compared(*folders, thresholds=[0.6], window=1).comparisons[0]
    observe, full = comparison.thresholds.levels[0].arms
    assert observe.epochs == Estimate(3, 2, None)
    assert full.speedup_percent == Estimate(0)
    assert "| 3 [2, never] | 3 [2, never] |     0.0% |" in speedups(comparison)


def test_default_thresholds_are_reached_by_every_arm(tmp_path: Path) -> None:
    write_ladder(tmp_path, seeds=(0, 1))
    folders, _ = find([tmp_path])
    thresholds = compared(*folders).comparisons[0].thresholds
    assert thresholds.chosen_from_data and len(thresholds.levels) == 4
    assert all(arm.epochs.mean is not None for level in thresholds.levels for arm in level.arms)


def test_thresholds_close_together_are_printed_apart(tmp_path: Path) -> None:
    comparison = compared(
        write_run(tmp_path / "a", rewards=[1.0, 1.002]), thresholds=[1.0001, 1.00012]
    ).comparisons[0]
    assert [row.split("|")[1].strip() for row in speedups(comparison).splitlines()[2:]] == [
        "1.00010",
        "1.00012",
    ]


def test_no_rise_no_threshold(tmp_path: Path) -> None:
    comparison = compared(write_run(tmp_path / "a", rewards=[1.0, 0.5])).comparisons[0]
    assert comparison.thresholds.levels == []
    assert "never rose" in speedups(comparison)


def test_groups_clipping_time_and_timesteps_by_hand(tmp_path: Path) -> None:
    comparison = compared(
        write_run(tmp_path / "full", "full,variance=native", rewards=[0.0, 1.0]),
        write_run(tmp_path / "base", "observe", rewards=[0.0, 1.0]),
    ).comparisons[0]
    assert [arm.label for arm in comparison.arms] == ["observe", "full,variance=native"]
    assert [arm.name for arm in comparison.arms] == ["baseline", "full,variance=native"]
    base = comparison.clipping[0]
    assert base.mean("fraction_outside") == pytest.approx(0.4)
    # the first optimizer step of the synthetic runs has nothing outside, the second has all of it
    assert base.mean("on_policy_fraction_outside") == 0.0
    assert comparison.cost[1].mean("total_ratio") == pytest.approx(0.9)
    assert comparison.cost[1].mean("sampling_ratio") == pytest.approx(1.0)
    assert comparison.gradients[0].mean("grad_norm_early") == pytest.approx(1.0)
    assert comparison.gradients[0].mean("grad_norm_late") == pytest.approx(1.04)
    assert comparison.timesteps[0].early.timestep == TIMESTEPS
    assert comparison.timesteps[0].early.fraction_outside[0] == pytest.approx(0.4 * (0.5 + 20 / 981))
    assert comparison.cost[0].mean("peak_memory_bytes") == 2**30


def test_per_timestep_fractions_count_each_sample_once(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", rewards=[0.0, 0.0, 0.0, 0.0])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    tables = {0: ([900, 100], [1, 3], [1.0, 0.0]), 1: ([900], [3], [0.2])}
    for line in lines:
        if line["epoch"] in tables and line["kind"] == "epoch":
            t, count, outside = tables[line["epoch"]]
            line["per_timestep"] = {
                "timestep": t, "count": count, "fraction_outside": outside, "fraction_masked": outside,
                "ratio_mean": [1.0] * len(t),
            }  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    early = compared(folder).comparisons[0].timesteps[0].early
    assert early.timestep == [900, 100]
    assert early.count == [4, 3]
    assert early.fraction_outside == [pytest.approx((1.0 + 3 * 0.2) / 4), 0.0]


def test_mixed_configs_name_the_keys_that_differ(tmp_path: Path) -> None:
    train = {"clip_range": 1e-3, "learning_rate": 3e-4, "batch_size": 4}
    document = compared(
        write_run(tmp_path / "a", "observe", seed=0, rewards=[0, 1]),
        write_run(tmp_path / "b", "full", seed=1, rewards=[0, 1, 2], clip_range=1e-3,
                  trainer={"train": train, "logdir": "elsewhere"},
                  hardware={"device": "cuda", "name": "x", "threads": 1, "world_size": 1}),
    )  # fmt: skip
    comparison = document.comparisons[0]
    text = "\n".join(comparison.warnings)
    assert "`trainer.train.clip_range` differs: 0.0001 in baseline; 0.001 in full" in text
    assert "`clip_range` differs" in text and "`hardware.device` differs" in text
    assert "seeds differ" in text and "different numbers of epochs" in text
    assert "learning_rate" not in text and "logdir" not in text and "num_epochs" not in text
    assert "**Warning:** `clip_range`" in build.render(document)


def test_arms_that_draw_with_different_samplers_are_said_and_the_evaluated_reward_leads(
    tmp_path: Path,
) -> None:
    native, paper = {"variance": "native"}, {"std": [0.4], "std_native": [0.5]}  # of an older version
    folders = [
        write_quality(write_run(tmp_path / "a", rewards=[0, 1]), {0: 0.0, 2: 1.0}),
        write_quality(write_run(tmp_path / "b", "full", rewards=[0, 1], resolved=native), {0: 0.0, 2: 1.0}),
        write_quality(
            write_run(tmp_path / "c", "full,variance=paper,w_star=5", rewards=[0, 1], resolved=paper),
            {0: 0.0, 2: 1.0},
        ),
    ]
    alike = compared(*folders[:2]).comparisons[0]
    assert not alike.samplers_differ and not any("sampler" in warning for warning in alike.warnings)
    comparison = compared(*folders).comparisons[0]
    assert comparison.samplers_differ
    assert (
        "variance native in baseline, full; paper in full,variance=paper,w_star=5)" in comparison.warnings[0]
    )
    told = comparison.tables()
    assert next(iter(told)) == "Epochs to reach an evaluated reward"
    assert "these rewards do not compare them" in told["Epochs to reach a training reward"]
    assert comparison.main_table()[0] == "Epochs to reach an evaluated reward"


def test_runs_that_recorded_the_credit_as_the_ratio_are_named(tmp_path: Path) -> None:
    new = [write_run(tmp_path / f"new-{mode}", mode, rewards=[0, 1]) for mode in ("observe", "full")]
    assert not any("credit" in warning for warning in compared(*new).comparisons[0].warnings)
    assert "std of the credit" in compared(*new).comparisons[0].tables()["Policy ratio"]
    for folder in new:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        old = [{k: v for k, v in line.items() if k not in ("kl", "credit_std")} for line in lines]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    comparison = compared(*new).comparisons[0]
    assert comparison.warnings[-1].startswith(
        "full: recorded by a version that called the objective's credit"
    )
    assert "credit" not in comparison.tables()["Policy ratio"]


def test_the_same_seed_twice_is_said(tmp_path: Path) -> None:
    comparison = compared(*(write_run(tmp_path / name, rewards=[0, 1]) for name in "ab")).comparisons[0]
    assert any("same seed more than once" in warning for warning in comparison.warnings)


def test_grpo_guard_is_an_arm_beside_those_of_the_same_sampler(tmp_path: Path) -> None:
    """It is upstream's objective in its own script, and neither the baseline nor a comparison of its own."""
    folders = [
        write_run(tmp_path / mode, mode, upstream="flow_grpo", rewards=[0.0, 0.1, 0.2])
        for mode in ("observe", "full")
    ]
    rewards, guard = [0.0, 0.2, 0.3], tmp_path / "guard"
    folders.append(write_run(guard, upstream="flow_grpo_sd3_guard", rewards=rewards, arm="GRPO-Guard"))
    (comparison,) = compared(*folders).comparisons
    assert (comparison.upstream, comparison.baseline) == ("flow_grpo", "observe")
    assert [arm.name for arm in comparison.arms] == ["baseline", "full", "GRPO-Guard"]


def test_several_upstreams_are_kept_apart(tmp_path: Path) -> None:
    document = compared(
        write_run(tmp_path / "a", "observe", rewards=[0, 1]),
        write_run(tmp_path / "b", "full", rewards=[0, 1]),
        write_run(tmp_path / "c", "full", rewards=[0, 1], upstream="flow_grpo"),
    )
    assert [(c.upstream, c.baseline) for c in document.comparisons] == [
        ("ddpo", "observe"),
        ("flow_grpo", "full"),
    ]
    assert any("several upstreams" in note for note in document.notes)


def test_baseline_can_be_named(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / m, m, rewards=[0, 1]) for m in ("observe", "match", "full")]
    assert compared(*folders, baseline="match").comparisons[0].baseline == "match"
    assert compared(*folders[1:]).comparisons[0].baseline == "match"
    with pytest.raises(ReportError, match="observe, match, full"):
        compared(*folders, baseline="log")


# --- validation reward and KL -----------------------------------------------------------------------------------


def write_two_arms(tmp_path: Path, **options: Any) -> list[Path]:
    """Two arms of two seeds each, four epochs, evaluated every second one."""
    kls = {"observe": [0.0, 0.2, 0.4, 0.6], "full": [0.0, 0.1, 0.2, 0.3]}
    return [
        write_run(
            tmp_path / f"{mode}{seed}", mode, seed=seed, upstream="flow_grpo", rewards=[0.0, 1.0, 2.0, 3.0],
            kl=[k + seed / 10 for k in kl], evaluations={0: 1.0, 2: 2.0 + gain, 4: 3.0 + gain + seed}, **options,
        )
        for mode, kl, gain in (("observe", kls["observe"], 0.0), ("full", kls["full"], 1.0))
        for seed in (0, 1)
    ]  # fmt: skip


def spread(mean: float, low: float, high: float) -> Any:
    approximate: list[Any] = [pytest.approx(value) for value in (mean, low, high)]
    return Estimate(*approximate)


def test_validation_reward_at_the_last_common_evaluation(tmp_path: Path) -> None:
    comparison = compared(*write_two_arms(tmp_path)).comparisons[0]
    validated = comparison.validation
    assert validated is not None and validated.last_common_evaluation == 4
    assert not any("evaluation" in warning for warning in comparison.warnings)
    base, full = validated.arms
    assert base.numbers["at_last_common_evaluation"] == spread(3.5, 3.0, 4.0)
    assert full.numbers["at_last_common_evaluation"] == full.numbers["best"] == spread(4.5, 4.0, 5.0)
    of_base, of_full = validated.curves
    assert of_base.epoch == [0, 2, 4]
    assert of_base.smoothed == of_base.mean == [1.0, 2.0, 3.5]
    assert of_full.high == [1.0, 3.0, 5.0]
    # the training reward is what it was
    assert comparison.reward[0].curves["reward_mean"].mean == [0.0, 1.0, 2.0, 3.0]

    table = comparison.tables()["Validation reward and KL"]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[:4]]
    assert rows[0] == [
        "arm", "reward after epoch 4 (last common)", "best until then", "KL, running mean to epoch 4",
        "KL, mean of epochs", "KL, late",
    ]  # fmt: skip
    assert rows[2][1:4] == ["3.500 [3.000, 4.000]", "3.500 [3.000, 4.000]", "0.35 [0.3, 0.4]"]
    assert rows[3][3:] == ["0.2 [0.15, 0.25]", "0.2 [0.15, 0.25]", "0.3 [0.25, 0.35]"]


def test_kl_is_the_running_mean_and_the_epochs_own(tmp_path: Path) -> None:
    comparison = compared(*write_two_arms(tmp_path), window=2).comparisons[0]
    assert comparison.kl is not None and comparison.kl.last_common_epoch == 3
    base, full = comparison.kl.arms
    assert base.numbers["running_mean"] == base.numbers["loss_mean"] == spread(0.35, 0.3, 0.4)
    assert full.numbers["loss_late"] == spread(0.3, 0.25, 0.35)
    assert base.curves["kl_running_mean"].mean == pytest.approx([0.05, 0.15, 0.25, 0.35])


def test_a_point_against_kl_is_the_policy_after_as_many_epochs(tmp_path: Path) -> None:
    comparison = compared(*write_two_arms(tmp_path)).comparisons[0]
    assert comparison.kl is not None
    first, second = comparison.kl.reward_against_kl[0]
    assert (first.run, first.seed, first.source) == ("observe0", 0, "validation")
    # E = 2 stands at the running mean of the epochs 0 and 1, E = 0 before any
    assert first.epochs == [0, 2, 4]
    assert first.kl == [0.0, pytest.approx(0.1), pytest.approx(0.3)]
    assert first.reward == [1.0, 2.0, 3.0]
    assert second.kl[1:] == [pytest.approx(0.2), pytest.approx(0.4)] and second.reward[2] == 4.0


@pytest.mark.parametrize("evaluations", [None, {0: 9.0}])
def test_without_evaluations_the_training_reward_stands_in(
    tmp_path: Path, evaluations: dict[int, float] | None
) -> None:
    folder = write_run(
        tmp_path / "a",
        rewards=[0.0, 2.0, 4.0],
        kl=[0.1, 0.3, 0.5],
        evaluations=evaluations,
        upstream="flow_grpo",
    )
    comparison = compared(folder, window=2).comparisons[0]
    assert comparison.kl is not None
    (way,) = comparison.kl.reward_against_kl[0]
    assert way.source == "training" and way.epochs == [0, 1, 2]
    # an epoch's samples were drawn before its own training
    assert way.kl == [0.0, pytest.approx(0.1), pytest.approx(0.2)]
    assert way.reward == [0.0, 1.0, 3.0]
    assert (comparison.validation is not None) == (evaluations is not None)


def test_runs_without_an_end_are_compared_over_the_epochs_they_share(tmp_path: Path) -> None:
    endless: dict[str, Any] = {"status": "running", "trainer": {"num_epochs": 0}, "upstream": "flow_grpo"}
    rewards = [float(e) for e in range(6)]
    document = compared(
        write_run(tmp_path / "long", "observe", rewards=rewards, kl=[0.1] * 2 + [0.9] * 4,
                  evaluations={0: 1.0, 2: 5.0, 4: 2.0, 6: 99.0}, **endless),
        write_run(tmp_path / "short", "full", rewards=rewards[:5], kl=[0.2] * 5,
                  evaluations={0: 1.0, 2: 2.0, 4: 3.0}, **endless),
    )  # fmt: skip
    assert any("`long`: unfinished: 6 epochs so far, of a loop without an end" in n for n in document.notes)
    comparison = document.comparisons[0]
    assert any("the first 5 epochs, which every run has" in w for w in comparison.warnings)
    assert not any("num_epochs" in w for w in comparison.warnings)
    assert [arm.mean("final_epoch") for arm in comparison.reward] == [4, 4]
    # over five epochs, of which the late ones are the fourth and fifth
    assert comparison.gradients[0].mean("grad_norm_late") == pytest.approx(1 + 0.4 * 3.5 / 10)
    assert comparison.kl is not None and comparison.validation is not None
    assert comparison.kl.arms[0].mean("running_mean") == pytest.approx((0.2 + 3 * 0.9) / 5)
    base = comparison.validation.arms[0]
    assert base.mean("at_last_common_evaluation") == 2.0
    assert base.mean("best") == 5.0
    # what was recorded beyond is in the curves
    assert len(comparison.reward[0].curves["reward_mean"].epoch) == 6
    assert comparison.validation.curves[0].epoch == [0, 2, 4, 6]
    assert [run.epochs for arm in comparison.arms for run in arm.runs] == [6, 5]
    assert "6 |" in build.render(document)


def test_endless_runs_of_one_length_are_not_warned_about(tmp_path: Path) -> None:
    document = compared(*write_two_arms(tmp_path, status="running", trainer={"num_epochs": 0}))
    assert document.comparisons[0].warnings == [] and len(document.notes) == 4


def test_a_run_that_was_not_evaluated_is_named(tmp_path: Path) -> None:
    *folders, last = write_two_arms(tmp_path)
    (last / "metrics.jsonl").write_text(
        "".join(line for line in (last / "metrics.jsonl").open() if '"kind": "eval"' not in line)
    )
    comparison = compared(*folders, last).comparisons[0]
    assert comparison.validation is not None and comparison.kl is not None
    assert comparison.validation.last_common_evaluation == 4
    assert [w for w in comparison.warnings if "evaluation" in w] == [
        "full: no evaluation in `full1`, so the arm's validation reward is that of 1 of 2 runs"
    ]
    assert comparison.validation.arms[1].numbers["at_last_common_evaluation"] == spread(4.0, 4.0, 4.0)
    assert [way.source for way in comparison.kl.reward_against_kl[1]] == [
        "validation",
        "training",
    ]


def test_evaluations_that_have_none_in_common(tmp_path: Path) -> None:
    comparison = compared(
        write_run(tmp_path / "a", rewards=[0, 1], evaluations={1: 1.0}, upstream="flow_grpo"),
        write_run(tmp_path / "b", "full", rewards=[0, 1], evaluations={2: 1.0}, upstream="flow_grpo"),
    ).comparisons[0]
    assert comparison.validation is not None and comparison.validation.last_common_evaluation is None
    told = [w for w in comparison.warnings if "evaluation" in w]
    assert [w.partition(":")[0] for w in told] == ["baseline", "full"]
    table = comparison.tables()["Validation reward"]
    assert "last common evaluation" in table and "| baseline |" in table


def test_an_upstream_without_kl_or_evaluations_has_no_word_of_them(tmp_path: Path) -> None:
    document = compared(
        write_run(tmp_path / "a", rewards=[0, 1]), write_run(tmp_path / "b", "full", rewards=[0, 1])
    )
    assert "kl_loss" not in json.dumps(document.as_dict()) and "alidation" not in json.dumps(
        document.as_dict()
    )
    assert "kl" not in document.as_dict()["comparisons"][0] and "KL" not in document.definitions
    assert "KL" not in build.render(document)


def test_the_baseline_is_upstreams_objective_under_any_option(tmp_path: Path) -> None:
    folders = write_flow(
        tmp_path, ("full,unique_prompts=true", "observe,unique_prompts=true"), (0,), epochs=3
    )
    comparison = compared(*folders).comparisons[0]
    assert comparison.baseline == "observe,unique_prompts=true" and comparison.baseline_is_observe
    assert [arm.name for arm in comparison.arms] == ["baseline", "full"]
    assert [arm.label for arm in comparison.arms] == [
        "observe,unique_prompts=true",
        "full,unique_prompts=true",
    ]


# --- folders as they are found ----------------------------------------------------------------------------------


def test_a_truncated_last_line_is_tolerated_and_said(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", rewards=[0, 1, 2], status="running")
    path = folder / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    run = load(folder)
    assert len(run.epochs) == 2
    assert any("cut off" in note for note in run.notes)
    assert any("unfinished: 2 of 3 epochs" in note for note in run.notes)


def test_a_damaged_line_inside_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", rewards=[0, 1, 2])
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    lines[3] = lines[3][:50]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(RunError, match=r"line 4 of metrics.jsonl is damaged"):
        load(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no run.json"),
        ("{", "run.json is damaged"),
        ("[]", "not a JSON object"),
        ('{"format": 9}', "format 9"),
    ],
)
def test_unreadable_run_json(tmp_path: Path, text: str | None, said: str) -> None:
    folder = write_run(tmp_path / "a", rewards=[0, 1])
    (folder / "run.json").unlink()
    if text is not None:
        (folder / "run.json").write_text(text)
    with pytest.raises(RunError, match=said):
        load(folder)


def test_a_run_that_died_is_told_from_one_that_goes_on(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()

    def run(name: str, status: str, pid: object, host: str = socket.gethostname(), **info: Any) -> Run:
        start = {"pid": pid, "host": host}
        return load(write_run(tmp_path / name, rewards=[0, 1], status=status, starts=[start], **info))

    assert run("died", "running", gone.pid).status == "died"
    assert "it died: its process is gone" in load(tmp_path / "died").notes[0]
    assert run("going", "running", os.getpid()).status == "running"
    assert run("elsewhere", "running", gone.pid, host="another").status == "running"
    assert run("odd", "running", 10**18).status == run("odder", "running", "x").status == "running"
    failed = run("failed", "failed", gone.pid, error="ValueError: no")
    assert failed.status == "failed" and failed.notes == [
        "unfinished: 2 of 2 epochs so far; it failed: ValueError: no"
    ]


def test_a_resumed_run_of_ddpo_pytorch_says_that_its_epochs_are_too_early(tmp_path: Path) -> None:
    said = "resumed (starts: 2): ddpo-pytorch goes on from the checkpoint's number and not from its epoch"
    start = {"pid": 1, "host": "another"}

    def notes(name: str, upstream: str, starts: object) -> str:
        return " ".join(
            load(write_run(tmp_path / name, rewards=[0, 1], upstream=upstream, starts=starts)).notes
        )

    assert said in notes("resumed", "ddpo", [start, start])
    assert "resumed" not in notes("once", "ddpo", [start])
    assert "resumed" not in notes("flow", "flow_grpo", [start, start])
    assert "resumed" not in notes("odd", "ddpo", "two of them")


def test_nulls_and_nans_are_left_out_of_every_number(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", rewards=[0.0, None, float("nan"), 3.0])
    comparison = compared(folder, window=2).comparisons[0]
    curve = comparison.reward[0].curves["reward_mean"]
    assert curve.epoch == [0, 3]
    assert curve.smoothed == [0.0, 3.0]


def test_a_repeated_epoch_counts_once_with_its_last_record(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", rewards=[0, 1])
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(last | {"reward_mean": 7.0}) + "\n")
    run = load(folder)
    assert run.series("reward_mean").to_dict() == {0: 0.0, 1: 7.0}
    assert any("more than once" in note for note in run.notes)


def test_find_searches_below_a_parent_and_passes_over_what_was_set_aside(tmp_path: Path) -> None:
    kept = write_run(tmp_path / "deep" / "er" / "a", rewards=[0])
    aside = write_run(tmp_path / "deep" / "a.aside-1", rewards=[0])
    assert find([tmp_path]) == ([kept], [])
    assert find([aside, kept, tmp_path])[0] == [aside, kept]
    (tmp_path / "empty").mkdir()
    found, errors = find([tmp_path / "empty", tmp_path / "nowhere"])
    assert found == [] and "no run folder here" in errors[0] and "no such folder" in errors[1]


# --- the command ------------------------------------------------------------------------------------------------


def test_report_writes_markdown_json_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_ladder(tmp_path / "runs", seeds=(0, 1), epochs=6)
    assert command(tmp_path / "runs", "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| reward" in printed and "| reward" in text
    document = json.loads((tmp_path / "out" / "report.json").read_text(), parse_constant=pytest.fail)
    figures = document["comparisons"][0]["figures"]
    assert set(figures) == {"overview", "reward", "clipping", "gradients", "timesteps", "ratio", "time"}
    for file in figures.values():
        assert (tmp_path / "out" / file).read_bytes().startswith(b"\x89PNG")
        assert f"]({file})" in text
    assert "speed-up" in document["definitions"]
    assert all(f"**{name}**" in text for name in document["definitions"])


def test_report_of_flow_grpo_has_validation_and_kl(tmp_path: Path) -> None:
    write_flow(tmp_path / "runs", epochs=6, eval_freq=2)
    assert command(tmp_path / "runs", "--out", tmp_path / "out") == 0
    text = (tmp_path / "out" / "report.md").read_text()
    document = json.loads((tmp_path / "out" / "report.json").read_text(), parse_constant=pytest.fail)
    drawn = document["comparisons"][0]["figures"]
    assert {"validation", "pareto"} < set(drawn)
    for name in ("validation", "pareto"):
        assert (tmp_path / "out" / drawn[name]).read_bytes().startswith(b"\x89PNG")
        assert f"]({drawn[name]})" in text
    assert {"validation reward", "KL", "reward against KL"} < set(document["definitions"])
    assert all(f"**{name}**" in text for name in document["definitions"])


def test_the_figure_against_kl_says_what_its_axes_are(tmp_path: Path) -> None:
    folders = write_two_arms(tmp_path)
    comparison = compared(*folders).comparisons[0]
    drawn = validation.figures(comparison.shown, comparison.validation, comparison.kl)
    (axes,) = drawn["pareto"].axes
    assert axes.get_xlabel().startswith("KL to the reference policy")
    assert axes.get_ylabel() == "validation reward"
    lines = [line for line in axes.get_lines() if len(line.get_xdata())]
    assert len(lines) == 4, "one line per run"
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color() == lines[3].get_color()
    assert lines[0].get_marker() != lines[2].get_marker()
    _, names = axes.get_legend_handles_labels()
    assert names == ["baseline (2 seeds)", "full (2 seeds)", "start of a run", "its end"]

    assert comparison.kl is not None
    first, *others = comparison.kl.reward_against_kl
    ways = [dataclasses.replace(way, source="training") for way in first]
    mixed = dataclasses.replace(comparison.kl, reward_against_kl=[ways, *others])
    drawn = validation.figures(comparison.shown, comparison.validation, mixed)
    label = drawn["pareto"].axes[0].get_ylabel()
    assert label == "validation reward; where there is none,\ntraining reward, moving average of 5 epochs"


def test_the_figures_of_validation_and_kl_are_drawn_only_where_there_is_any(tmp_path: Path) -> None:
    def drawn(name: str, **options: Any) -> set[str]:
        folder = write_run(tmp_path / name, rewards=[0.0, 1.0], upstream="flow_grpo", **options)
        comparison = compared(folder).comparisons[0]
        return set(validation.figures(comparison.shown, comparison.validation, comparison.kl))

    assert drawn("neither") == set()
    assert drawn("kl", kl=[0.1, 0.2]) == {"pareto"}
    assert drawn("evaluations", evaluations={0: 1.0, 2: 2.0}) == {"validation"}
    assert drawn("both", kl=[0.1, 0.2], evaluations={0: 1.0, 2: 2.0}) == {"validation", "pareto"}


def test_report_of_one_short_run_with_hardly_anything_in_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", rewards=[1.0], status="running")
    line = {"kind": "epoch", "epoch": 0, "reward_mean": 1.0, "reward_std": None, "fraction_outside": None}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert command(folder, "--out", tmp_path / "out") == 0
    assert "unfinished: 1 of 1 epochs so far" in (tmp_path / "out" / "report.md").read_text()
    assert set(json.loads((tmp_path / "out" / "report.json").read_text())["comparisons"][0]["figures"]) == {
        "overview",
        "reward",
    }


def test_an_unreadable_run_is_named_and_the_others_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "draw_all", lambda *args: {})  # drawing takes seconds
    write_run(tmp_path / "runs" / "good", rewards=[0, 1])
    bad = write_run(tmp_path / "runs" / "bad", rewards=[0, 1])
    (bad / "run.json").write_text("{")
    assert command(tmp_path / "runs", "--out", tmp_path / "out") == 1
    assert str(bad) in capsys.readouterr().err
    assert (tmp_path / "out" / "report.json").exists()


def test_a_report_takes_the_place_of_a_report_and_of_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "draw_all", lambda *args: {})
    run, out, theirs = write_run(tmp_path / "a", rewards=[0, 1]), tmp_path / "out", tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "report.md").write_text("dear")

    def refused(folder: Path, name: str) -> None:
        assert command(run, "--out", folder) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{folder} is there already and holds what `pcpo report` did not make ({name})" in line

    refused(theirs, "report.md")
    assert [(path.name, path.read_text()) for path in theirs.iterdir()] == [("report.md", "dear")]
    assert command(run, "--out", out) == command(run, "--out", out, "--window", "2") == 0
    assert "Moving average: 2 epochs" in (out / "report.md").read_text()
    (out / "notes.txt").write_text("dear")
    refused(out, "notes.txt")
    assert (out / "notes.txt").read_text() == "dear" and (out / "report.json").is_file()


def test_a_report_that_cannot_be_finished_leaves_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = write_run(tmp_path / "a", rewards=[0, 1]), tmp_path / os.fsdecode(b"caf\xe9")
    monkeypatch.setattr(build, "draw_all", lambda *args: {})
    assert command(run, "--out", out) == 0
    assert "caf\\udce9/report.md" in capsys.readouterr().out
    before = (out / "report.md").read_bytes()

    def full(*args: object) -> dict[str, str]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "draw_all", full)
    assert command(run, "--out", out, "--window", "2") == 1
    assert "cannot be written: No space left on device" in capsys.readouterr().err
    assert (out / "report.md").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", out.name]


def test_nothing_to_report_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(tmp_path, "--out", tmp_path / "out") == 1
    empty = write_run(tmp_path / "empty", rewards=[])
    assert command(empty, "--out", tmp_path / "out") == 1
    assert "nothing to compare" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("argv", [["--thresholds", "a,b"], ["--thresholds", "nan"], ["--window", "0"]])
def test_wrong_arguments_exit_2(tmp_path: Path, argv: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command(tmp_path, *argv)
    assert stopped.value.code == 2


def test_building_the_parser_does_not_import_matplotlib() -> None:
    code = (
        "import argparse, sys; from pcpo_overlay.tools.cli import ab, report;"
        "p = argparse.ArgumentParser().add_subparsers(); ab.add_parser(p); report.add_parser(p);"
        "bad = {'matplotlib', 'rich', 'filelock', 'accelerate'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
