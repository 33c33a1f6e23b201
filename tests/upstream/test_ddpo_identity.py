"""With PCPO off, and while it only observes, the patched DDPO is the unpatched one bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
from bits import first_difference

pytestmark = pytest.mark.upstream


@pytest.mark.parametrize("procs", [1, 2])
@pytest.mark.parametrize("use_lora", [True, False], ids=["lora", "full-finetuning"])
@pytest.mark.parametrize("mode", ["off", "observe"])
def test_equals_unpatched_bit_for_bit(ddpo_run: Any, mode: str, use_lora: bool, procs: int) -> None:
    unpatched = ddpo_run(None, procs, use_lora=use_lora)
    patched = ddpo_run(mode, procs, use_lora=use_lora)
    for rank in range(procs):
        base, ours = unpatched.ranks[rank], patched.ranks[rank]
        # What is compared has to be there: metrics, latents and log probabilities, gradients, weights.
        assert base["logs"] or rank > 0
        assert len(base["rollouts"]) == 4
        assert len(base["gradients"]) == 4
        assert base["weights"]
        for part in ("logs", "rollouts", "gradients", "weights"):
            assert first_difference(base[part], ours[part], part) is None


def test_a_reward_of_ours_leaves_the_samples_as_they_are(ddpo_run: Any) -> None:
    """It is computed in a thread while the next batch is drawn."""
    base, observed = (
        ddpo_run(mode, num_epochs=1, reward_fn="digit_probability") for mode in (None, "observe")
    )
    assert first_difference(base.record, observed.record) is None


def test_off_writes_nothing(ddpo_run: Any) -> None:
    assert not ddpo_run("off").folder.exists()


def test_training_moves_the_weights(ddpo_run: Any) -> None:
    """The comparison above would also pass on runs that train nothing."""
    first, last = (ddpo_run(None, num_epochs=n).record["weights"] for n in (1, 2))
    assert first_difference(first, last) is not None


def test_two_ranks_draw_different_samples(ddpo_run: Any) -> None:
    a, b = (r["rollouts"][0][0] for r in ddpo_run(None, 2).ranks)
    assert first_difference(a, b) is not None
