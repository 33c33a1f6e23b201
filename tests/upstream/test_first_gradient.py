"""The gradient of the first optimizer step, when the policy is the one that sampled, in every trainer.

There every objective with native weights has the same gradient, whatever it is computed from, and plain ``full`` has
the one that follows from what the tape holds (``asked.objective``). Two samples or more are accumulated, and two
timesteps or more of each; what a trainer divides its loss by is in it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bits import relative_distance
from dance.launch import TRAINERS

#: Relative, in float32. Upstream's log probability takes the noise back from the sample that was drawn, which leaves
#: single values fewer digits than their sum: ``(prev_sample - mean)/std`` where the std is small.
NORM, VALUES = 1e-6, 3e-5
ALIKE = ("log", "match", "full,weights=native")
#: The trainers that divide a step's loss themselves: by 2 samples accumulated, and 2 timesteps trained of each. In the
#: others accelerate divides what the loss hook returns.
DIVIDES = {name: 2 * 2 for name in TRAINERS if name != "sd"}


@pytest.fixture
def begun(request: pytest.FixtureRequest) -> Any:
    """``begun(NAME, MODE, procs, steps=1, **env)``: a run in float32, up to the gradients of that optimizer step."""

    def run(name: str, mode: str, procs: int, steps: int = 1, **env: str) -> Any:
        env = {"RECORD_STEPS": str(steps), **env}
        settings = {} if name in DIVIDES else {"train__gradient_accumulation_steps": 2}
        if settings and steps > 1:  # these take one step on what they sample
            settings["train__num_inner_epochs"] = steps
        if name in TRAINERS:
            env["RECORD_FLOAT32"] = "1"
            return request.getfixturevalue("dance_run")(name, mode, procs, env=env, **settings)
        if name == "flow_qwenimage":
            return request.getfixturevalue("flow_runs")(
                "qwenimage", mode, procs, env=env, num_epochs=1, **settings
            )
        make = request.getfixturevalue({"ddpo": "ddpo_run", "flow_grpo": "flow_run"}[name])
        return make(mode, procs, env=env, num_epochs=1, **settings)

    return run


def cases(name: str, upstream: pytest.MarkDecorator, ranks: tuple[int, ...] = (1, 2)) -> list[Any]:
    told = {1: "one-rank", 2: "two-ranks"}
    return [pytest.param(name, procs, marks=upstream, id=f"{told[procs]}-{name}") for procs in ranks]


EVERY_TRAINER = pytest.mark.parametrize(
    ("name", "procs"),
    [
        *cases("ddpo", pytest.mark.upstream),
        *cases("flow_grpo", pytest.mark.upstream("flow_grpo")),
        # flow_grpo's trainer that divides its loss itself; its launch scripts shard it
        *cases("flow_qwenimage", pytest.mark.upstream("flow_grpo"), ranks=(2,)),
        *(case for name in TRAINERS for case in cases(name, pytest.mark.upstream("DanceGRPO"))),
    ],
)


def norm(gradients: list[Any]) -> float:
    return float(torch.cat([g.double().flatten() for g in gradients if g is not None]).norm())


def assert_alike(run: Any, other: Any, steps: int, what: str) -> None:
    """The gradients of so many optimizer steps, rank by rank: their norms, and all of their values."""
    for a, b in zip(run.ranks, other.ranks, strict=True):
        assert len(a["gradients"]) == len(b["gradients"]) == steps
        for ours, theirs in zip(a["gradients"], b["gradients"], strict=True):
            assert norm(theirs) > 0
            assert norm(ours) == pytest.approx(norm(theirs), rel=NORM, abs=0), what
            assert relative_distance(ours, theirs) < VALUES, what


def assert_on_policy(run: Any) -> None:
    """Every log probability that DanceGRPO's training computed is one that its sampler computed, to the last bit."""
    for rank in run.ranks:
        sampled = torch.cat([log_probs.flatten() for _, log_probs in rank["rollouts"]])
        trained = torch.cat([log_probs.flatten() for log_probs in rank["training_log_probs"]])
        assert trained.dtype == torch.float32 and torch.isin(trained, sampled).all()


@EVERY_TRAINER
def test_native_weights_have_the_baselines(begun: Any, name: str, procs: int) -> None:
    baseline = begun(name, "observe", procs)
    if name in TRAINERS:
        assert_on_policy(baseline)
    for mode in ALIKE:
        mode += ",variance=native" if name in ("ddpo", "sd") and mode.startswith("full") else ""
        assert_alike(begun(name, mode, procs), baseline, 1, f"{name} {mode}")


@EVERY_TRAINER
def test_full_has_the_one_that_its_tape_gives(begun: Any, name: str, procs: int) -> None:
    """And so has the second step, which is off the policy: there the quadratic term of the credit counts."""
    own = {"RECORD_OWN_LOSS": str(DIVIDES.get(name, 1))}
    run, other = (begun(name, "full", procs, steps=2, **env) for env in ({}, own))
    assert_alike(run, other, 2, f"{name} full")
