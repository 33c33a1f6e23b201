"""ddpo-pytorch's script on the animals: its own ``simple_animals``, and rewards of ours."""

from __future__ import annotations

from typing import Any

import pytest
from bits import first_difference

from pcpo_overlay.tools.ab.upstreams import PACKAGE
from pcpo_overlay.tools.miniature.animals.rewards import REWARDS

pytestmark = pytest.mark.upstream

CONFIG = PACKAGE / "tools" / "miniature" / "animals" / "ddpo_config.py"


@pytest.mark.parametrize("reward", REWARDS)
def test_baseline_and_pcpo_train_on_each_reward(ddpo_run: Any, reward: str) -> None:
    base, observed, full = (
        ddpo_run(mode, config=CONFIG, num_epochs=1, reward_fn=reward) for mode in (None, "observe", "full")
    )
    assert first_difference(base.record, observed.record) is None
    assert first_difference(base.record["weights"], full.record["weights"]) is not None
    first, *_ = full.metrics("step")
    assert first["ratio_min"] == first["ratio_max"] == 1 and first["fraction_masked"] == 0
    (epoch,) = full.metrics("epoch")
    assert epoch["reward_count"] == 8 and epoch["reward_std"] > 0
    assert full.run_json["trainer"]["prompt_fn"] == "simple_animals"
    assert full.run_json["trainer"]["reward_fn"] == reward
