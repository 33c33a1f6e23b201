"""The miniature of animals as it ships: layout, tokenizer, what it draws, and a name for it on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.miniatures.animals.model import UNET, VAE
from benchmarks.miniatures.tokenizer import write_tokenizer
from pcpo_overlay.tools.miniature.animals import ANIMALS, animals_path, rewards, sd
from pcpo_overlay.tools.miniature.animals.check import check, data_varied
from pcpo_overlay.tools.miniature.animals.classifier import load_classifier
from pcpo_overlay.tools.models import find

pytestmark = pytest.mark.usefixtures("offline_on_one_thread")


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return sd.load_pipeline()


def test_layout_is_stable_diffusion_1(pipeline: Any) -> None:
    assert {name: type(part).__name__ for name, part in pipeline.components.items() if part is not None} == {
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "unet": "UNet2DConditionModel",
        "scheduler": "DDIMScheduler",
    }
    assert {name: pipeline.unet.config[name] for name in UNET} == {
        name: list(value) if isinstance(pipeline.unet.config[name], list) else value
        for name, value in UNET.items()
    }
    assert pipeline.vae.config.scaling_factor == VAE["scaling_factor"]
    assert find("miniature-animals") == animals_path()


def test_each_animal_is_one_token_of_the_tokenizer_that_this_code_writes(
    pipeline: Any, tmp_path: Path
) -> None:
    write_tokenizer(tmp_path, prompts=ANIMALS)
    shipped = animals_path() / "tokenizer"
    assert {path.name for path in shipped.iterdir()} == {path.name for path in tmp_path.iterdir()}
    for path in tmp_path.iterdir():
        assert path.read_text(encoding="utf-8") == (shipped / path.name).read_text(encoding="utf-8"), (
            path.name
        )
    ids = [pipeline.tokenizer(animal).input_ids for animal in ANIMALS]
    assert {len(own) for own in ids} == {3} and len({own[1] for own in ids}) == 45


def test_samples_follow_their_prompt_and_vary(pipeline: Any) -> None:
    """The fast form of the 1,000-sample check, and a bound three points lower for the distance of four an animal."""
    result = check(pipeline, samples=180)
    assert result.accuracy >= 0.90, result
    assert result.share >= 0.82, result
    assert result.drawn.styles >= 0.75 * data_varied().styles, result


def test_the_classifier_tells_one_animal_from_another(pipeline: Any) -> None:
    images = sd.sample(pipeline, ANIMALS)
    read = load_classifier().read(images)
    right = read == torch.arange(45)
    assert float(right.double().mean()) >= 0.85
    shifted = rewards.animal_logodds(images, [*ANIMALS[1:], ANIMALS[0]])
    assert rewards.animal_logodds(images, ANIMALS).mean() > 1 > -3 > shifted.mean()
