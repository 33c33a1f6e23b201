"""Processes of plain ``torch.distributed``: two real ones over gloo, and none."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import pytest
import torch

from pcpo_overlay import hooks
from pcpo_overlay.config import PCPOError, parse
from pcpo_overlay.ranks import TorchRanks, is_sharded
from pcpo_overlay.record.gradients import GradientMetrics
from pcpo_overlay.rollout import Rollout
from pcpo_overlay.schedules import dancegrpo_sigmas
from pcpo_overlay.session import Session
from pcpo_overlay.steps import StepTable, dancegrpo_steps


def test_alone():
    ranks = TorchRanks("cpu")
    assert (ranks.num_processes, ranks.process_index, ranks.is_main_process) == (1, 0, True)
    rows = torch.ones(2, 3)
    assert ranks.gather(rows) is rows
    assert TorchRanks(1).device == torch.device("cuda", 1)
    assert not is_sharded(torch.nn.Linear(1, 1))


TWO = """
import json, torch, torch.distributed as dist
from pcpo_overlay.ranks import TorchRanks, sum_over_ranks
dist.init_process_group("gloo")
ranks = TorchRanks("cpu")
rows = ranks.gather(torch.full((2, 1), float(ranks.process_index)))
total = sum_over_ranks(torch.tensor([1.0, float(ranks.process_index)]))
if ranks.is_main_process:
    print(json.dumps([ranks.num_processes, rows.flatten().tolist(), total.tolist()]))
dist.destroy_process_group()
"""


def test_two_processes(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(script),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == [2, [0, 0, 1, 1], [2, 1]]


def test_gradients_in_shards_add_up():
    whole, halves = torch.nn.Linear(4, 1, bias=False), [torch.nn.Linear(2, 1, bias=False) for _ in range(2)]
    gradient = torch.tensor([[1.0, -2.0, 3.0, -6.0]])
    whole.weight.grad = gradient
    for half, part in zip(halves, gradient.chunk(2, dim=1), strict=True):
        half.weight.grad = part
    sums = []
    GradientMetrics.of(halves[1], add_up=lambda values: sums.append(values) or values)
    theirs = sums[0]
    together = GradientMetrics.of(halves[0], add_up=lambda values: values + theirs)
    alone = GradientMetrics.of(whole)
    assert together.grad_norm == pytest.approx(alone.grad_norm)
    assert together.grad_abs_mean == pytest.approx(alone.grad_abs_mean)
    assert together.grad_abs_var == pytest.approx(alone.grad_abs_var)


def test_a_parameter_in_no_module_is_a_layer_of_its_own():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Parameter(torch.zeros(2))
            self.linear = torch.nn.Linear(1, 1)

    model = Model()
    model.table.grad = torch.tensor([3.0, -4.0])
    model.linear.weight.grad = torch.ones(1, 1)
    stats = GradientMetrics.of(model)
    assert stats.grad_layer == "table"
    assert stats.grad_abs_mean == pytest.approx(3.5)


@pytest.mark.parametrize(("steps", "shift", "total"), [(12, 3.0, 11.484157), (16, 3.0, 13.343191)])
def test_native_weights_of_dancegrpo(steps, shift, total):
    table = StepTable(
        dancegrpo_steps(dancegrpo_sigmas(steps, shift), 0.3, parse("match"), steps - 1), torch.device("cpu")
    )
    assert float(table.steps.weight.sum()) == pytest.approx(total, abs=5e-7)
    assert table.weight(3, 2).tolist() == pytest.approx([float(table.steps.weight[3])] * 2)
    ours = dancegrpo_steps(dancegrpo_sigmas(steps, shift), 0.3, parse("full"), steps - 1)
    assert float(ours.weight.sum()) == pytest.approx(total, abs=5e-7)  # zeta over the untrained last step too
    assert ours.zeta == pytest.approx(total, abs=5e-7)


def test_a_deterministic_sampler_is_refused():
    with pytest.raises(PCPOError, match=r"eta is 0\.0"):
        dancegrpo_steps(dancegrpo_sigmas(4), 0.0, parse("full"))


@pytest.fixture
def session():
    made = Session(parse("match").on("dancegrpo_flux"))
    made.rollout = Rollout(made.config, made.tape, trained_steps=2)
    with hooks.using(made):
        yield made


def test_samples_drawn_one_by_one_keep_their_places(session):
    """DanceGRPO samples one image after the other, and collects them at the end; the last step is never trained."""
    sigmas = dancegrpo_sigmas(3).float()
    hooks.begin_rollout()
    for sample in range(3):
        for index in range(3):
            value = torch.full((1, 4), float(10 * sample + index))
            hooks.record_drawn_step(value, value + 2.0, value, 0.5, sigmas, index, 0.3)
    samples = {"log_probs": torch.ones(3, 2)}
    hooks.end_rollout(samples)
    assert samples["pcpo_index"].shape == (3, 2)
    for sample in range(3):
        for index in range(2):
            found = session.tape.lookup(samples["pcpo_index"][sample : sample + 1], index)
            assert found.pred_old.unique().tolist() == [10 * sample + index]
            assert found.z.unique().tolist() == [4.0]  # (sample - mean) / std


def test_the_flag_on_an_argparse_parser():
    parser = argparse.ArgumentParser()
    hooks.define_flag(parser)
    assert parser.parse_args(["--pcpo", "full,weights=uniform"]).pcpo == "full,weights=uniform"
    assert parser.parse_args([]).pcpo is None


@pytest.mark.parametrize("option", ["unique_prompts=true", "variance=paper", "w_star=5"])
def test_options_that_change_nothing_on_flux(option):
    with pytest.raises(PCPOError, match="changes nothing on dancegrpo_flux"):
        parse(f"full,{option}").on("dancegrpo_flux")
