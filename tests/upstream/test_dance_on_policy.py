"""DanceGRPO's SD trainer stores latents in bfloat16 and its old log probability from before the rounding: before the
first update, when the policy is the one that sampled, its ratio is off. PCPO's is exactly 1.

Both arms are printed (``pytest -s``); the baseline's numbers are facts about upstream, not requirements.
"""

from __future__ import annotations

from typing import Any

import pytest
from first_ratios import assert_exactly_one, first_step, show

pytestmark = pytest.mark.upstream("DanceGRPO")

SETTINGS = {"sample__num_steps": 20, "num_epochs": 0}


def test_stable_diffusion_by_timestep(dance_run: Any) -> None:
    runs = {mode: dance_run("sd", mode, **SETTINGS) for mode in ("observe", "full")}
    base, ours = map(first_step, runs.values())
    show("bfloat16, Stable Diffusion, full", base, ours)
    assert len(base["per_timestep"]["timestep"]) == 19
    assert base["fraction_outside"] > 0.5
    assert base["ratio_min"] < 0.999
    assert_exactly_one(ours, 19)
    assert "precision=match" not in runs["full"].stderr  # there is nothing that it would mend
