"""Logged series of a run against stored ones, within stated tolerances."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

REFERENCES = Path(__file__).resolve().parent / "reference"
#: Over the first epochs another processor's rounding has not grown yet.
EARLY_EPOCHS = 3

#: For each series the largest deviation over the early epochs and over all, and the mean signed deviation, which a bias
#: cannot hide in.
Tolerances = dict[str, tuple[float, float, float]]


def check(name: str, mode: str, epochs: list[dict[str, Any]], tolerances: Tolerances) -> None:
    """Compare a run's epoch records with ``reference/NAME_series.json``.

    ``PCPO_WRITE_REFERENCE=1`` writes that file anew first: look at the difference before you keep it.
    """
    reference = REFERENCES / f"{name}_series.json"
    series = {key: [e[key] for e in epochs] for key in tolerances}
    if os.environ.get("PCPO_WRITE_REFERENCE") == "1":
        stored = json.loads(reference.read_text()) if reference.exists() else {}
        stored[mode] = {key: [float(f"{v:.9g}") for v in values] for key, values in series.items()}
        reference.parent.mkdir(exist_ok=True)
        reference.write_text(json.dumps(stored, indent=1) + "\n")
    stored = json.loads(reference.read_text())[mode]
    for key, (early, late, bias) in tolerances.items():
        deviations = [a - b for a, b in zip(series[key], stored[key], strict=True)]
        assert len(deviations) == 20
        worst = max(map(abs, deviations))
        mean = sum(deviations) / len(deviations)
        print(f"{mode} {key}: largest deviation {worst:.2e}, mean {mean:+.2e}")
        assert max(map(abs, deviations[:EARLY_EPOCHS])) <= early, key
        assert worst <= late, key
        assert abs(mean) <= bias, key
