"""The miniature FLUX: the shipped pipeline, DanceGRPO's sampler, training, its embeddings, and its command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.miniatures import model_flux
from benchmarks.miniatures.train_flux import Recipe, train_transformer, train_vae
from benchmarks.miniatures.train_sd import Latents
from pcpo_overlay.__main__ import main
from pcpo_overlay.tools import miniature
from pcpo_overlay.tools.miniature import PROMPTS, flux, flux_path
from pcpo_overlay.tools.miniature.check import check, draw, prompted_digits
from pcpo_overlay.tools.miniature.classifier import accuracy, load_classifier
from pcpo_overlay.tools.miniature.digits import load_digits

(TRAINING,) = flux.SETTINGS

pytestmark = pytest.mark.usefixtures("offline_on_one_thread")


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return flux.load_pipeline()


# --- the shipped pipeline -----------------------------------------------------------------------------


def test_shipped_tokenizers_are_those_this_code_writes(tmp_path: Path) -> None:
    for name, write in model_flux.TOKENIZERS.items():
        write(tmp_path / name)
        written = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / name).iterdir()}
        shipped = {path.name: path.read_text(encoding="utf-8") for path in (flux_path() / name).iterdir()}
        assert written == shipped


def test_shipped_weights_are_small() -> None:
    assert sum(path.stat().st_size for path in flux_path().rglob("*") if path.is_file()) < 4.5e6


def test_layout_is_flux(pipeline: Any) -> None:
    assert {name: type(part).__name__ for name, part in pipeline.components.items() if part is not None} == {
        "transformer": "FluxTransformer2DModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "text_encoder_2": "T5EncoderModel",
        "tokenizer": "CLIPTokenizer",
        "tokenizer_2": "T5TokenizerFast",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }
    vae = pipeline.vae
    assert (vae.config.scaling_factor, vae.config.shift_factor) == (0.3611, 0.1159)
    assert vae.config.latent_channels == 16 and vae.quant_conv is None
    assert pipeline.transformer.config.guidance_embeds and pipeline.transformer.config.in_channels == 64
    assert pipeline.scheduler.config.use_dynamic_shifting


def test_prompts_fit_and_differ(pipeline: Any) -> None:
    clip, t5 = flux.tokenize((pipeline.tokenizer, pipeline.tokenizer_2), PROMPTS)
    assert clip.shape == (10, 77) and t5.shape == (10, flux.T5_LENGTH)
    assert len({tuple(row) for row in t5.tolist()}) == 10
    assert pipeline.tokenizer_2.batch_decode(t5, skip_special_tokens=True) == list(PROMPTS)


@torch.no_grad()
def test_prompts_are_encoded_as_diffusers_does_it(pipeline: Any) -> None:
    prompts = [PROMPTS[3], "a red fox"]
    text = flux.encode(
        (pipeline.text_encoder, pipeline.text_encoder_2),
        flux.tokenize((pipeline.tokenizer, pipeline.tokenizer_2), prompts),
    )
    states, pooled, _ = pipeline.encode_prompt(prompts, prompts, max_sequence_length=flux.T5_LENGTH)
    assert torch.equal(text.states, states)
    assert torch.equal(text.pooled, pooled)


def test_packing_is_that_of_diffusers_and_its_own_inverse(pipeline: Any) -> None:
    latents = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    packed = flux.pack(latents)
    assert torch.equal(packed, pipeline._pack_latents(latents, 2, 16, 8, 8))
    assert torch.equal(flux.unpack(packed), latents)
    ids = pipeline._prepare_latent_image_ids(2, 4, 4, torch.device("cpu"), torch.float32)
    assert torch.equal(flux.image_ids(), ids)


@torch.no_grad()
def test_latents_have_unit_variance_and_decode_even_from_noise(pipeline: Any) -> None:
    test = load_digits("test")
    config = pipeline.vae.config
    posterior = pipeline.vae.encode(2 * test.images - 1).latent_dist
    latents = posterior.sample(torch.Generator().manual_seed(0))
    latents = (latents - config.shift_factor) * config.scaling_factor
    assert latents.shape == (360, 16, 8, 8)
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 0.1
    assert (latents.std(dim=(0, 2, 3)) - 1).abs().max() < 0.1
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    noisy = (latents + 0.3 * noise) / config.scaling_factor + config.shift_factor
    decoded = (pipeline.vae.decode(noisy).sample / 2 + 0.5).clamp(0, 1)
    assert accuracy(load_classifier(), decoded, test.labels) >= 0.98


# --- the sampler --------------------------------------------------------------------------------------


def test_without_noise_the_sampler_is_the_diffusers_pipeline(pipeline: Any) -> None:
    """With the same sigmas, and but for the thousandths of the time that DanceGRPO's trainers cut off."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    ours = flux.sample(pipeline, PROMPTS[:2], steps=4, eta=0, seed=3)
    generator = torch.Generator().manual_seed(3)
    latents = flux.pack(torch.randn(2, 16, 8, 8, generator=generator))
    static = {**model_flux.SCHEDULER, "use_dynamic_shifting": False}
    scheduler, pipeline.scheduler = pipeline.scheduler, FlowMatchEulerDiscreteScheduler.from_config(static)
    try:
        theirs = pipeline(
            list(PROMPTS[:2]),
            height=32,
            width=32,
            num_inference_steps=4,
            sigmas=[1.0, 0.75, 0.5, 0.25],
            latents=latents,
            max_sequence_length=flux.T5_LENGTH,
            output_type="pt",
        ).images
    finally:
        pipeline.scheduler = scheduler
    assert (ours - theirs).abs().mean() < 2e-3


