"""Before the first optimizer step the policy is the one that sampled: the ratio should be 1 at every timestep.

Each test prints both arms (``pytest -s``); the baseline's numbers are facts about upstream, not requirements.
"""

from __future__ import annotations

from typing import Any

import pytest
from first_ratios import assert_exactly_one, first_step, show

pytestmark = pytest.mark.upstream("flow_grpo")

#: Ten steps as upstream's configurations have, of which nine are trained.
SETTINGS = {"num_epochs": 1, "sample__num_steps": 10}
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"mixed_precision": "bf16"},
    "float16": {"mixed_precision": "fp16", "env": {"RECORD_ALLOW_FP16": "1"}},
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("mode", ["observe", "match", "full"])
def test_ratio_is_exactly_one(flow_run: Any, precision: str, mode: str) -> None:
    """The baseline's too: this sampler keeps latents and guidance in float32."""
    settings = {**SETTINGS, **PRECISIONS[precision]}
    base, ours = (first_step(flow_run(m, **settings)) for m in ("observe", mode))
    show(f"{precision}, {mode}", base, ours)
    assert_exactly_one(ours, 9)
