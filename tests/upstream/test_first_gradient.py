"""The gradient of the first optimizer step, when the policy is the one that sampled, in every trainer.

There every objective with native weights has the same gradient, whatever it is computed from, and plain ``full`` has
the one that follows from what the tape holds (``asked.objective``). Two samples or more are accumulated, and two
timesteps or more of each; what a trainer divides its loss by is in it.
"""

from __future__ import annotations

import pytest
import torch
from bits import relative_distance
from dance.launch import TRAINERS

#: Relative, in float32. Upstream's log probability takes the noise back from the sample that was drawn, which leaves
#: single values fewer digits than their sum: ``(prev_sample - mean)/std`` where the std is small.
NORM, VALUES = 1e-6, 3e-5
ALIKE = ("log", "match", "full,weights=native")
#: What a trainer of DanceGRPO divides a step's loss by: 2 samples accumulated, 2 timesteps trained of each. accelerate,
#: which the other trainers have, divides what the loss hook returns.
DIVISOR = dict.fromkeys(TRAINERS, 2 * 2) | {"sd": 1, "ddpo": 1, "flow_grpo": 1}


@pytest.fixture
def first_step(request):
    """``first_step(NAME, MODE, procs, **env)``: a run of a trainer in float32 that ends at its first optimizer step."""

    def run(name, mode, procs, **env):
        env = {"RECORD_STEPS": "1", **env}
        if name == "ddpo":
            make, settings = request.getfixturevalue("ddpo_run"), {"train__gradient_accumulation_steps": 2}
            return make(mode, procs, env=env, num_epochs=1, **settings)
        if name == "flow_grpo":
            make = request.getfixturevalue("flow_run")
            return make(mode, procs, env=env, train__gradient_accumulation_steps=2, num_epochs=1)
        settings = {"train__gradient_accumulation_steps": 2} if name == "sd" else {}
        env["RECORD_FLOAT32"] = "1"
        return request.getfixturevalue("dance_run")(name, mode, procs, env=env, **settings)

    return run


EVERY_TRAINER = pytest.mark.parametrize(
    "name",
    [
        pytest.param("ddpo", marks=pytest.mark.upstream),
        pytest.param("flow_grpo", marks=pytest.mark.upstream("flow_grpo")),
        *(pytest.param(name, marks=pytest.mark.upstream("DanceGRPO")) for name in TRAINERS),
    ],
)
RANKS = pytest.mark.parametrize("procs", [1, 2], ids=["one-rank", "two-ranks"])


def norm(gradients):
    return float(torch.cat([g.double().flatten() for g in gradients if g is not None]).norm())


def assert_alike(run, other, what):
    """The first optimizer step's gradients, rank by rank: their norms, and all of their values."""
    for a, b in zip(run.ranks, other.ranks, strict=True):
        ours, theirs = a["gradients"][0], b["gradients"][0]
        print(what, abs(norm(ours) / norm(theirs) - 1), relative_distance(ours, theirs))
        assert norm(ours) == pytest.approx(norm(theirs), rel=NORM, abs=0), what
        assert relative_distance(ours, theirs) < VALUES, what


def assert_on_policy(run):
    """Every log probability that DanceGRPO's training computed is one that its sampler computed, to the last bit."""
    for rank in run.ranks:
        sampled = torch.cat([log_probs.flatten() for _, log_probs in rank["rollouts"]])
        trained = torch.cat([log_probs.flatten() for log_probs in rank["training_log_probs"]])
        assert trained.dtype == torch.float32 and torch.isin(trained, sampled).all()


@EVERY_TRAINER
@RANKS
def test_native_weights_have_the_baselines(first_step, name, procs):
    baseline = first_step(name, "observe", procs)
    if name in TRAINERS:
        assert_on_policy(baseline)
    for mode in ALIKE:
        mode += ",variance=native" if name in ("ddpo", "sd") and mode.startswith("full") else ""
        assert_alike(first_step(name, mode, procs), baseline, f"{name} {mode}")


@EVERY_TRAINER
@RANKS
def test_full_has_the_one_that_its_tape_gives(first_step, name, procs):
    run, own = (
        first_step(name, "full", procs, **env) for env in ({}, {"RECORD_OWN_LOSS": str(DIVISOR[name])})
    )
    assert_alike(run, own, f"{name} full")
