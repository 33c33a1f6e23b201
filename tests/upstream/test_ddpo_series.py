"""Twenty epochs at a fixed seed: the logged series equal stored ones within stated tolerances.

After a change that is meant to change them, write them anew and look at the difference:

    PCPO_WRITE_REFERENCE=1 python -m pytest tests/upstream/test_ddpo_series.py
"""

from __future__ import annotations

from typing import Any

import pytest
from series import check

pytestmark = [pytest.mark.upstream, pytest.mark.slow]

SETTINGS = {
    "use_lora": False,
    "num_epochs": 20,
    "sample__num_steps": 10,
    "sample__batch_size": 8,
    "train__batch_size": 8,
    "train__learning_rate": 3e-4,
}
#: See :data:`series.Tolerances`. For scale: six sets of vector instructions (of torch, oneDNN and MKL) and two threads
#: in place of one, which change rounding alone, moved late values by at most 8e-3 (reward), 6e-2 (outside), 9e-2
#: (masked), 5e-4 (ratio) and 7e-2 (gradient norm), and early ones by 6e-4, 1e-2, 3e-2, 1e-4 and 5e-3. An image whose
#: advantage changes its sign, by some bytes of a JPEG, is masked at other steps: up to 10 of 160.
TOLERANCES = {
    "reward_mean": (4e-3, 2.5e-2, 6e-3),
    "fraction_outside": (3e-2, 2e-1, 4e-2),
    "fraction_masked": (7e-2, 2e-1, 4e-2),
    "ratio_mean": (2e-4, 2e-3, 3e-4),
    "grad_norm": (5e-2, 4e-1, 8e-2),
}


@pytest.mark.parametrize("mode", ["observe", "full,variance=paper", "full"])
def test_series(ddpo_run: Any, mode: str) -> None:
    check("ddpo", mode, ddpo_run(mode, **SETTINGS).metrics("epoch"), TOLERANCES)
