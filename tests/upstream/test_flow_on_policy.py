"""Before the first optimizer step the policy is the one that sampled: the ratio should be 1 at every timestep.

Each test prints both arms (``pytest -s``); the baseline's numbers are facts about upstream, not requirements.
"""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.upstream("flow_grpo")

#: Ten steps as upstream's configurations have, of which nine are trained.
SETTINGS = {"num_epochs": 1, "sample__num_steps": 10}
PRECISIONS = {
    "float32": {},
    "bfloat16": {"mixed_precision": "bf16"},
    "float16": {"mixed_precision": "fp16", "env": {"RECORD_ALLOW_FP16": "1"}},
}


def first_step(run):
    return run.metrics("step")[0]


def show(title, base, ours):
    print(f"\n{title}: before the first update, by timestep")
    print(
        f"{'timestep':>9} {'baseline ratio':>15} {'outside':>8} {'PCPO ratio':>11} {'outside':>8} {'masked':>7}"
    )
    b, o = base["per_timestep"], ours["per_timestep"]
    for i, t in enumerate(b["timestep"]):
        print(
            f"{t:>9.1f} {b['ratio_mean'][i]:>15.7f} {b['fraction_outside'][i]:>8.2f} "
            f"{o['ratio_mean'][i]:>11.7f} {o['fraction_outside'][i]:>8.2f} {o['fraction_masked'][i]:>7.2f}"
        )
    print(f"{'all':>9} {base['ratio_mean']:>15.7f} {base['fraction_outside']:>8.2f}")


@pytest.mark.parametrize(
    ("precision", "mode"),
    [("float32", "full"), ("bfloat16", "match"), ("bfloat16", "full"), ("float16", "full")],
)
def test_ratio_is_exactly_one(flow_run, precision, mode):
    settings = {**SETTINGS, **PRECISIONS[precision]}
    base, ours = (first_step(flow_run(m, **settings)) for m in ("observe", mode))
    show(f"{precision}, {mode}", base, ours)
    assert ours["ratio_min"] == ours["ratio_max"] == 1
    assert ours["fraction_outside"] == ours["fraction_masked"] == 0
    per_timestep = ours["per_timestep"]
    assert len(per_timestep["timestep"]) == 9
    assert all(r == 1 for r in per_timestep["ratio_mean"])
    assert not any(per_timestep["fraction_outside"] + per_timestep["fraction_masked"])


def test_the_baseline_in_bfloat16_is_not(flow_run):
    """What the test above is for: with the same network the baseline's ratio is off, and partly outside."""
    base = first_step(flow_run("observe", **SETTINGS, **PRECISIONS["bfloat16"]))
    assert base["ratio_std"] > 0
    assert base["fraction_outside"] > 0
