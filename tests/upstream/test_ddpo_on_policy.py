"""Before the first optimizer step the policy is the one that sampled: the ratio should be 1 at every timestep.

Each test prints both arms (``pytest -s``); the baseline's numbers are facts about upstream, not requirements.
"""

from __future__ import annotations

from typing import Any

import pytest
from first_ratios import assert_exactly_one, first_step, show

pytestmark = pytest.mark.upstream

BF16 = {"mixed_precision": "bf16"}
FULL_FINETUNING = {"use_lora": False}
#: float16 autocast on a CPU is slow; one batch of samples is enough.
FP16 = {"mixed_precision": "fp16", "sample__num_batches_per_epoch": 1, "num_epochs": 1}
FP16_ON_CPU = {"env": {"RECORD_ALLOW_FP16": "1"}}


@pytest.mark.parametrize("mode", ["match", "full"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("float32, LoRA", {}),
        ("float32, full fine-tuning", FULL_FINETUNING),
        ("bfloat16, full fine-tuning", {**BF16, **FULL_FINETUNING}),
    ],
    ids=["fp32-lora", "fp32-full", "bf16-full"],
)
def test_ratio_is_exactly_one(ddpo_run: Any, mode: str, name: str, settings: dict[str, Any]) -> None:
    base, ours = (first_step(ddpo_run(m, **settings)) for m in ("observe", mode))
    show(f"{name}, {mode}", base, ours)
    assert_exactly_one(ours, 5)


def test_baseline_in_bfloat16_is_mostly_outside(ddpo_run: Any) -> None:
    """What the tests above are for: with the same network output the baseline's ratio is off."""
    base = first_step(ddpo_run("observe", **BF16, **FULL_FINETUNING))
    assert base["fraction_outside"] > 0.5


@pytest.mark.parametrize("mode", ["match", "full"])
def test_lora_in_bfloat16_needs_precision_match(ddpo_run: Any, mode: str) -> None:
    base, plain, matched = (
        first_step(ddpo_run(m, **BF16)) for m in ("observe", mode, f"{mode},precision=match")
    )
    show(f"bfloat16, LoRA, {mode}", base, plain)
    show(f"bfloat16, LoRA, {mode},precision=match", base, matched)
    assert plain["ratio_std"] > 0
    assert plain["fraction_outside"] < base["fraction_outside"]
    assert_exactly_one(matched, 5)


def test_what_is_not_exact_is_said_with_what_makes_it_so(ddpo_run: Any) -> None:
    plain = ddpo_run("full", **BF16)
    assert plain.stderr.count("precision=match makes them so") == 1  # there are two rollouts an epoch
    exact: list[tuple[str, dict[str, Any]]] = [
        ("full,precision=match", BF16), ("full", {}), ("full", {**BF16, **FULL_FINETUNING}),
    ]  # fmt: skip
    for run in (ddpo_run(mode, **settings) for mode, settings in exact):
        assert "precision=match makes them so" not in run.stderr


def test_lora_in_float16_with_precision_match(ddpo_run: Any) -> None:
    base, matched = (
        first_step(ddpo_run(m, **FP16_ON_CPU, **FP16)) for m in ("observe", "full,precision=match")
    )
    show("float16, LoRA, full,precision=match", base, matched)
    assert_exactly_one(matched, 5)
