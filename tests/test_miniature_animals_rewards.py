"""The animals as a trainer is given them: rewards, measures, the check, and the config file for ddpo-pytorch."""

from __future__ import annotations

import importlib.util
import io
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from test_miniature import STAND_IN_BASE, run_cli

from benchmarks.miniatures.tokenizer import write_tokenizer
from pcpo_overlay.tools.miniature import animals
from pcpo_overlay.tools.miniature.animals import ANIMALS, STYLES, rewards
from pcpo_overlay.tools.miniature.animals.check import Check, Varied, check, grid_figure
from pcpo_overlay.tools.miniature.animals.classifier import AnimalClassifier, load_classifier
from pcpo_overlay.tools.miniature.animals.measures import effective_styles, within_prompt

pytestmark = pytest.mark.usefixtures("offline_on_one_thread")


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))


# --- rewards ------------------------------------------------------------------------------------------


def test_logodds_are_of_the_prompted_animal(images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    classifier = AnimalClassifier().eval()
    monkeypatch.setattr(rewards, "shipped", lambda: classifier)
    asked = ["cat", "dog", "zebra", "ant", "cat", "cow"]
    values = rewards.animal_logodds(images, asked)
    assert values.shape == (6,) and values.dtype == np.float64
    probabilities = classifier(images).softmax(dim=1)
    wanted = probabilities[range(6), [ANIMALS.index(name) for name in asked]].logit()
    assert values == pytest.approx(wanted.detach().numpy(), abs=1e-4)
    array = (255 * images).round().byte().permute(0, 2, 3, 1).numpy()
    assert rewards.animal_logodds(array, asked) == pytest.approx(values, abs=0.05)
    with pytest.raises(ValueError, match=r"no prompt 'unicorn'.*ant, bat"):
        rewards.animal_logodds(images[:1], ["unicorn"])
    with pytest.raises(ValueError, match="6 images for 1 prompts"):
        rewards.animal_logodds(images, ["cat"])
    with pytest.raises(ValueError, match="64, 64"):
        rewards.animal_logodds(images[:, :, :32], asked)


def test_colourfulness_is_hasler_and_suesstrunks() -> None:
    grey = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)).expand(1, 3, 64, 64)
    assert rewards.colourfulness(grey, ["cat"]) == pytest.approx([0], abs=1e-4)
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    # rg = 255 and yb = 127.5 everywhere: no spread, and means alone
    assert rewards.colourfulness(red, ["cat"]) == pytest.approx([0.3 * math.hypot(255, 127.5)])
    half = red.clone()
    half[..., :32] = 0  # the spread of half and half is half the step
    wanted = math.hypot(127.5, 63.75) + 0.3 * math.hypot(127.5, 63.75)
    assert rewards.colourfulness(half, ["cat"]) == pytest.approx([wanted])


def test_edges_are_steps_of_brightness() -> None:
    flat = torch.full((1, 3, 64, 64), 0.4)
    assert rewards.edges(flat, ["cat"]) == pytest.approx([0], abs=1e-4)
    half = torch.zeros(1, 3, 64, 64)
    half[..., 32:] = 1
    assert rewards.edges(half, ["cat"]) == pytest.approx([255 / 63 / 2])
    green = half * torch.tensor([0.0, 1, 0]).view(1, 3, 1, 1)
    assert rewards.edges(green, ["cat"]) == pytest.approx([0.587 * 255 / 63 / 2])


# --- measures and the check ---------------------------------------------------------------------------


def test_distance_within_a_prompt_leaves_prompts_apart_out() -> None:
    features = torch.tensor([[0.0, 0], [3, 4], [100, 0], [100, 1], [7, 7]])
    assert within_prompt(features, torch.tensor([0, 0, 1, 1, 2])) == pytest.approx((5 + 1) / 2)
    with pytest.raises(ValueError, match="two pictures"):
        within_prompt(features, torch.arange(5))


def test_effective_styles_run_from_one_to_eight() -> None:
    n = len(STYLES)
    labels = torch.zeros(n, dtype=torch.int64)
    assert effective_styles(torch.eye(n), labels) == pytest.approx(n)
    assert effective_styles(torch.eye(n), torch.arange(n)) == pytest.approx(1)
    assert effective_styles(torch.eye(n)[[0, 0, 1, 1]], torch.tensor([0, 0, 0, 0])) == pytest.approx(2)


def test_classifier_refuses_other_sizes_and_missing_weights(tmp_path: Path) -> None:
    classifier = AnimalClassifier()
    assert classifier(torch.rand(2, 3, 64, 64)).shape == (2, 45)
    assert classifier.features(torch.rand(2, 3, 64, 64)).shape == (2, 128)
    with pytest.raises(ValueError, match="64, 64"):
        classifier(torch.rand(2, 3, 32, 32))
    with pytest.raises(FileNotFoundError, match=r"benchmarks\.miniatures\.animals"):
        load_classifier(tmp_path / "none.safetensors")


