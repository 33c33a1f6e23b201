"""The miniature SD3: tokenizers, the shipped pipeline, Flow-GRPO's sampler, training, and its command line."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.miniatures import model_sd3
from benchmarks.miniatures.train_sd import Latents
from benchmarks.miniatures.train_sd3 import Recipe, learning_rate, train_transformer, train_vae
from pcpo_overlay.__main__ import main
from pcpo_overlay.schedules import sd3_sigmas
from pcpo_overlay.tools import miniature
from pcpo_overlay.tools.cli import miniature as command_line
from pcpo_overlay.tools.miniature import PROMPTS, flow, sd3, sd3_path
from pcpo_overlay.tools.miniature.check import check, draw, prompted_digits
from pcpo_overlay.tools.miniature.classifier import accuracy, load_classifier
from pcpo_overlay.tools.miniature.digits import load_digits
from pcpo_overlay.variance import flow_grpo_scale

TRAINING, EVALUATION = sd3.SETTINGS


pytestmark = pytest.mark.usefixtures("offline_on_one_thread")


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return sd3.load_pipeline()


def tokenizers(pipeline: Any) -> tuple[Any, Any, Any]:
    return pipeline.tokenizer, pipeline.tokenizer_2, pipeline.tokenizer_3


def text_encoders(pipeline: Any) -> tuple[Any, Any, Any]:
    return pipeline.text_encoder, pipeline.text_encoder_2, pipeline.text_encoder_3


# --- tokenizers ---------------------------------------------------------------------------------------


def test_prompts_round_trip_with_distinct_ids(pipeline: Any) -> None:
    for tokenizer, ids in zip(tokenizers(pipeline), sd3.tokenize(tokenizers(pipeline), PROMPTS), strict=True):
        assert len({tuple(row) for row in ids.tolist()}) == 10
        assert tokenizer.batch_decode(ids, skip_special_tokens=True) == list(PROMPTS)
        special = 1 if tokenizer is pipeline.tokenizer_3 else 2
        for prompt in PROMPTS:
            assert len(tokenizer(prompt).input_ids) == special + len(prompt.split())  # a token a word


@pytest.mark.parametrize("prompt", ["", "a red fox, running!", "größe 数字 🙂", "zero" * 100])
def test_any_prompt_is_t5_tokens_without_unknown_ones(pipeline: Any, prompt: str) -> None:
    tokenizer = pipeline.tokenizer_3
    ids = tokenizer(prompt).input_ids
    assert max(ids) < pipeline.text_encoder_3.config.vocab_size
    assert tokenizer.unk_token_id not in ids
    assert ids[-1] == tokenizer.eos_token_id == pipeline.text_encoder_3.config.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == prompt
    padded = tokenizer(prompt, padding="max_length", max_length=128, truncation=True).input_ids
    assert len(padded) == 128
    assert tokenizer.pad_token_id == pipeline.text_encoder_3.config.pad_token_id


def test_shipped_tokenizers_are_those_this_code_writes(tmp_path: Path) -> None:
    for name, write in model_sd3.TOKENIZERS.items():
        write(tmp_path / name)
        written = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / name).iterdir()}
        shipped = {path.name: path.read_text(encoding="utf-8") for path in (sd3_path() / name).iterdir()}
        assert written == shipped


# --- the shipped pipeline -----------------------------------------------------------------------------


def test_shipped_weights_are_small() -> None:
    assert sum(path.stat().st_size for path in sd3_path().rglob("*") if path.is_file()) < 4e6


def test_layout_is_stable_diffusion_3(pipeline: Any) -> None:
    assert {name: type(part).__name__ for name, part in pipeline.components.items() if part is not None} == {
        "transformer": "SD3Transformer2DModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModelWithProjection",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "text_encoder_3": "T5EncoderModel",
        "tokenizer": "CLIPTokenizer",
        "tokenizer_2": "CLIPTokenizer",
        "tokenizer_3": "T5TokenizerFast",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }
    vae = pipeline.vae
    assert (vae.config.scaling_factor, vae.config.shift_factor) == (1.5305, 0.0609)
    assert vae.quant_conv is None and vae.post_quant_conv is None
    assert pipeline.tokenizer.model_max_length == pipeline.tokenizer_2.model_max_length == 77
    assert pipeline.default_sample_size * pipeline.vae_scale_factor == 32
    for part in (pipeline.transformer, vae, *text_encoders(pipeline)):
        assert {value.dtype for value in part.parameters()} == {torch.float32}


def test_scheduler_is_that_of_stable_diffusion_3(pipeline: Any) -> None:
    assert json.loads((sd3_path() / "scheduler" / "scheduler_config.json").read_text()) == {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "_diffusers_version": "0.29.0.dev0",
        "num_train_timesteps": 1000,
        "shift": 3.0,
    }
    scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(10)
    assert torch.allclose(scheduler.sigmas.double(), sd3_sigmas(10), atol=1e-6)


def test_loads_offline_as_upstream_loads_it() -> None:
    """flow_grpo's own call, warnings turned into errors, in a fresh process and without SentencePiece."""
    code = (
        "import sys, warnings, torch\n"
        "sys.modules['sentencepiece'] = None\n"
        "from diffusers import StableDiffusion3Pipeline\n"
        "from pcpo_overlay.tools.miniature import sd3_path\n"
        "warnings.simplefilter('error')\n"
        "pipeline = StableDiffusion3Pipeline.from_pretrained(str(sd3_path()))\n"
        "print(type(pipeline).__name__, pipeline.transformer.dtype)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["StableDiffusion3Pipeline", "torch.float32"]


@torch.no_grad()
def test_prompts_are_encoded_as_diffusers_does_it(pipeline: Any) -> None:
    prompts = [PROMPTS[3], ""]
    text = sd3.encode(text_encoders(pipeline), sd3.tokenize(tokenizers(pipeline), prompts))
    states, _, pooled, _ = pipeline.encode_prompt(
        prompts, None, None, max_sequence_length=sd3.T5_LENGTH, do_classifier_free_guidance=False
    )
    assert text.states.shape == (2, 77 + 128, 64)
    assert torch.equal(text.states, states)
    assert torch.equal(text.pooled, pooled)


@torch.no_grad()
def test_latents_have_unit_variance_and_decode_even_from_noise(pipeline: Any) -> None:
    test = load_digits("test")
    config = pipeline.vae.config
    posterior = pipeline.vae.encode(2 * test.images - 1).latent_dist
    latents = (
        posterior.sample(torch.Generator().manual_seed(0)) - config.shift_factor
    ) * config.scaling_factor
    assert latents.shape == (360, 16, 8, 8)
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 0.1
    assert (latents.std(dim=(0, 2, 3)) - 1).abs().max() < 0.1
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    for level, decibels in ((0.0, 33), (0.3, 30)):
        noisy = (latents + level * noise) / config.scaling_factor + config.shift_factor
        decoded = (pipeline.vae.decode(noisy).sample / 2 + 0.5).clamp(0, 1)
        assert -10 * torch.log10((decoded - test.images).square().mean()) > decibels
        assert accuracy(load_classifier(), decoded, test.labels) >= 0.98


# --- the sampler --------------------------------------------------------------------------------------


def test_without_noise_the_sampler_is_the_diffusers_pipeline(pipeline: Any) -> None:
    ours = sd3.sample(pipeline, PROMPTS[:2], steps=4, noise_level=0, seed=3)
    latents = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(3))
    theirs = pipeline(
        list(PROMPTS[:2]),
        num_inference_steps=4,
        guidance_scale=4.5,
        latents=latents,
        max_sequence_length=sd3.T5_LENGTH,
        output_type="pt",
    ).images
    assert torch.allclose(ours, theirs, atol=1e-4)


