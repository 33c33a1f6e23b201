"""The digits miniature: data, classifier, tokenizer, the shipped pipeline and how well it follows its prompts."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.miniatures import model_sd
from benchmarks.miniatures.augment import augment
from benchmarks.miniatures.tokenizer import MAX_LENGTH, learn_merges, vocabulary, write_tokenizer
from benchmarks.miniatures.train_sd import Latents, Recipe, ddpm_alphas_cumprod, train_unet, train_vae
from pcpo_overlay.__main__ import main
from pcpo_overlay.tools import miniature
from pcpo_overlay.tools.miniature import DIGIT_NAMES, PROMPTS, sd, sd_path
from pcpo_overlay.tools.miniature.animals.classifier import load_classifier as load_animal_classifier
from pcpo_overlay.tools.miniature.check import check, draw, grid_figure, nearest, prompted_digits, spread
from pcpo_overlay.tools.miniature.classifier import accuracy, digit_probability, load_classifier
from pcpo_overlay.tools.miniature.digits import load_digits, render

pytestmark = pytest.mark.usefixtures("offline_on_one_thread")


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return sd.load_pipeline()


# --- real digits and their reader ---------------------------------------------------------------------


def test_digits_split_is_fixed_and_disjoint() -> None:
    train, test = load_digits("train"), load_digits("test")
    assert train.images.shape == (1437, 3, 32, 32)
    assert test.images.shape == (360, 3, 32, 32)
    assert train.images.dtype == torch.float32
    assert train.images.min() >= 0
    assert train.images.max() == 1
    assert torch.equal(test.labels[:10], torch.tensor([7, 6, 3, 7, 7, 3, 2, 8, 9, 3]))
    assert torch.cdist(test.images[:, 0].flatten(1), train.images[:, 0].flatten(1)).min() > 0
    assert test.labels.bincount().min() >= 34
    with pytest.raises(ValueError, match="train"):
        load_digits("validation")


def test_render_keeps_the_ink_where_it_was() -> None:
    scan = torch.zeros(1, 8, 8)
    scan[0, 2, 5] = 16
    image = render(scan)[0, 0]
    row, column = divmod(int(image.argmin()), 32)
    # scan pixel p has its middle at (p + 1.5) * 3.2 of the 32 pixels: one pixel of margin, then the scan
    assert abs(row + 0.5 - 3.5 * 3.2) <= 1
    assert abs(column + 0.5 - 6.5 * 3.2) <= 1


def test_augment_moves_little_and_repeats_with_its_seed() -> None:
    images = load_digits("test").images[:50]
    first = augment(images, torch.Generator().manual_seed(3))
    assert torch.equal(first, augment(images, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, augment(images, torch.Generator().manual_seed(4)))
    still = augment(images, torch.Generator().manual_seed(3), degrees=0, scale=0, shear=0, shift=0)
    assert torch.allclose(still, images, atol=1e-5)


def test_classifier_reads_held_out_real_digits() -> None:
    test = load_digits("test")
    model = load_classifier()
    assert accuracy(model, test.images, test.labels) >= 0.98
    assert model.features(test.images[:3]).shape == (3, 64)
    right = digit_probability(test.images, test.labels)
    wrong = digit_probability(test.images, (test.labels + 1) % 10)
    assert right.shape == (360,)
    assert right.mean() > 0.9 and wrong.mean() < 0.05
    with pytest.raises(ValueError, match="32, 32"):
        model(torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize("load", [load_classifier, load_animal_classifier])
def test_a_classifier_is_loaded_without_drawing_a_random_number(load: Callable[[], nn.Module]) -> None:
    before = torch.get_rng_state()
    model = load()
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(value.is_meta or value.requires_grad for value in model.state_dict().values())


# --- tokenizer ----------------------------------------------------------------------------------------


def test_learned_merges_are_the_most_frequent_pair_first() -> None:
    assert learn_merges(["aab", "ab"]) == [("a", "b</w>"), ("a", "ab</w>")]


def test_prompts_round_trip_with_distinct_ids(pipeline: Any) -> None:
    tokenizer = pipeline.tokenizer
    encoded = tokenizer(list(PROMPTS), padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert encoded.shape == (10, MAX_LENGTH)
    assert MAX_LENGTH == tokenizer.model_max_length == pipeline.text_encoder.config.max_position_embeddings
    assert len({tuple(row) for row in encoded.tolist()}) == 10
    assert tokenizer.batch_decode(encoded, skip_special_tokens=True) == list(PROMPTS)
    for prompt in PROMPTS:
        assert len(tokenizer(prompt).input_ids) == 2 + len(prompt.split())  # a token a word


@pytest.mark.parametrize("prompt", ["", "a red fox, running!", "größe 数字 🙂", "x" * 300])
def test_any_prompt_tokenizes_without_unknown_tokens(pipeline: Any, prompt: str) -> None:
    ids = pipeline.tokenizer(prompt, padding="max_length", truncation=True).input_ids
    assert len(ids) == MAX_LENGTH
    assert max(ids) < pipeline.text_encoder.config.vocab_size
    assert ids[0] == pipeline.tokenizer.bos_token_id
    end = ids.index(pipeline.tokenizer.eos_token_id)  # the unknown token is the end token too
    assert set(ids[end:]) == {pipeline.tokenizer.eos_token_id}
    text = pipeline.tokenizer.decode(ids[1:end]).replace(" ", "")
    assert len(text) >= min(4, len(prompt)) and prompt.replace(" ", "").startswith(
        text.rstrip("\N{REPLACEMENT CHARACTER}")
    )


def test_shipped_tokenizer_is_the_one_this_code_writes(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    shipped = sd_path() / "tokenizer"
    assert {path.name for path in shipped.iterdir()} == {path.name for path in tmp_path.iterdir()}
    for path in tmp_path.iterdir():
        assert path.read_text(encoding="utf-8") == (shipped / path.name).read_text(encoding="utf-8"), (
            path.name
        )
    assert len(vocabulary()[0]) == len(set(vocabulary()[0].values()))


# --- the shipped pipeline -----------------------------------------------------------------------------


def test_shipped_files_are_few_and_small() -> None:
    files = [path for path in miniature.WEIGHTS.rglob("*") if path.is_file()]
    animals = {path for path in files if miniature.WEIGHTS / "animals" in path.parents}
    assert sum(path.stat().st_size for path in set(files) - animals) < 12e6
    assert sum(path.stat().st_size for path in animals) < 10e6
    assert {path.suffix for path in files} == {".json", ".txt", ".safetensors"}


def test_layout_is_stable_diffusion_1(pipeline: Any) -> None:
    index = json.loads((sd_path() / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["safety_checker"] == [None, None]
    assert {name: type(part).__name__ for name, part in pipeline.components.items() if part is not None} == {
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "unet": "UNet2DConditionModel",
        "scheduler": "DDIMScheduler",
    }
    assert pipeline.vae.config.scaling_factor == 0.18215
    assert pipeline.unet.config.cross_attention_dim == pipeline.text_encoder.config.hidden_size
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert {value.dtype for value in part.parameters()} == {torch.float32}


def test_scheduler_is_that_of_stable_diffusion_1_5(pipeline: Any) -> None:
    from diffusers import PNDMScheduler

    shipped = json.loads((sd_path() / "scheduler" / "scheduler_config.json").read_text())
    assert shipped == {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
        "clip_sample": False,
    }
    scheduler = PNDMScheduler.from_pretrained(sd_path(), subfolder="scheduler")
    assert torch.allclose(ddpm_alphas_cumprod(), scheduler.alphas_cumprod, rtol=1e-4)
    assert torch.equal(pipeline.scheduler.alphas_cumprod, scheduler.alphas_cumprod)
    pipeline.scheduler.set_timesteps(50)
    assert pipeline.scheduler.timesteps[0] == 981 and pipeline.scheduler.timesteps[-1] == 1


def test_loads_offline_as_upstream_loads_it() -> None:
    """ddpo-pytorch's own call, warnings turned into errors, in a process that has loaded nothing before."""
    code = (
        "import warnings, torch\n"
        "from diffusers import StableDiffusionPipeline\n"
        "from pcpo_overlay.tools.miniature import sd_path\n"
        "warnings.simplefilter('error')\n"
        "pipeline = StableDiffusionPipeline.from_pretrained(str(sd_path()), revision='main')\n"
        "print(type(pipeline).__name__, pipeline.unet.dtype)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["StableDiffusionPipeline", "torch.float32"]


def test_latents_have_unit_variance_and_decode_to_what_was_encoded(pipeline: Any) -> None:
    test = load_digits("test")
    with torch.no_grad():
        posterior = pipeline.vae.encode(2 * test.images - 1).latent_dist
        latents = posterior.sample(torch.Generator().manual_seed(0))
        decoded = (pipeline.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    scaled = latents * pipeline.vae.config.scaling_factor
    assert scaled.shape == (360, 4, 8, 8)
    assert scaled.mean(dim=(0, 2, 3)).abs().max() < 0.1
    assert (scaled.std(dim=(0, 2, 3)) - 1).abs().max() < 0.1
    error = (decoded - test.images).square().mean()
    assert -10 * torch.log10(error) > 30  # dB
    assert accuracy(load_classifier(), decoded, test.labels) >= 0.98


def test_samples_repeat_with_their_seed(pipeline: Any) -> None:
    first, again, other = (sd.sample(pipeline, PROMPTS[:2], steps=3, seed=seed) for seed in (5, 5, 6))
    assert first.shape == (2, 3, 32, 32)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_hundred_samples_follow_their_prompt(pipeline: Any) -> None:
    """The fast form of the 1,000-sample check: 20 steps, and a bound five points lower."""
    result = check(pipeline, samples=100, steps=20, seed=7)
    assert result.accuracy >= 0.85, result


def test_samples_without_the_prompt_do_not(pipeline: Any) -> None:
    """The classifier's reading comes from the prompt: prompted for another digit, the same seeds miss."""
    digits = prompted_digits(30)
    images = draw(pipeline, (digits + 1) % 10, steps=10)
    assert accuracy(load_classifier(), images, digits) < 0.3


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_samples_follow_their_prompt_and_vary(pipeline: Any) -> None:
    result = check(pipeline, samples=200)
    assert result.accuracy >= 0.90, result
    assert min(result.per_digit) >= 0.75, result
    assert result.spread >= 0.5 * result.spread_real, result
    assert result.nearest >= 0.5 * result.nearest_real, result


def test_spread_and_nearest_tell_copies_from_variety() -> None:
    train, test = load_digits("train"), load_digits("test")
    one_each = torch.stack([train.images[train.labels == d][0] for d in range(10)]).repeat(3, 1, 1, 1)
    assert spread(one_each, prompted_digits(30)) == pytest.approx(0, abs=1e-6)
    assert nearest(one_each, train.images) == pytest.approx(0, abs=1e-3)
    assert spread(test.images, test.labels) > 0.05
    assert nearest(test.images, train.images) > 0.05


# --- training -----------------------------------------------------------------------------------------


def test_training_repeats_with_its_seed_and_learns(tmp_path: Path) -> None:
    recipe = Recipe(vae_steps=25, vae_batch=8, unet_steps=4, unet_batch=8)
    errors: list[float] = []
    vae = train_vae(recipe, lambda step, loss: errors.append(loss))
    assert errors[-1] < 0.5 * errors[0]
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(20, 4, 8, 8, generator=generator)
    latents = Latents(means, torch.full_like(means, recipe.latent_noise), torch.arange(20) % 10)
    losses: list[float] = []
    unet, text_encoder = train_unet(latents, recipe, lambda step, loss: losses.append(loss))
    again, _ = train_unet(latents, recipe)
    other, _ = train_unet(latents, Recipe(**{**vars(recipe), "seed": 1}))
    assert len(losses) == recipe.unet_steps
    assert torch.equal(unet.conv_out.weight, again.conv_out.weight)
    assert not torch.equal(unet.conv_out.weight, other.conv_out.weight)
    saved = model_sd.save_pipeline(tmp_path / "sd", unet=unet, vae=vae, text_encoder=text_encoder)
    loaded = sd.load_pipeline(saved)
    assert torch.equal(loaded.unet.conv_out.weight, unet.conv_out.weight)
    assert torch.equal(loaded.vae.quant_conv.bias, vae.quant_conv.bias)


# --- the command line ---------------------------------------------------------------------------------


def run_cli(*arguments: str) -> int:
    try:
        return main(["miniature", *arguments])
    except SystemExit as stop:  # argparse
        assert isinstance(stop.code, int)
        return stop.code


def test_check_prints_json_and_fails_below_its_bar(capsys: pytest.CaptureFixture[str]) -> None:
    """One step of DDIM from noise reads as nothing: exit code 1, and the numbers all the same."""
    assert run_cli("check", "sd", "--samples", "20", "--steps", "1", "--guidance", "1", "--json") == 1
    out, err = capsys.readouterr()
    assert "below 90%" in err
    report = json.loads(out)
    assert report["samples"] == 20
    assert set(report["per_digit"]) == set(DIGIT_NAMES)
    assert report["accuracy"] < 0.9


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("check", "sd", "--samples", "5"), 2, "at least 20"),
        (("check", "sd", "--steps", "0"), 2, "--steps: expected a whole number, 1 or more, got '0'"),
        (("check", "sd", "--path", "/nowhere"), 1, "no pipeline at /nowhere"),
        (("check", "sdxl"), 2, "choose from"),
    ],
)
def test_wrong_arguments_get_one_line(
    arguments: tuple[str, ...], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(*arguments) == code
    assert words in capsys.readouterr().err


def test_grid_is_a_png_with_a_row_per_prompt(tmp_path: Path) -> None:
    from PIL import Image

    images = load_digits("test").images[:20]
    out = grid_figure(images, tmp_path / "new" / "grid.png", columns=2)
    with Image.open(io.BytesIO(out.read_bytes())) as picture:
        assert picture.format == "PNG"
        assert picture.height > 10 * 32
    with pytest.raises(ValueError, match="10 x 3"):
        grid_figure(images, tmp_path / "grid.png", columns=3)


# --- the config file for ddpo-pytorch -----------------------------------------------------------------

STAND_IN_BASE = """
import ml_collections

def get_config():
    config = ml_collections.ConfigDict()
    config.mixed_precision, config.allow_tf32, config.use_lora = "fp16", True, True
    config.num_epochs, config.save_freq, config.num_checkpoint_limit = 100, 20, 5
    config.pretrained = ml_collections.ConfigDict({"model": "", "revision": "main"})
    config.sample = ml_collections.ConfigDict({"batch_size": 1, "num_batches_per_epoch": 2, "eta": 0.7})
    config.train = ml_collections.ConfigDict({"batch_size": 1, "gradient_accumulation_steps": 1})
    config.prompt_fn, config.prompt_fn_kwargs, config.reward_fn = "", {}, ""
    config.per_prompt_stat_tracking = ml_collections.ConfigDict({"buffer_size": 1, "min_count": 1})
    return config
"""


@pytest.fixture
def ddpo_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The config file loaded by its path, as absl does, beside stand-ins of ours for upstream's modules."""
    package = ModuleType("ddpo_pytorch")
    for name in ("prompts", "rewards"):
        module = ModuleType(f"ddpo_pytorch.{name}")
        setattr(package, name, module)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "ddpo_pytorch", package)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "base.py").write_text(STAND_IN_BASE)
    monkeypatch.chdir(tmp_path)
    path = Path(miniature.__file__).parent / "ddpo_config.py"
    spec = importlib.util.spec_from_file_location("config_file_given_on_the_command_line", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ddpo_config_shrinks_upstreams_own(ddpo_config: ModuleType) -> None:
    config = ddpo_config.get_config()
    assert config.pretrained.model == str(sd_path())
    assert config.mixed_precision == "no"
    assert config.sample.batch_size * config.sample.num_batches_per_epoch == 64
    updates, rest = divmod(64, config.train.batch_size * config.train.gradient_accumulation_steps)
    assert (updates, rest) == (2, 0)
    assert config.sample.batch_size % config.train.batch_size == 0
    assert config.reward_fn == "jpeg_compressibility"
    assert config.sample.eta == 0.7  # what the file does not name stays upstream's


def test_ddpo_config_registers_prompts_and_reward(ddpo_config: ModuleType) -> None:
    config = ddpo_config.get_config()
    prompts = sys.modules["ddpo_pytorch.prompts"]
    rewards = sys.modules["ddpo_pytorch.rewards"]
    drawn = [getattr(prompts, config.prompt_fn)() for _ in range(200)]
    assert all(prompt == PROMPTS[metadata["label"]] for prompt, metadata in drawn)
    assert len({prompt for prompt, _ in drawn}) == 10

    test = load_digits("test")
    reward = rewards.digit_probability()
    asked = [(PROMPTS[label], {"label": int(label)}) for label in test.labels[:20]]
    texts, metadata = zip(*asked, strict=True)
    values, info = reward(test.images[:20], texts, metadata)
    assert values.shape == (20,) and values.mean() > 0.9
    assert (info["read"] == test.labels[:20].numpy()).mean() > 0.9
    bytes_images = (test.images[:20] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    assert reward(bytes_images, texts, metadata)[0] == pytest.approx(values, abs=0.02)


def test_ddpo_config_says_where_it_must_run(
    ddpo_config: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="working directory"):
        ddpo_config.get_config()
