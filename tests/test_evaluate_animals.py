"""Evaluating runs on the animals: the miniature that a run began as decides prompts, reader and rewards."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from synthetic_runs import write_run

from benchmarks.miniatures.animals import model
from pcpo_overlay.tools.evaluate import EvaluationError, loaders, samples
from pcpo_overlay.tools.evaluate.readers import ANIMALS as READER
from pcpo_overlay.tools.evaluate.run import Request, evaluate, subject_of
from pcpo_overlay.tools.miniature import WEIGHTS, sd_path
from pcpo_overlay.tools.miniature.animals import ANIMALS, classifier, rewards, sd
from pcpo_overlay.tools.miniature.animals.measures import effective_styles
from pcpo_overlay.tools.report.build import build
from pcpo_overlay.tools.runs.run import load

pytestmark = pytest.mark.usefixtures("offline_on_one_thread")

SAMPLER = {"num_steps": 1, "guidance_scale": 1.0, "eta": 1.0}


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the miniatures with untrained animals in it, as they are packed."""
    torch.manual_seed(0)
    folder = tmp_path / "weights"
    unet, vae, text_encoder = model.build_unet(), model.build_vae(), model.build_text_encoder()
    model.save_pipeline(folder / "animals" / "sd", unet=unet, vae=vae, text_encoder=text_encoder)
    own = classifier.AnimalClassifier()
    save_file(own.state_dict(), str(folder / "animals" / "classifier.safetensors"))
    (folder / "sd").symlink_to(WEIGHTS / "sd")
    monkeypatch.setattr(loaders, "WEIGHTS", folder)
    monkeypatch.setattr(classifier, "WEIGHTS", folder)
    classifier.shipped.cache_clear()
    yield folder
    classifier.shipped.cache_clear()


def run_on(folder: Path, pretrained: Path, reward: str = "animal_logodds", **more: Any) -> Path:
    trainer = {
        "pretrained": {"model": str(pretrained)}, "reward_fn": reward, "run_name": "named", "logdir": "logs",
        "save_freq": 4, "resume_from": "", "sample": SAMPLER,
    }  # fmt: skip
    return write_run(folder, rewards=[0.0] * 13, trainer=trainer, **more)


def save_unet(run: Path, weights: Path, number: int, shift: float) -> None:
    unet = sd.load_pipeline(weights / "animals" / "sd").unet
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.mul_(1 + shift)
    unet.save_pretrained(run / "logs" / "named" / "checkpoints" / f"checkpoint_{number}" / "unet")


def test_checkpoints_are_drawn_with_the_animals_and_read_by_their_classifier(
    weights: Path, tmp_path: Path
) -> None:
    run = run_on(tmp_path / "run", weights / "animals" / "sd")
    save_unet(run, weights, 0, 0.1)
    assert evaluate(run, Request(samples=2, seed=0), lambda _: None) == []
    base, after = (json.loads(line) for line in (run / "evaluation.jsonl").read_text().splitlines())
    assert list(base["prompts"]) == list(ANIMALS) and base["settings"]["samples"] == 2
    assert base["overall"]["frechet"] == 0 < after["overall"]["frechet"]

    # the same by hand, from the same pictures
    pipeline = sd.load_pipeline(weights / "animals" / "sd")
    labels = torch.arange(2 * len(ANIMALS)) % len(ANIMALS)
    chunks = labels.split(samples.BATCH)
    images = torch.cat(
        [
            sd.sample(pipeline, [ANIMALS[n] for n in chunk], steps=1, guidance=1.0, eta=1.0, seed=index)
            for index, chunk in enumerate(chunks)
        ]
    )
    reader = classifier.load_classifier()
    odds = rewards.animal_logodds(images, [ANIMALS[n] for n in labels])
    assert base["overall"]["reward"] == pytest.approx(float(odds.mean()), rel=1e-5)
    assert base["overall"]["accuracy"] == float((reader.read(images) == labels).double().mean())
    with torch.no_grad():
        styles = reader.style(reader.features(images)).softmax(dim=1)
    assert base["overall"]["styles"] == pytest.approx(effective_styles(styles, labels), rel=1e-5)
    assert 1 < base["prompts"]["cat"]["styles"] <= 8

    # and the report compares what is only measured of them
    (comparison,) = build([load(run)], tmp_path / "report").comparisons
    assert comparison.quality is not None and "styles" in comparison.quality.metrics
    assert "styles a prompt" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.parametrize("upstream", ["ddpo", "dancegrpo_sd"])