@torch.no_grad()
def test_without_guidance_the_empty_prompt_has_no_say(pipeline: Any) -> None:
    """The pass that is left out would have been multiplied by 0."""
    ours = sd3.sample(pipeline, PROMPTS[:2], steps=3, guidance=1.0, seed=3)
    both = sd3.sample(pipeline, PROMPTS[:2], steps=3, guidance=1.0 + 1e-7, seed=3)
    assert torch.allclose(ours, both, atol=1e-4)


@pytest.mark.parametrize("noise_level", [0.0, 0.7])
def test_many_steps_with_the_exact_velocity_end_at_the_data(noise_level: float) -> None:
    """The SDE has the flow's marginals: from noise it reaches the Gaussian that the velocity belongs to."""
    mean, std = 0.6, 0.5
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50_000, 1, dtype=torch.float64, generator=generator)
    sigmas = sd3_sigmas(500)
    scales = flow_grpo_scale(sigmas, noise_level)
    for t, after, scale in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), scales.tolist(), strict=True):
        gain = (t - (1 - t) * std**2) / ((1 - t) ** 2 * std**2 + t**2)
        velocity = gain * (x - (1 - t) * mean) - mean  # of noise - data, given x
        x = flow.sde_step(x, velocity, t=t, dt=t - after, scale=scale, generator=generator)
    assert float(x.mean()) == pytest.approx(mean, abs=0.01)
    assert float(x.std()) == pytest.approx(std, abs=0.01)


