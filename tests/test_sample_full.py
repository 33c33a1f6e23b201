"""The full-size models' own classes in the layout that the hub has them in, tiny and random."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from policies import move
from test_sample import by_hand, command, content

from pcpo_overlay.tools.miniature import sd3_path
from pcpo_overlay.tools.sample import folder

sys.path.insert(0, str(Path(__file__).parent / "upstream"))
import qwen_image

pytestmark = pytest.mark.usefixtures("offline_on_one_thread")


def sd35(path: Path) -> Path:
    """SD 3.5 medium's network has normalised queries and a second attention in its first blocks."""
    from diffusers import SD3Transformer2DModel

    shutil.copytree(sd3_path(), path)
    config = json.loads((path / "transformer" / "config.json").read_text())
    shutil.rmtree(path / "transformer")
    kept = {k: v for k, v in config.items() if not k.startswith("_")}
    torch.manual_seed(0)
    network = SD3Transformer2DModel(**{**kept, "qk_norm": "rms_norm", "dual_attention_layers": [0]})
    move(network, 0.1)
    network.save_pretrained(path / "transformer")
    index = json.loads((path / "model_index.json").read_text())
    index |= {"image_encoder": [None, None], "feature_extractor": [None, None]}
    (path / "model_index.json").write_text(json.dumps(index))
    return path


def of_it(path: Path, pipeline: Any) -> Any:
    import diffusers

    return getattr(diffusers, pipeline).from_pretrained(str(path), local_files_only=True)


def test_stable_diffusion_3_5(tmp_path: Path) -> None:
    model = sd35(tmp_path / "sd35")
    assert command(tmp_path / "a", "--limit", 2, "--shift", 1, model=str(model)) == 0
    pipeline = of_it(model, "StableDiffusion3Pipeline")
    scheduler = pipeline.scheduler
    pipeline.scheduler = scheduler.from_config(scheduler.config, shift=1.0)
    held = folder.load(tmp_path / "a")
    asked = {"guidance_scale": 4.5, "max_sequence_length": 128, "height": 32, "width": 32}
    for picture in held.pictures():
        assert torch.equal(held.read(picture), by_hand(pipeline, picture.text, 0, **asked))
    assert command(tmp_path / "b", "--limit", 2, model=str(model)) == 0
    assert content(tmp_path / "a") != content(tmp_path / "b"), "the shift is taken"


def test_qwen_image_and_an_expert_of_it(tmp_path: Path) -> None:
    model = qwen_image.build(tmp_path / "qwen")
    more = ("--limit", 1, "--size", 32)
    assert command(tmp_path / "base", *more, model=str(model)) == 0
    pipeline = of_it(model, "QwenImagePipeline")
    held = folder.load(tmp_path / "base")
    asked = {"true_cfg_scale": 4.0, "negative_prompt": " ", "height": 32, "width": 32}
    (picture,) = held.pictures()
    assert torch.equal(held.read(picture), by_hand(pipeline, picture.text, 0, **asked))

    move(pipeline.transformer, 0.3)
    pipeline.transformer.save_pretrained(tmp_path / "checkpoint" / "transformer")
    tuned = tmp_path / "checkpoint"
    assert command(tmp_path / "tuned", *more, "--checkpoint", tuned, model=str(model)) == 0
    drawn = {}
    for strength in (0, 0.5, 1):
        out = tmp_path / f"mix-{strength}"
        assert command(out, *more, "--expert", f"{tuned}={strength}", model=str(model)) == 0
        drawn[strength] = content(out)["00000/0.png"]
    assert drawn[0] == content(tmp_path / "base")["00000/0.png"]
    assert drawn[1] == content(tmp_path / "tuned")["00000/0.png"]
    assert len(set(drawn.values())) == 3


def test_qwens_experts_share_one_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = qwen_image.build(tmp_path / "qwen")
    checkpoint = model / "transformer"
    more = ("--limit", 1, "--size", 32, "--expert", f"{checkpoint}=0.5@2")
    assert command(tmp_path / "a", *more, model=str(model)) == 2
    assert "its experts share one guidance scale" in capsys.readouterr().err
