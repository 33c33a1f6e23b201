"""Processes of plain ``torch.distributed``: two real ones over gloo, and none."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from pcpo_overlay import hooks
from pcpo_overlay.config import PCPOError, parse
from pcpo_overlay.ranks import Shards, TorchRanks, _named
from pcpo_overlay.record.gradients import GradientMetrics
from pcpo_overlay.rollout import Rollout
from pcpo_overlay.schedules import dancegrpo_sigmas
from pcpo_overlay.session import Session
from pcpo_overlay.steps import StepTable, dancegrpo_steps


def test_alone() -> None:
    ranks = TorchRanks("cpu")
    assert (ranks.num_processes, ranks.process_index, ranks.is_main_process) == (1, 0, True)
    rows = torch.ones(2, 3)
    assert ranks.gather(rows) is rows
    assert TorchRanks(1).device == torch.device("cuda", 1)
    assert Shards.of(torch.nn.Linear(1, 1)) is None
    assert (_named([1]), _named([0, 2])) == ("rank 1", "ranks 0, 2")


def on_ranks(
    tmp_path: Path, code: str, count: int = 2, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script on so many real processes over gloo; what rank 0 printed as JSON, or the exit code and stderr."""
    script = tmp_path / "script.py"
    script.write_text(code)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={count}",
        str(script),
    ]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", **(environ or {})}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environ)


TWO = """
import json, torch, torch.distributed as dist
from pcpo_overlay.ranks import TorchRanks
dist.init_process_group("gloo")
ranks = TorchRanks("cpu")
rows = ranks.gather(torch.full((2, 1), float(ranks.process_index)))
if ranks.is_main_process:
    print(json.dumps([ranks.num_processes, rows.tolist()]))
dist.destroy_process_group()
"""


def test_two_processes(tmp_path: Path) -> None:
    done = on_ranks(tmp_path, TWO)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == [2, [[0], [0], [1], [1]]]


SHARDED = """
import json, os, torch, torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP, ShardingStrategy
from pcpo_overlay.ranks import Shards
from pcpo_overlay.record.gradients import GradientMetrics
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

def made():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 1, bias=False), torch.nn.Linear(1, 16), torch.nn.Linear(16, 1))

strategy, groups = ShardingStrategy.FULL_SHARD, None
if world == 4:  # two shards, two replicas
    strategy = ShardingStrategy.HYBRID_SHARD
    inner = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    across = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    groups = (inner[rank // 2], across[rank % 2])
found = []
x = torch.arange(6.0).reshape(2, 3) / 5
for original in (False, True):
    whole, device = made(), torch.device("cpu")
    model = FSDP(made(), process_group=groups, sharding_strategy=strategy, device_id=device, use_orig_params=original)
    whole(x).square().sum().backward()
    model(x).square().sum().backward()  # the same on every rank, so the mean gradient is the whole's
    ours, alone = GradientMetrics.of(model, add_up=Shards.of(model).sum), GradientMetrics.of(whole)
    layers = [None] * world
    dist.all_gather_object(layers, ours.grad_layer)
    norm = float(model.clip_grad_norm_(1e9))
    found.append([ours.grad_norm, alone.grad_norm, norm, ours.grad_abs_mean, alone.grad_abs_mean, layers])
if rank == 0:
    print(json.dumps(found), flush=True)
dist.barrier()
os._exit(0)  # FSDP's and gloo's threads, taken down by the interpreter, end one run in fifty by SIGABRT
"""


@pytest.mark.parametrize("count", [2, 4], ids=["FULL_SHARD", "HYBRID_SHARD"])
def test_gradients_under_fsdp(tmp_path: Path, count: int) -> None:
    """With replicas the norm is not sqrt(replicas) too large, and every rank names the same first layer."""
    done = on_ranks(tmp_path, SHARDED, count)
    assert done.returncode == 0, done.stderr[-3000:]
    for original, row in enumerate(json.loads(done.stdout)):
        ours, whole, clipping, abs_mean, whole_abs_mean, layers = row
        assert ours == pytest.approx(whole, rel=1e-5) == pytest.approx(clipping, rel=1e-5)
        assert len(set(layers)) == 1
        if original:  # else a unit is a layer: all of the model here
            assert layers[0] == "0"
            assert abs_mean == pytest.approx(whole_abs_mean, rel=1e-5)


AGREE = """
import datetime, json, os, torch.distributed as dist
from pcpo_overlay import ranks
from pcpo_overlay.config import PCPOError
dist.init_process_group("gloo")
said = []
for modes in json.loads(os.environ["MODES"]):
    mode = modes[dist.get_rank()]
    ranks.AGREE_WITHIN = datetime.timedelta(seconds=1 if "unpatched" in modes else 60)
    try:
        if mode == "unpatched":
            next(ranks._calls)
        else:
            ranks.agree(mode, required=mode != "off")
        said.append(None)
    except PCPOError as error:
        said.append(str(error))
    dist.barrier()
everyone = [None, None]
dist.all_gather_object(everyone, said)
if dist.get_rank() == 0:
    print(json.dumps(list(zip(*everyone))))
dist.destroy_process_group()
"""


