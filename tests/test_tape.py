"""The tape gives back to every sample and step what was recorded for it, however the trainer shuffles."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pcpo_overlay import hooks
from pcpo_overlay.config import HookError
from pcpo_overlay.tape import INDEX, Tape

BATCH, STEPS = 3, 4


def value(rollout: int, sample: int, step: int) -> int:
    return 100 * rollout + 10 * sample + step


def record_rollout(tape: Tape, rollout: int, dtype: torch.dtype = torch.float32) -> Tensor:
    for step in range(STEPS):
        values = torch.tensor([float(value(rollout, b, step)) for b in range(BATCH)])
        pred = values[:, None, None].expand(BATCH, 2, 2).to(dtype)
        tape.record(pred, -pred, values / 8, values / 4)
    return tape.close_rollout()


def test_lookup_after_shuffling_samples_and_steps() -> None:
    tape = Tape()
    index = torch.cat([record_rollout(tape, r) for r in range(2)])
    truth = torch.tensor([[value(r, b, s) for s in range(STEPS)] for r in range(2) for b in range(BATCH)])
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):  # inner epochs shuffle what is shuffled already
        perm = torch.randperm(2 * BATCH, generator=generator)
        perms = torch.stack([torch.randperm(STEPS, generator=generator) for _ in range(2 * BATCH)])
        samples = {INDEX: index[perm], "other": torch.zeros(1)}
        hooks.permute(samples, perms)
        index, truth = samples[INDEX], torch.gather(truth[perm], 1, perms)
        for step in range(STEPS):
            matched = tape.lookup(index, step)
            expected = truth[:, step].float()
            assert torch.equal(matched.pred_old[:, 0, 0], expected)
            assert matched.z is not None and torch.equal(matched.z[:, 1, 1], -expected)
            assert torch.equal(matched.weight, expected / 8)
            assert torch.equal(matched.policy_weight, expected / 4)


def test_a_tape_on_the_cpu_gives_the_same_back() -> None:
    """On a machine without a GPU both lie in the same memory; what differs is that the device is asked for it."""
    here, there = Tape(), Tape(on_cpu=True)
    index = record_rollout(here, 0)
    assert torch.equal(record_rollout(there, 0), index)
    a, b = here.lookup(index, 2), there.lookup(index, 2)
    assert a.z is not None and b.z is not None
    assert torch.equal(a.pred_old, b.pred_old) and torch.equal(a.z, b.z) and torch.equal(a.weight, b.weight)
    assert here.nbytes == there.nbytes


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_tape_on_the_cpu_leaves_the_device() -> None:
    tape = Tape(on_cpu=True)
    values = torch.ones(BATCH, 2, device="cuda")
    tape.record(values, -values, *torch.ones(2, BATCH, device="cuda"))
    assert tape._pred.joined().device.type == tape._z.joined().device.type == "cpu"
    index = tape.close_rollout()
    assert index.device.type == "cuda"
    matched = tape.lookup(index, 0)
    assert matched.z is not None
    assert matched.pred_old.device.type == matched.z.device.type == "cuda"


def test_a_subset_of_the_samples_keeps_its_records() -> None:
    tape = Tape()
    index = record_rollout(tape, 0)[[2, 0]]
    assert tape.lookup(index, 1).pred_old[:, 0, 0].tolist() == [value(0, 2, 1), value(0, 0, 1)]


def test_dtypes_are_kept_and_nothing_hangs_on_the_graph() -> None:
    tape = Tape()
    pred = torch.ones(BATCH, 2, dtype=torch.bfloat16, requires_grad=True)
    tape.record(pred, pred, *torch.ones(2, BATCH))
    matched = tape.lookup(tape.close_rollout(), 0)
    assert matched.z is not None
    assert matched.pred_old.dtype == matched.z.dtype == torch.bfloat16
    assert matched.weight.dtype == torch.float32
    assert not matched.pred_old.requires_grad
    assert tape.nbytes == BATCH * (2 * 2 * 2 + 2 * 4)


def test_an_empty_rollout_is_an_error() -> None:
    tape = Tape()
    record_rollout(tape, 0)
    with pytest.raises(HookError, match="recorded no step"):
        tape.close_rollout()


def test_clear_forgets() -> None:
    tape = Tape()
    record_rollout(tape, 0)
    tape.clear()
    assert tape.nbytes == 0
    assert record_rollout(tape, 1).min() == 0


def test_room_for_as_much_as_the_last_epoch_had() -> None:
    """The second epoch is written into one piece of memory, and read from it without a copy."""
    tape = Tape()
    for rollout in range(2):
        record_rollout(tape, rollout)
    tape.clear()
    first = record_rollout(tape, 0)
    room = tape._pred._room
    assert room is not None and room.shape == (2 * BATCH * STEPS, 2, 2)
    index = torch.cat([first, record_rollout(tape, 1)])
    assert tape._pred.joined() is room
    expected = [value(r, b, 1) for r in range(2) for b in range(BATCH)]
    assert tape.lookup(index, 1).pred_old[:, 0, 0].tolist() == expected


@pytest.mark.parametrize("changed", ["more", "fewer", "dtype"])
def test_an_epoch_unlike_the_last_one(changed: Any) -> None:
    tape = Tape()
    for rollout in range(2):
        record_rollout(tape, rollout)
    tape.clear()
    rollouts = {"more": 3, "fewer": 1, "dtype": 2}[changed]
    dtype = torch.float64 if changed == "dtype" else torch.float32
    index = torch.cat([record_rollout(tape, r, dtype) for r in range(rollouts)])
    for step in range(STEPS):
        found = tape.lookup(index, step)
        assert found.pred_old.dtype == dtype
        assert found.pred_old[:, 0, 0].tolist() == [
            value(r, b, step) for r in range(rollouts) for b in range(BATCH)
        ]


def test_an_epoch_that_outgrows_its_room_in_the_middle() -> None:
    tape = Tape()
    record_rollout(tape, 0)
    tape.clear()
    for step in range(3):  # of five samples: the room of twelve rows is left with two of them empty
        values = torch.arange(5.0) + 10 * step
        tape.record(values[:, None], -values[:, None], values, values)
    index = tape.close_rollout()
    for step in range(3):
        found = tape.lookup(index, step)
        assert found.pred_old[:, 0].tolist() == [10 * step + n for n in range(5)] == found.weight.tolist()
    # on an accelerator the pieces are joined before they are read
    joined = [10 * step + n for step in range(3) for n in range(5)]
    assert tape._pred.joined()[:, 0].tolist() == joined


def test_a_first_epoch_joined_as_on_an_accelerator() -> None:
    tape = Tape()
    index = torch.cat([record_rollout(tape, r) for r in range(2)])
    before = [tape.lookup(index, step) for step in range(STEPS)]
    tape._pred.joined()
    for step, found in enumerate(before):
        again = tape.lookup(index, step).pred_old
        assert torch.equal(again, found.pred_old)
        assert again[:, 0, 0].tolist() == [value(r, b, step) for r in range(2) for b in range(BATCH)]


def test_without_noise_there_is_none() -> None:
    tape = Tape()
    tape.record(torch.ones(BATCH, 2), None, *torch.ones(2, BATCH))
    assert tape.lookup(tape.close_rollout(), 0).z is None


def test_clearing_twice_keeps_what_is_known_of_the_last_epoch() -> None:
    """The training's end clears, and so does the next epoch's begin."""
    tape = Tape()
    record_rollout(tape, 0)
    tape.clear()
    tape.clear()
    record_rollout(tape, 1)
    assert tape._pred._room is not None