def test_flow_grpos_sampler_without_noise_is_the_diffusers_pipeline(pipeline: Any) -> None:
    ours = flux.sample_by_flow_grpo(pipeline, PROMPTS[:2], steps=4, noise_level=0, seed=3)
    latents = flux.pack(torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(3)))
    theirs = pipeline(
        list(PROMPTS[:2]),
        height=32,
        width=32,
        num_inference_steps=4,
        guidance_scale=3.5,
        latents=latents,
        max_sequence_length=flux.T5_LENGTH,
        output_type="pt",
    ).images
    assert torch.allclose(ours, theirs, atol=1e-4)
    noisy = flux.sample_by_flow_grpo(pipeline, PROMPTS[:2], steps=4, sde_type="cps", window=(2, 0, 3))
    assert not torch.equal(ours, noisy) and bool(noisy.isfinite().all())


def test_samples_repeat_with_their_seed(pipeline: Any) -> None:
    first, again, other = (flux.sample(pipeline, PROMPTS[:2], steps=3, seed=seed) for seed in (5, 5, 6))
    assert first.shape == (2, 3, 32, 32)
    assert torch.equal(first, again) and not torch.equal(first, other)
    with pytest.raises(ValueError, match="negative"):
        flux.sample(pipeline, PROMPTS[:2], eta=-0.1)


@pytest.mark.parametrize("settings", [TRAINING, {**TRAINING, "steps": 12, "eta": 0.0}])
def test_some_samples_follow_their_prompt(pipeline: Any, settings: dict[str, Any]) -> None:
    """The fast form of the check below, with a bound ten points lower."""
    result = check(pipeline, samples=60, seed=7, **settings)
    assert result.accuracy >= 0.80, result
    assert result.settings == settings


def test_samples_without_the_prompt_do_not(pipeline: Any) -> None:
    digits = prompted_digits(20)
    images = draw(pipeline, (digits + 1) % 10, **{**TRAINING, "steps": 6})
    assert accuracy(load_classifier(), images, digits) < 0.3


@pytest.mark.slow
def test_many_samples_follow_their_prompt_and_vary(pipeline: Any) -> None:
    """It has no guidance, and just passes the command's bar of 90%; other processors round a sample or two over it."""
    result = check(pipeline, samples=500, **TRAINING)
    assert result.accuracy >= 0.87, result
    assert min(result.per_digit) >= 0.70, result
    assert result.spread >= 0.5 * result.spread_real, result
    assert result.nearest >= 0.5 * result.nearest_real, result


# --- training -----------------------------------------------------------------------------------------