def test_ranks_tell_each_other_their_modes(tmp_path: Path) -> None:
    """An ``off`` rank too, which takes part in no collective of ours; a baseline does not stop for a silent one."""
    unlike = [["full", "observe"], ["full", "off"], ["off", "full"], ["match", "match,tape=cpu"]]
    alike = [["off", "off"], ["observe", "observe"], ["off", "unpatched"]]
    silent = [["full", "unpatched"]]
    done = on_ranks(tmp_path, AGREE, environ={"MODES": json.dumps([*unlike, *alike, *silent])})
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    for modes, errors in zip(unlike, said, strict=False):
        told = (
            f"the ranks run different modes: {modes[0]} on rank 0; {modes[1]} on rank 1; set PCPO (or --pcpo)"
        )
        assert all(error.startswith(told) for error in errors)
    assert said[len(unlike) : -1] == [[None, None]] * len(alike)
    assert said[-1][0].startswith("rank 1 said no PCPO mode within 0:00:01: the script there is not patched")


START = """
import argparse, os, torch.distributed as dist
from pcpo_overlay import hooks
dist.init_process_group("gloo")
mode = os.environ["MODES"].split(";")[dist.get_rank()]
args = argparse.Namespace(pcpo=mode, seed=0, sampling_steps=4, clip_range=1e-4, train_batch_size=1, num_generations=2)
hooks.start("dancegrpo_flux", "cpu", args)
print("started", flush=True)
"""


def test_ranks_of_different_modes_do_not_start(tmp_path: Path) -> None:
    done = on_ranks(tmp_path, START, environ={"MODES": "full;off", "PCPO_RUN_DIR": str(tmp_path / "run")})
    assert done.returncode != 0 and "started" not in done.stdout
    errors = {line for line in done.stderr.splitlines() if line.startswith("[pcpo] error:")}
    assert len(errors) == 1 and "different modes" in errors.pop()
    assert "SystemExit" not in done.stderr.split("[pcpo]")[0] and "exitcode  : 2" in done.stderr
    assert not (tmp_path / "run").exists()


def test_gradients_in_shards_add_up() -> None:
    whole, halves = torch.nn.Linear(4, 1, bias=False), [torch.nn.Linear(2, 1, bias=False) for _ in range(2)]
    gradient = torch.tensor([[1.0, -2.0, 3.0, -6.0]])
    whole.weight.grad = gradient
    for half, part in zip(halves, gradient.chunk(2, dim=1), strict=True):
        half.weight.grad = part
    sums: list[torch.Tensor] = []

    def noted(values: torch.Tensor) -> torch.Tensor:
        sums.append(values)
        return values

    GradientMetrics.of(halves[1], add_up=noted)
    together = GradientMetrics.of(halves[0], add_up=lambda values: values + sums[0])
    alone = GradientMetrics.of(whole)
    assert together is not None and alone is not None
    assert together.grad_norm == pytest.approx(alone.grad_norm)
    assert together.grad_abs_mean == pytest.approx(alone.grad_abs_mean)
    assert together.grad_abs_var == pytest.approx(alone.grad_abs_var)


def test_a_parameter_in_no_module_is_a_layer_of_its_own() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Parameter(torch.zeros(2))
            self.linear = torch.nn.Linear(1, 1)

    model = Model()
    model.table.grad = torch.tensor([3.0, -4.0])
    model.linear.weight.grad = torch.ones(1, 1)
    stats = GradientMetrics.of(model)
    assert stats is not None
    assert stats.grad_layer == "table"
    assert stats.grad_abs_mean == pytest.approx(3.5)


@pytest.mark.parametrize(("steps", "shift", "total"), [(12, 3.0, 11.484157), (16, 3.0, 13.343191)])
def test_native_weights_of_dancegrpo(steps: int, shift: float, total: float) -> None:
    table = StepTable(
        dancegrpo_steps(dancegrpo_sigmas(steps, shift), 0.3, parse("match"), steps - 1), torch.device("cpu")
    )
    assert float(table.steps.weight.sum()) == pytest.approx(total, abs=5e-7)
    assert table.weight(3, 2).tolist() == pytest.approx([float(table.steps.weight[3])] * 2)
    ours = dancegrpo_steps(dancegrpo_sigmas(steps, shift), 0.3, parse("full"), steps - 1)
    assert float(ours.weight.sum()) == pytest.approx(total, abs=5e-7)  # zeta over the untrained last step too
    assert ours.zeta == pytest.approx(total, abs=5e-7)


def test_a_deterministic_sampler_is_refused() -> None:
    with pytest.raises(PCPOError, match=r"eta is 0\.0"):
        dancegrpo_steps(dancegrpo_sigmas(4), 0.0, parse("full"))


@pytest.fixture
def session() -> Iterator[Session]:
    made = Session(parse("match").on("dancegrpo_flux"))
    made.rollout = Rollout(made.config, made.tape, trained_steps=range(2))
    with hooks.using(made):
        yield made


def test_samples_drawn_one_by_one_keep_their_places(session: Session) -> None:
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
            assert found.z is not None and found.z.unique().tolist() == [4.0]  # (sample - mean) / std


def test_the_flag_on_an_argparse_parser() -> None:
    parser = argparse.ArgumentParser()
    hooks.define_flag(parser)
    assert parser.parse_args(["--pcpo", "full,weights=uniform"]).pcpo == "full,weights=uniform"
    assert parser.parse_args([]).pcpo is None


@pytest.mark.parametrize("option", ["unique_prompts=true", "variance=paper", "w_star=5"])
def test_options_that_change_nothing_on_flux(option: str) -> None:
    with pytest.raises(PCPOError, match="changes nothing on dancegrpo_flux"):
        parse(f"full,{option}").on("dancegrpo_flux")
