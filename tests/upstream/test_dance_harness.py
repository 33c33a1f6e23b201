"""DanceGRPO's eight original trainers run on a CPU with tiny models, and what they did is on record."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dance.launch import TRAINERS

pytestmark = pytest.mark.upstream("DanceGRPO")

#: What the smallest arguments make: iterations, samples in each, trained samples in each, trained steps of each.
ITERATIONS = {name: 3 if name == "qwenimage_edit" else 2 for name in TRAINERS}
SAMPLES = {name: 5 if name == "hunyuan" else 4 for name in TRAINERS}
STEPS, TRAINED_SAMPLES = 4, 4
TRAINED_STEPS = {name: 3 if name == "sd" else 2 for name in TRAINERS}


@pytest.mark.parametrize("name", TRAINERS)
def test_trainer_runs_and_is_recorded(dance_run: Any, name: str) -> None:
    record = dance_run(name).record
    iterations, samples = ITERATIONS[name], SAMPLES[name]

    latents, log_probs = (torch.cat(parts) for parts in zip(*record["rollouts"], strict=True))
    assert latents.shape[:2] == (iterations * samples, STEPS + 1)
    assert log_probs.shape == (iterations * samples, STEPS)
    assert latents.isfinite().all() and log_probs.isfinite().all()
    assert log_probs.unique().numel() == log_probs.numel()  # every step drew noise of its own

    assert len(record["rewards"]) == iterations * (2 if name == "hunyuan" else 1)
    for rewards in record["rewards"]:
        assert rewards.shape == (samples,)
        assert rewards.std() > 1e-4  # or there would be no advantages, and nothing to train

    trained = torch.cat(record["training_log_probs"])
    assert trained.shape == (iterations * TRAINED_SAMPLES * TRAINED_STEPS[name],)
    if name != "sd":  # which rounds what it samples to bfloat16
        before_the_first_update = trained[: 2 * TRAINED_STEPS[name]]
        assert all((log_probs[:samples] == new).any() for new in before_the_first_update)

    assert len(record["gradients"]) == iterations * 2
    for gradients in record["gradients"]:
        present = torch.cat([g.flatten() for g in gradients if g is not None])
        assert present.isfinite().all() and present.norm() > 0

    losses = [v[key] for _, v in record["logs"] for key in ("loss", "train_loss") if key in v]
    assert len(losses) == (4 if name == "sd" else iterations)
    assert record["weights"].keys() == record["initial"].keys()
    assert any(not torch.equal(w, record["initial"][n]) for n, w in record["weights"].items())