def test_training_repeats_with_its_seed_and_learns(tmp_path: Path) -> None:
    recipe = Recipe(vae_steps=25, vae_batch=8, steps=3, batch=8)
    errors: list[float] = []
    vae = train_vae(recipe, lambda step, loss: errors.append(loss))
    assert errors[-1] < 0.5 * errors[0]
    assert vae.config.scaling_factor == model_flux.SCALING_FACTOR
    means = torch.randn(20, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    latents = Latents(means, torch.full_like(means, recipe.latent_noise), torch.arange(20) % 10)
    losses: list[float] = []
    transformer, encoders = train_transformer(latents, recipe, lambda step, loss: losses.append(loss))
    again, _ = train_transformer(latents, recipe)
    other, _ = train_transformer(latents, replace(recipe, seed=1))
    assert len(losses) == 3
    assert torch.equal(transformer.proj_out.weight, again.proj_out.weight)
    assert not torch.equal(transformer.proj_out.weight, other.proj_out.weight)
    saved = model_flux.save_pipeline(
        tmp_path / "flux", transformer=transformer, vae=vae, text_encoders=encoders
    )
    loaded = flux.load_pipeline(saved)
    parts = (loaded.transformer, loaded.vae, loaded.text_encoder, loaded.text_encoder_2)
    for kept, read in zip((transformer, vae, *encoders), parts, strict=True):
        ours, theirs = kept.state_dict(), read.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# --- embeddings ---------------------------------------------------------------------------------------


def embed(*words: object) -> int:
    return main(["embed", "flux", *map(str, words)])


@torch.no_grad()
def test_embeddings_are_those_of_the_models_text_encoders(pipeline: Any, tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "rl_embeddings"
    prompts.write_text("a handwritten three\n\na red fox\n")
    length = ("--max-length", 16, "--dtype", "float32", "--batch", 1)
    assert embed("--model", flux_path(), "--prompts", prompts, "--out", out, *length) == 0
    entries = json.loads((out / "videos2caption.json").read_text())
    assert [entry["caption"] for entry in entries] == ["a handwritten three", "a red fox"]
    captions = [entry["caption"] for entry in entries]
    states, pooled, _ = pipeline.encode_prompt(captions, captions, max_sequence_length=16)
    for n, entry in enumerate(entries):
        assert torch.equal(torch.load(out / "prompt_embed" / entry["prompt_embed_path"]), states[n])
        kept = torch.load(out / "pooled_prompt_embeds" / entry["pooled_prompt_embeds_path"])
        assert torch.equal(kept, pooled[n])
        assert torch.equal(torch.load(out / "text_ids" / entry["text_ids"]), torch.zeros(3))


def test_embed_says_what_it_lacks_and_overwrites_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    there = ("--out", out)
    assert embed("--model", flux_path(), "--prompts", prompts, *there) == 1
    assert "prompts.txt cannot be read" in capsys.readouterr().err
    prompts.write_text("\n \n")
    assert embed("--model", flux_path(), "--prompts", prompts, *there) == 1
    assert "holds no prompts" in capsys.readouterr().err
    prompts.write_text("a cat\n")
    assert embed("--model", tmp_path, "--prompts", prompts, *there) == 1
    assert "no pipeline at" in capsys.readouterr().err
    out.mkdir()
    (out / "mine.pt").write_text("kept")
    assert embed("--model", flux_path(), "--prompts", prompts, *there) == 1
    assert "is there already" in capsys.readouterr().err
    assert (out / "mine.pt").read_text() == "kept"


# --- the command line ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("check", "flux", "--noise-level", "0"), 2, "flux has no --noise-level"),
        (("check", "sd3", "--eta", "1"), 2, "sd3 has no --eta"),
        (("check", "flux", "--eta", "-1"), 2, "must not be negative"),
        (("check", "flux", "--path", "/nowhere"), 1, "no pipeline at /nowhere"),
    ],
)
def test_wrong_arguments_get_one_line(
    arguments: tuple[str, ...], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["miniature", *arguments]) == code
    assert words in capsys.readouterr().err


def test_weights_that_are_missing_are_said_to_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(miniature, "WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"benchmarks\.miniatures flux"):
        flux_path()
