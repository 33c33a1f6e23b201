"""What upstream's trainers save is what ``evaluate`` draws from: the trained weights, never the base model's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pcpo_overlay.tools.evaluate import records
from pcpo_overlay.tools.evaluate.loaders import LOADERS
from pcpo_overlay.tools.evaluate.run import Request, evaluate
from pcpo_overlay.tools.miniature import sd_path

pytestmark = pytest.mark.usefixtures("offline_on_one_thread")


def evaluated(monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[list[dict[str, Any]], list[Any]]:
    """The lines about a run, and the network that each policy was drawn from."""
    name = json.loads((folder / "run.json").read_text())["upstream"]
    loader, drawn_from = LOADERS[name], []

    def sample(pipeline: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        drawn_from.append(getattr(pipeline, loader.network))
        return loader.sample(pipeline, *args, **kwargs)

    monkeypatch.setitem(LOADERS, name, replace(loader, sample=sample))
    (folder / records.FILE).unlink(missing_ok=True)  # runs are shared between tests
    assert evaluate(folder, Request(samples=2, seed=0), lambda _: None) == []
    return [json.loads(line) for line in (folder / records.FILE).read_text().splitlines()], drawn_from


def check(lines: list[dict[str, Any]], kind: str, checkpoint: str) -> None:
    """A base model and the checkpoint after two epochs, which draws something else.

    Some trainers save their model before any training, too, which draws what the base model does.
    """
    base, *before, trained = lines
    assert len(before) < 2 and all((line["epoch"], line["overall"]["frechet"]) == (0, 0) for line in before)
    assert (base["checkpoint"], base["epoch"]) == ("base", 0)
    assert (trained["checkpoint"], trained["epoch"], trained["weights"]) == (checkpoint, 2, kind)
    assert base["overall"]["frechet"] == 0 and trained["overall"]["frechet"] > 1e-6
    assert trained["overall"]["reward"] != base["overall"]["reward"]


def trained_weights(record: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("module."): value for name, value in record["weights"].items()}


@pytest.mark.upstream("ddpo-pytorch")
@pytest.mark.parametrize("use_lora", [True, False], ids=["lora", "full-finetuning"])
def test_ddpo(ddpo_run: Any, monkeypatch: pytest.MonkeyPatch, use_lora: bool) -> None:
    run = ddpo_run("observe", use_lora=use_lora, save_freq=1)
    lines, networks = evaluated(monkeypatch, run.folder)
    check(lines, "lora" if use_lora else "network", "checkpoint_0")
    trained = trained_weights(run.record)
    if use_lora:  # upstream trains a list of the processors
        processors = enumerate(networks[-1].attn_processors.values())
        held = {f"layers.{i}.{n}": p for i, processor in processors for n, p in processor.named_parameters()}
    else:
        held = dict(networks[-1].named_parameters())
    assert held.keys() == trained.keys()
    assert all(torch.equal(held[name], value) for name, value in trained.items())
    if not use_lora:
        base = LOADERS["ddpo"].load_pipeline(sd_path()).unet.state_dict()
        assert not all(torch.equal(base[name], value) for name, value in trained.items())


@pytest.mark.upstream("flow_grpo")
@pytest.mark.parametrize(
    ("name", "settings", "kind"),
    [
        ("sd3", {}, "lora"),
        ("sd3", {"use_lora": False, "train__beta": 0.0}, "network"),
        *((name, {}, "lora") for name in ("sd3_fast", "sd3_GRPO_Guard", "flux", "flux_fast")),
    ],
)
def test_flow_grpo(
    flow_runs: Any, monkeypatch: pytest.MonkeyPatch, name: str, settings: dict[str, Any], kind: str
) -> None:
    run = flow_runs(name, "observe", **settings)
    lines, networks = evaluated(monkeypatch, run.folder)
    check(lines, kind, "checkpoint-4")
    held, trained = dict(networks[-1].named_parameters()), trained_weights(run.record)
    assert trained and all(torch.equal(held[name], value) for name, value in trained.items())
    if kind == "network":
        loader = LOADERS[run.run_json["upstream"]]
        base = loader.load_pipeline(loader.shipped).transformer.state_dict()
        assert held.keys() == trained.keys()
        assert not all(torch.equal(base[name], value) for name, value in trained.items())


@pytest.mark.upstream("flow_grpo")
def test_the_averaged_weights_of_flow_grpo(flow_runs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``train.ema`` a checkpoint holds the average, of which upstream takes a step every eight of the policy's."""
    plain, averaged = (
        flow_runs("sd3_fast", "observe", num_epochs=4, train__ema=ema) for ema in (False, True)
    )
    assert [s["loss"] for s in plain.metrics("step")] == [s["loss"] for s in averaged.metrics("step")]
    networks = [evaluated(monkeypatch, run.folder)[1][-1] for run in (plain, averaged)]
    policy, average = (dict(network.named_parameters()) for network in networks)
    # one step of the average, by 1 - 8/17 of the way to the policy after seven of eight updates
    factors = [
        name for name in trained_weights(plain.record) if "lora_B" in name and policy[name].abs().max() > 0
    ]
    left = [float(((average[name] - policy[name]).norm() / policy[name].norm()).detach()) for name in factors]
    assert left and all(0.4 < share < 0.65 for share in left)