def test_the_model_that_a_run_began_as_decides_which_miniature_it_is(
    upstream: str, weights: Path, tmp_path: Path
) -> None:
    name = "hpsv2" if upstream == "dancegrpo_sd" else "colourfulness"
    run = run_on(tmp_path / "run", weights / "animals" / "sd", name, upstream=upstream)
    if upstream == "dancegrpo_sd":
        linked = run / "work" / "data" / "stable-diffusion-v1-4"
        linked.parent.mkdir(parents=True)
        linked.symlink_to(weights / "animals" / "sd")
    subject = subject_of(load(run), Request(samples=None, seed=0))
    assert subject.loader.reader is READER and subject.settings["samples"] == 12
    assert (
        subject.settings["classifier_sha256"]
        != subject_of(
            load(run_on(tmp_path / "digits", sd_path(), "jpeg_compressibility")), Request(None, 0)
        ).settings["classifier_sha256"]
    )
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = rewards.REWARDS["animal_logodds" if name == "hpsv2" else name](pictures, ["cat", "dog"])
    assert subject.reward(pictures, ["cat", "dog"]).tolist() == expected.tolist()


def test_a_run_of_another_machine_began_as_the_shipped_animals(weights: Path, tmp_path: Path) -> None:
    run = run_on(tmp_path / "run", Path("/nowhere/weights/animals/sd"))
    said: list[str] = []
    assert subject_of(load(run), Request(None, 0), said.append).model == weights / "animals" / "sd"
    assert "taken for it is the shipped miniature" in said[0]


def test_a_reward_of_digits_is_none_of_animals(weights: Path, tmp_path: Path) -> None:
    run = run_on(tmp_path / "run", weights / "animals" / "sd", "digit_probability")
    with pytest.raises(EvaluationError, match=r"which evaluate does not compute; it knows .*animal_logodds"):
        subject_of(load(run), Request(None, 0))


def test_another_model_is_neither(weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "unet").mkdir(parents=True)
    (other / "unet" / "config.json").write_text('{"sample_size": 64}')
    with pytest.raises(EvaluationError, match="draws no 32x32 digits and no 64x64 animals: evaluate is for"):
        subject_of(load(run_on(tmp_path / "run", other)), Request(None, 0))


def test_kept_pictures_of_digits_are_none_of_animals(tmp_path: Path) -> None:
    n = len(ANIMALS)
    held = [
        torch.zeros(n, 2, 128),
        torch.zeros(n, 2).double(),
        torch.ones(n, 2).bool(),
        torch.ones(n, 2, 8) / 8,
    ]
    animals, path = samples.Samples(*held), tmp_path / "base.safetensors"
    samples.save(path, animals, {})
    kept = samples.restore(path, {}, READER)
    assert kept is not None and kept.styles is not None and kept.styles.shape == (n, 2, 8)
    assert samples.restore(path, {}) is None
    samples.save(path, samples.Samples(*held[:3]), {})
    assert samples.restore(path, {}, READER) is None
    assert samples.measure(animals, animals, READER)[0]["styles"] == pytest.approx(8)
    one = replace(animals, styles=torch.eye(8)[torch.zeros(n, 2, dtype=torch.int64)])
    assert math.isclose(samples.measure(one, animals, READER)[0]["styles"], 1)
