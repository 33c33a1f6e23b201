"""ddpo-pytorch's script on the animals: its own ``simple_animals``, and a reward of ours."""

from __future__ import annotations

from typing import Any

import pytest
from bits import first_difference

from pcpo_overlay.tools.ab.upstreams import PACKAGE

pytestmark = pytest.mark.upstream

CONFIG = PACKAGE / "tools" / "miniature" / "animals" / "ddpo_config.py"


def test_baseline_and_pcpo_train_on_them(ddpo_run: Any) -> None:
    base, observed, full = (ddpo_run(mode, config=CONFIG, num_epochs=1) for mode in (None, "observe", "full"))
    assert first_difference(base.record, observed.record) is None
    assert first_difference(base.record["weights"], full.record["weights"]) is not None
    first, *_ = full.metrics("step")
    assert first["ratio_min"] == first["ratio_max"] == 1 and first["fraction_masked"] == 0
    (epoch,) = full.metrics("epoch")
    assert epoch["reward_count"] == 8 and epoch["reward_std"] > 0
    assert full.run_json["trainer"]["prompt_fn"] == "simple_animals"
    assert full.run_json["trainer"]["reward_fn"] == "animal_logodds"
