"""With PCPO off, and while it only observes, the patched SD3 trainer is the unpatched one bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
from bits import first_difference

pytestmark = pytest.mark.upstream("flow_grpo")


@pytest.mark.parametrize("procs", [1, 2])
@pytest.mark.parametrize("beta", [0.04, 0.0])
@pytest.mark.parametrize("mode", ["off", "observe"])
def test_equals_unpatched_bit_for_bit(flow_run: Any, mode: str, beta: float, procs: int) -> None:
    unpatched = flow_run(None, procs, train__beta=beta)
    patched = flow_run(mode, procs, train__beta=beta)
    for rank in range(procs):
        base, ours = unpatched.ranks[rank], patched.ranks[rank]
        # What is compared has to be there: metrics, latents and log probabilities (of two epochs of two batches and
        # of two evaluations), gradients, weights.
        assert base["logs"] or rank > 0
        assert len(base["rollouts"]) == 4 + 2
        assert len(base["gradients"]) == 4
        assert base["weights"]
        for part in ("logs", "rollouts", "gradients", "weights"):
            assert first_difference(base[part], ours[part], part) is None


def test_off_writes_nothing(flow_run: Any) -> None:
    assert not flow_run("off").folder.exists()


def test_training_moves_the_weights(flow_run: Any) -> None:
    """The comparison above would also pass on runs that train nothing."""
    first, last = (flow_run(None, num_epochs=n).record["weights"] for n in (1, 2))
    assert first_difference(first, last) is not None


def test_two_ranks_draw_different_samples(flow_run: Any) -> None:
    a, b = (r["rollouts"][-1][0] for r in flow_run(None, 2).ranks)
    assert first_difference(a, b) is not None


@pytest.mark.parametrize("procs", [1, 2])
def test_the_loop_ends_with_the_last_evaluation_and_checkpoint(flow_run: Any, procs: int) -> None:
    """Also on an unpatched clone: the end comes from the config file."""
    run = flow_run(None, procs)
    evaluated = [step for step, values in run.record["logs"] if "eval_reward_avg" in values]
    assert evaluated == [0, 4]
    (adapter,) = (run.folder.parent / "saved" / "checkpoints").glob("checkpoint-4/lora/*.safetensors")
    assert adapter.stat().st_size > 1000
