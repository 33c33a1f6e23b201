"""The first optimizer step, when the policy is the one that sampled: both arms side by side, and what has to hold."""

from __future__ import annotations

from typing import Any


def first_step(run: Any) -> dict[str, Any]:
    step: dict[str, Any] = run.metrics("step")[0]
    return step


def show(title: str, base: dict[str, Any], ours: dict[str, Any]) -> None:
    """Print both arms by timestep."""
    print(f"\n{title}: on-policy, before the first optimizer step")
    print(
        f"{'timestep':>9} {'baseline ratio':>15} {'outside':>8} {'PCPO ratio':>11} {'outside':>8} {'masked':>7}"
    )
    b, o = base["per_timestep"], ours["per_timestep"]
    for i, t in enumerate(b["timestep"]):
        print(
            f"{t:>9.6g} {b['ratio_mean'][i]:>15.7f} {b['fraction_outside'][i]:>8.2f} "
            f"{o['ratio_mean'][i]:>11.7f} {o['fraction_outside'][i]:>8.2f} {o['fraction_masked'][i]:>7.2f}"
        )
    print(f"{'all':>9} {base['ratio_mean']:>15.7f} {base['fraction_outside']:>8.2f}")


def assert_exactly_one(step: dict[str, Any], timesteps: int) -> None:
    """The ratio is exactly 1 and nothing is outside or masked, at each of so many timesteps."""
    assert step["ratio_min"] == step["ratio_max"] == 1
    assert step["fraction_outside"] == step["fraction_masked"] == 0
    per_timestep = step["per_timestep"]
    assert len(per_timestep["timestep"]) == timesteps
    assert all(r == 1 for r in per_timestep["ratio_mean"])
    assert not any(per_timestep["fraction_outside"] + per_timestep["fraction_masked"])
