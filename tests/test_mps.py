"""Apple's GPUs have no float64: nothing that PCPO records asks one for it. Played on a CPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import records, start

import pcpo_overlay
from pcpo_overlay import hooks
from pcpo_overlay.losses import as_float64
from pcpo_overlay.record.rewards import Rewards
from pcpo_overlay.trainers import TRAINERS

__all__ = ["start"]
PACKAGE = Path(pcpo_overlay.__file__).parent


class OnMPS(torch.Tensor):
    """A tensor that says it is on such a GPU, and fails as one does there."""

    device = property(lambda self: torch.device("mps"))

    def double(self, *_: Any, **__: Any) -> torch.Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    def cpu(self, *_: Any, **__: Any) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


def on_mps(*values: float) -> torch.Tensor:
    return torch.tensor(values).as_subclass(OnMPS)


def test_a_tensor_goes_to_the_cpu_for_float64() -> None:
    with pytest.raises(TypeError):
        on_mps(1.0).double()
    assert as_float64(on_mps(0.25, 0.5)).tolist() == [0.25, 0.5]
    assert as_float64(on_mps(0.25)).dtype == torch.float64


def test_rewards_of_an_evaluation(start: Any, tmp_path: Path) -> None:
    start("flow_grpo", "observe")
    hooks.log_eval({"avg": on_mps(1.0, 2.0), "ocr": on_mps(0.5, -10.0)}, 4)
    (record,) = records(tmp_path, "eval")
    assert (record["reward_mean"], record["rewards"]["ocr"]) == (1.5, 0.5)


def test_rewards_by_name() -> None:
    rewards = Rewards(TRAINERS["flow_grpo"], {})
    rewards.note({"rewards": {"avg": torch.tensor([1.0, 3.0]), "ocr": torch.tensor([0.5, -10.0])}})
    cpu = torch.device("cpu")
    found = rewards.summary(torch.tensor([1.0, 3.0]), cpu, lambda x: x.as_subclass(OnMPS))
    assert found["rewards"] == {"avg": 2.0, "ocr": 0.5}


def test_no_other_line_asks_for_it() -> None:
    """What is summed up in a step's record is on the CPU by then, as are the groups' spreads."""
    lines = {
        (path.relative_to(PACKAGE).as_posix(), line.strip())
        for folder in (PACKAGE, PACKAGE / "record", PACKAGE / "compat")
        for path in folder.glob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\.double\(\)|to\([^)]*float64", line) and ".cpu()" not in line
    }
    assert lines == {
        ("record/metrics.py", "outside, masked = stats.outside.double(), stats.masked.double()"),
        (
            "record/rewards.py",
            "return float((high == low)[several].double().mean()) if bool(several.any()) else None",
        ),
    }