def test_a_step_has_the_mean_and_std_of_the_closed_form() -> None:
    """The first of 10 steps, where t = 1: 1 - t is taken with the second sigma."""
    sigmas = sd3_sigmas(10)
    scale = float(flow_grpo_scale(sigmas, 0.7)[0])
    assert scale == pytest.approx(0.7 / (1 - float(sigmas[1])) ** 0.5)
    dt = 1 - float(sigmas[1])
    x, v = torch.full((200_000,), 1.5), torch.full((200_000,), -0.4)
    after = flow.sde_step(x, v, t=1.0, dt=dt, scale=scale, generator=torch.Generator().manual_seed(0))
    assert float(after.mean()) == pytest.approx(1.5 * (1 - scale**2 / 2 * dt) + 0.4 * dt, abs=0.01)
    assert float(after.std()) == pytest.approx(scale * dt**0.5, rel=0.01)


def test_noise_is_drawn_in_a_window_of_the_batchs_own() -> None:
    """Of the fast trainers: the others are Euler's, and so is a coefficients-preserving step without noise."""

    def drawn(window: tuple[int, int, int] | None, seed: int = 0, kind: str = "sde") -> list[bool]:
        """Whether each of the five steps left its Euler step; the velocity is 0 and the latents begin as 1."""
        seen: list[torch.Tensor] = []

        def still(x: torch.Tensor, i: int) -> torch.Tensor:
            seen.append(x)
            return torch.zeros_like(x)

        end = flow.walk(
            still, torch.ones(2, 3), sigmas, noise_level=0.7, sde_type=kind, window=window,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        return [not torch.equal(x, after) for x, after in pairwise([*seen, end])]

    sigmas = sd3_sigmas(5)
    assert drawn(None) == [True] * 5
    assert drawn((0, 0, 3)) == drawn((0, 0, 3), kind="cps") == [True] * 4 + [False]
    windows = {tuple(drawn((2, 0, 4), seed, kind)) for seed in range(20) for kind in ("sde", "cps")}
    starts = [tuple(start <= i < start + 2 for i in range(5)) for start in (0, 1, 2)]
    assert sorted(windows) == sorted(starts)
    assert drawn((2, 1, 3)) == [False, True, True, False, False]
    for window, kind, says in (((3, 1, 3), "sde", "no window of 3"), (None, "ode", "sde or cps, got 'ode'")):
        with pytest.raises(ValueError, match=says):
            drawn(window, kind=kind)


def test_samples_repeat_with_their_seed(pipeline: Any) -> None:
    first, again, other = (sd3.sample(pipeline, PROMPTS[:2], steps=3, seed=seed) for seed in (5, 5, 6))
    assert first.shape == (2, 3, 32, 32)
    assert first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with pytest.raises(ValueError, match="negative"):
        sd3.sample(pipeline, PROMPTS[:2], noise_level=-0.1)


@pytest.mark.parametrize(("samples", "settings"), [(30, TRAINING), (20, {**EVALUATION, "steps": 12})])
def test_some_samples_follow_their_prompt(pipeline: Any, samples: int, settings: dict[str, Any]) -> None:
    """The fast form of the checks below, with a bound five points lower."""
    result = check(pipeline, samples=samples, seed=7, **settings)
    assert result.accuracy >= 0.85, result
    assert result.settings == settings


def test_samples_without_the_prompt_do_not(pipeline: Any) -> None:
    """The classifier's reading comes from the prompt: prompted for another digit, the same seeds miss."""
    digits = prompted_digits(20)
    images = draw(pipeline, (digits + 1) % 10, **{**TRAINING, "steps": 6})
    assert accuracy(load_classifier(), images, digits) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize(("samples", "settings"), [(150, TRAINING), (50, EVALUATION)])
def test_many_samples_follow_their_prompt_and_vary(
    pipeline: Any, samples: int, settings: dict[str, Any]
) -> None:
    result = check(pipeline, samples=samples, **settings)
    assert result.accuracy >= 0.90, result
    assert min(result.per_digit) >= 0.75, result
    assert result.spread >= 0.5 * result.spread_real, result
    assert result.nearest >= 0.5 * result.nearest_real, result


# --- training -----------------------------------------------------------------------------------------


def test_training_repeats_with_its_seed_and_learns(tmp_path: Path) -> None:
    recipe = Recipe(vae_steps=25, vae_batch=8, short_steps=2, short_batch=8, full_steps=1, full_batch=4)
    errors: list[float] = []
    vae = train_vae(recipe, lambda step, loss: errors.append(loss))
    assert errors[-1] < 0.5 * errors[0]
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(20, 16, 8, 8, generator=generator)
    latents = Latents(means, torch.full_like(means, recipe.latent_noise), torch.arange(20) % 10)
    losses: list[float] = []
    transformer, encoders = train_transformer(latents, recipe, lambda step, loss: losses.append(loss))
    again, _ = train_transformer(latents, recipe)
    other, _ = train_transformer(latents, replace(recipe, seed=1))
    assert len(losses) == recipe.steps == 3
    assert torch.equal(transformer.proj_out.weight, again.proj_out.weight)
    assert not torch.equal(transformer.proj_out.weight, other.proj_out.weight)
    loaded = sd3.load_pipeline(
        model_sd3.save_pipeline(tmp_path / "sd3", transformer=transformer, vae=vae, text_encoders=encoders)
    )
    for saved, read in zip(
        (transformer, vae, *encoders), (loaded.transformer, loaded.vae, *text_encoders(loaded)), strict=True
    ):
        ours, theirs = saved.state_dict(), read.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_learning_rate_is_constant_while_the_text_is_short_and_then_falls() -> None:
    recipe = Recipe(short_steps=1000, full_steps=200)
    rates = [learning_rate(step, recipe) for step in range(recipe.steps)]
    assert rates[0] == pytest.approx(0.01)
    assert all(rate == pytest.approx(1) for rate in rates[100:1001])
    assert all(after < before for before, after in pairwise(rates[1000:]))
    assert rates[-1] < 0.02


# --- the command line ---------------------------------------------------------------------------------


def samplers(*arguments: str) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser()
    command_line.add_parser(parser.add_subparsers())
    return command_line.samplers(parser.parse_args(["miniature", *arguments]))


def test_check_measures_both_samplers_unless_told_which() -> None:
    assert samplers("check", "sd3") == [TRAINING, EVALUATION]
    assert samplers("check", "sd3", "--steps", "10") == [TRAINING]
    assert samplers("check", "sd3", "--noise-level", "0") == [EVALUATION]
    assert samplers("check", "sd3", "--steps", "40", "--noise-level", "0") == [EVALUATION]
    assert samplers("check", "sd3", "--steps", "20") == [{**TRAINING, "steps": 20}]
    both = samplers("check", "sd3", "--guidance", "1")
    assert both == [{**TRAINING, "guidance": 1.0}, {**EVALUATION, "guidance": 1.0}]
    assert samplers("check", "sd", "--guidance", "1") == [{"steps": 50, "guidance": 1.0, "eta": 1.0}]


def test_check_prints_json_and_fails_below_its_bar(capsys: pytest.CaptureFixture[str]) -> None:
    """At guidance 0 the prompt has no say: exit code 1, and the numbers all the same."""
    arguments = "miniature check sd3 --samples 20 --steps 2 --guidance 0 --noise-level 0.2 --json"
    assert main(arguments.split()) == 1
    out, err = capsys.readouterr()
    assert "below 90% (steps 2, guidance 0, noise level 0.2)" in err
    report = json.loads(out)
    assert (report["samples"], report["steps"], report["noise_level"]) == (20, 2, 0.2)
    assert report["accuracy"] < 0.9


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("check", "sd", "--noise-level", "0"), 2, "sd has no --noise-level"),
        (("check", "sd3", "--noise-level", "-1"), 2, "must not be negative"),
        (("check", "sd3", "--path", "/nowhere"), 1, "no pipeline at /nowhere"),
    ],
)
def test_wrong_arguments_get_one_line(
    arguments: tuple[str, ...], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["miniature", *arguments]) == code
    assert words in capsys.readouterr().err


def test_weights_that_are_missing_are_said_to_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(miniature, "WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"benchmarks\.miniatures sd3"):
        sd3_path()