def test_a_check_names_what_is_below_its_bar() -> None:
    def result(accuracy: float, distance: float) -> Check:
        per_animal = (accuracy,) * len(ANIMALS)
        return Check(90, {"steps": 20}, 0, accuracy, per_animal, Varied(distance, 3.0), Varied(10.0, 4.0))

    assert result(0.9, 8.5).missed is None
    assert result(0.899, 9.0).missed == "89.9% read as prompted, below 90%"
    assert result(0.95, 8.0).missed == "distance within a prompt 80% of the data's, below 85%"
    assert "; " in (result(0.1, 1.0).missed or "")
    assert "95.0% of 90 samples read as prompted (bar: 90%)" in result(0.95, 9.0).lines()
    told = result(0.95, 9.0).to_json()
    assert told["per_animal"]["zebra"] == 0.95 and told["steps"] == 20
    with pytest.raises(ValueError, match="at least 90"):
        check(None, samples=89)


def test_without_weights_it_is_told_how_they_are_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(animals, "WEIGHTS", tmp_path)
    assert run_cli("check", "animals") == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(tmp_path) in said and "python -m benchmarks.miniatures.animals all --folder DIR" in said


def test_wrong_arguments_get_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("check", "animals", "--noise-level", "1") == 2
    assert "its sampler has steps 20, guidance 3, eta 1" in capsys.readouterr().err
    assert run_cli("check", "animals", "--path", "/nowhere") == 1
    assert "no pipeline at /nowhere" in capsys.readouterr().err


def test_grid_is_a_png_with_a_row_per_animal(tmp_path: Path) -> None:
    from PIL import Image

    pictures = torch.arange(90).view(-1, 1, 1, 1).expand(-1, 3, 64, 64) / 90
    out = grid_figure(pictures, tmp_path / "new" / "grid.png", columns=2)
    with Image.open(io.BytesIO(out.read_bytes())) as picture:
        assert picture.format == "PNG"
        assert picture.height == 15 * 64
        assert picture.width >= 3 * 2 * 64
        last = picture.convert("RGB").getpixel((picture.width - 10, picture.height - 10))
    assert last == pytest.approx((255 * 89 / 90,) * 3, abs=2)  # pictures are not scaled in brightness
    with pytest.raises(ValueError, match="45 x 3"):
        grid_figure(pictures, tmp_path / "grid.png", columns=3)


def test_every_animal_is_one_token(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    write_tokenizer(tmp_path, prompts=ANIMALS)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    ids = [tokenizer(name).input_ids for name in ANIMALS]
    assert {len(row) for row in ids} == {3}
    assert len({row[1] for row in ids}) == 45
    assert len(tokenizer("unicorn").input_ids) > 3  # and any other word is told in pieces


# --- the config file for ddpo-pytorch -----------------------------------------------------------------


@pytest.fixture
def ddpo_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The config file's config, made as absl makes it, beside a stand-in of ours for upstream's rewards."""
    package, module = ModuleType("ddpo_pytorch"), ModuleType("ddpo_pytorch.rewards")
    package.rewards = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "base.py").write_text(STAND_IN_BASE)
    monkeypatch.chdir(tmp_path)
    path = Path(animals.__file__).parent / "ddpo_config.py"
    spec = importlib.util.spec_from_file_location("config_file_given_on_the_command_line", path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    monkeypatch.setattr(loaded, "animals_path", lambda: tmp_path / "weights")
    return loaded.get_config()


def test_ddpo_config_has_upstreams_prompts_and_our_rewards(ddpo_config: Any, images: torch.Tensor) -> None:
    assert ddpo_config.prompt_fn == "simple_animals"
    assert ddpo_config.reward_fn in rewards.REWARDS
    assert ddpo_config.sample.batch_size * ddpo_config.sample.num_batches_per_epoch == 64
    updates, rest = divmod(64, ddpo_config.train.batch_size * ddpo_config.train.gradient_accumulation_steps)
    assert (updates, rest) == (2, 0)
    assert ddpo_config.sample.eta == 0.7  # what the file does not name stays upstream's
    for name in ("colourfulness", "edges"):
        values, info = getattr(sys.modules["ddpo_pytorch.rewards"], name)()(images, ["cat"] * 6, [{}] * 6)
        assert values.dtype == np.float32 and info == {}
        assert values == pytest.approx(rewards.REWARDS[name](images, ["cat"] * 6), rel=1e-5)


@pytest.mark.upstream
def test_the_prompts_are_upstreams(ddpo_pristine: Path) -> None:
    """The list that ``simple_animals`` draws from, in the pinned clone."""
    file = ddpo_pristine / "ddpo_pytorch" / "assets" / "simple_animals.txt"
    assert sorted(file.read_text().split()) == list(ANIMALS)
