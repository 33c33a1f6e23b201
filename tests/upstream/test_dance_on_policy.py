"""DanceGRPO's SD trainer stores latents in bfloat16 and its old log probability from before the rounding: before the
first update, when the policy is the one that sampled, its ratio is off. PCPO's is exactly 1.

Both arms are printed (``pytest -s``); the baseline's numbers are facts about upstream, not requirements.
"""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.upstream("DanceGRPO")

SETTINGS = {"sample__num_steps": 20, "num_epochs": 0}


def test_stable_diffusion_by_timestep(dance_run):
    base, ours = (dance_run("sd", mode, **SETTINGS).metrics("step")[0] for mode in ("observe", "full"))
    b, o = base["per_timestep"], ours["per_timestep"]
    print(
        f"\n{'timestep':>9} {'baseline ratio':>15} {'outside':>8} {'PCPO ratio':>11} {'outside':>8} {'masked':>7}"
    )
    for i, t in enumerate(b["timestep"]):
        print(
            f"{t:>9} {b['ratio_mean'][i]:>15.6f} {b['fraction_outside'][i]:>8.2f} "
            f"{o['ratio_mean'][i]:>11.6f} {o['fraction_outside'][i]:>8.2f} {o['fraction_masked'][i]:>7.2f}"
        )
    print(f"{'all':>9} {base['ratio_mean']:>15.6f} {base['fraction_outside']:>8.2f}")
    assert len(b["timestep"]) == len(o["timestep"]) == 19
    assert base["fraction_outside"] > 0.5
    assert base["ratio_min"] < 0.999
    assert ours["ratio_min"] == ours["ratio_max"] == 1
    assert ours["fraction_outside"] == ours["fraction_masked"] == 0
