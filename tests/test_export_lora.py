"""``pcpo export-lora``: diffusers' own ``load_lora_weights`` draws the same pictures from it, bit for bit."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from policies import ddpo_lora, flow_lora, flux_lora, whole_unet
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from synthetic_runs import write_run
from test_sample import ASKED, LOADERS, by_hand, command

from pcpo_overlay.__main__ import main
from pcpo_overlay.tools.checkpoints.export import FILE
from pcpo_overlay.tools.miniature import PROMPTS
from pcpo_overlay.tools.sample import folder

pytestmark = pytest.mark.usefixtures("offline_on_one_thread")
Capture = pytest.CaptureFixture[str]

#: A scale of 2 goes into the factors, one of 1.5 does not; ddpo-pytorch has none.
FORMS: dict[str, tuple[str, Any]] = {
    "ddpo": ("sd", ddpo_lora),
    "flow_grpo, scale 2": ("sd3", partial(flow_lora, alpha=8)),
    "flow_grpo, scale 1.5": ("sd3", partial(flow_lora, alpha=6)),
    "DanceGRPO, scale 0.5": ("flux", partial(flux_lora, alpha=2)),
    "DanceGRPO, scale 1.5": ("flux", partial(flux_lora, alpha=6)),
}


def export(checkpoint: Path, out: Path, *more: object) -> int:
    return main(["export-lora", str(checkpoint), "--out", str(out), *map(str, more)])


@pytest.mark.parametrize("name", FORMS)
def test_diffusers_own_loader_draws_the_same_pictures(tmp_path: Path, name: str) -> None:
    model, save = FORMS[name]
    checkpoint = tmp_path / "checkpoint_4"
    save(checkpoint)
    assert export(checkpoint, tmp_path / "lora") == 0
    assert (
        command(tmp_path / "of-it", "--limit", 2, "--checkpoint", checkpoint, model=f"miniature-{model}") == 0
    )
    drawn = folder.load(tmp_path / "of-it")

    pipeline = LOADERS[model]()
    base = by_hand(pipeline, PROMPTS[0], 0, **ASKED[model])
    pipeline.load_lora_weights(str(tmp_path / "lora"), weight_name=FILE)
    for picture in drawn.pictures():
        assert torch.equal(drawn.read(picture), by_hand(pipeline, picture.text, 0, **ASKED[model]))
    assert not torch.equal(by_hand(pipeline, PROMPTS[0], 0, **ASKED[model]), base)

    # and `sample` reads what was exported
    again = tmp_path / "of-the-exported"
    assert command(again, "--limit", 2, "--checkpoint", tmp_path / "lora", model=f"miniature-{model}") == 0
    held = folder.load(again)
    for one, other in zip(drawn.pictures(), held.pictures(), strict=True):
        assert torch.equal(drawn.read(one), held.read(other))


@pytest.mark.parametrize("name", ["flow_grpo, scale 2", "DanceGRPO, scale 0.5", "ddpo"])
def test_a_loader_that_reads_no_header_gets_the_same_scale(tmp_path: Path, name: str) -> None:
    """Which is what goes wrong where a LoRA looks like noise, or like nothing."""
    model, save = FORMS[name]
    save(tmp_path / "checkpoint_4")
    assert export(tmp_path / "checkpoint_4", tmp_path / "lora") == 0
    drawn = []
    for state in (str(tmp_path / "lora"), load_file(tmp_path / "lora" / FILE)):  # a dictionary has no header
        pipeline = LOADERS[model]()
        pipeline.load_lora_weights(state, weight_name=FILE)
        drawn.append(by_hand(pipeline, PROMPTS[1], 5, **ASKED[model]))
    assert torch.equal(*drawn)


def test_the_card_says_what_the_run_says(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run",
        rewards=[0.0],
        upstream="flow_grpo",
        trainer={"pretrained": {"model": "stabilityai/stable-diffusion-3.5-medium"}},
        clone={"commit": "c" * 40},
        seed=11,
    )
    flow_lora(run / "checkpoints" / "checkpoint-6")
    assert export(run / "checkpoints" / "checkpoint-6", tmp_path / "lora") == 0
    card = (tmp_path / "lora" / "README.md").read_text()
    front = card.split("---\n")[1]
    assert "base_model: stabilityai/stable-diffusion-3.5-medium\n" in front and "- lora\n" in front
    assert "license" not in front, "which is the user's to choose"
    held = json.loads((run / "run.json").read_text())
    assert f"`{held['pcpo']['mode']}" in card and "c" * 40 in card and "| seed | 11 |" in card
    assert "Flow-GRPO" in card and "scripts/train_sd3.py" in card and "Licence: not chosen" in card
    assert str(tmp_path) not in card
    with safe_open(tmp_path / "lora" / FILE, framework="pt") as file:
        assert json.loads(file.metadata()["lora_adapter_metadata"])["transformer.r"] == 4


def test_the_card_without_a_run_and_with_a_name_given(tmp_path: Path) -> None:
    flux_lora(tmp_path / "a", alpha=6)
    assert export(tmp_path / "a", tmp_path / "lora", "--base-model", "someone/flux") == 0
    card = (tmp_path / "lora" / "README.md").read_text()
    assert "base_model: someone/flux\n" in card and "no run folder lies above" in card
    assert "takes diffusers 0.34 or later" in card


def whole(path: Path) -> None:
    whole_unet(path)


def of_another_form(path: Path) -> None:
    ddpo_lora(path)
    file = path / "pytorch_lora_weights.safetensors"
    save_file({**load_file(file), "other.processor.to_q_lora.mid.weight": torch.zeros(2, 2)}, file)


def half(path: Path) -> None:
    flow_lora(path)
    file = path / "lora" / "adapter_model.safetensors"
    held = load_file(file)
    held.pop(sorted(held)[0])
    save_file(held, file)


def of_another_rank(path: Path) -> None:
    flux_lora(path)
    told = json.loads((path / "lora_config.json").read_text())
    told["lora_params"]["lora_rank"] = 8
    (path / "lora_config.json").write_text(json.dumps(told))


def exported(path: Path) -> None:
    ddpo_lora(path / "before")
    assert export(path / "before", path / "after") == 0
    for file in (path / "after").iterdir():
        file.rename(path / file.name)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (whole, "holds a whole network and no LoRA"),
        (of_another_form, "to_q_lora.mid.weight is no low-rank factor"),
        (half, "has one factor of two"),
        (of_another_rank, "has factors of ranks [4], and should of 8"),
        (exported, "is no trainer's LoRA; is it exported already?"),
        (lambda path: path.mkdir(), "is no checkpoint of a trainer's"),
    ],
)
def test_refuses_in_one_line(tmp_path: Path, capsys: Capture, make: Any, told: str) -> None:
    make(tmp_path / "a")
    capsys.readouterr()
    assert export(tmp_path / "a", tmp_path / "out") == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("pcpo export-lora: ") and told in err, err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_others_is_not_written(tmp_path: Path, capsys: Capture) -> None:
    ddpo_lora(tmp_path / "a")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / FILE).write_text("mine")
    assert export(tmp_path / "a", tmp_path / "out") == 1
    assert "did not make" in capsys.readouterr().err and (tmp_path / "out" / FILE).read_text() == "mine"
    assert export(tmp_path / "a", tmp_path / "new") == 0 == export(tmp_path / "a", tmp_path / "new"), (
        "its own it may"
    )
