"""Evaluating checkpoints: measures against closed forms, whose weights are drawn from, and what is left behind."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from synthetic_runs import write_run
from torch import Tensor

from benchmarks.miniatures import model_sd
from pcpo_overlay.__main__ import main
from pcpo_overlay.tools.checkpoints import Checkpoint, CheckpointError
from pcpo_overlay.tools.evaluate import EvaluationError, records, rewards, samples
from pcpo_overlay.tools.evaluate.loaders import LOADERS
from pcpo_overlay.tools.evaluate.measures import diversity, frechet_distance
from pcpo_overlay.tools.evaluate.run import CACHE, Request, evaluate, subject_of
from pcpo_overlay.tools.miniature import PROMPTS, flux_path, sd, sd3_path, sd_path
from pcpo_overlay.tools.miniature.digits import load_digits
from pcpo_overlay.tools.runs.run import load

pytestmark = pytest.mark.usefixtures("offline_on_one_thread")


# --- measures ---------------------------------------------------------------------------------------------------


def with_moments(mean: Tensor, covariance: Tensor, n: int, seed: int = 0) -> Tensor:
    """(n, D) samples whose mean and unbiased covariance are exactly these."""
    d = len(mean)
    draws = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    white = torch.linalg.qr(draws - draws.mean(dim=0)).Q * (n - 1) ** 0.5
    values, vectors = torch.linalg.eigh(covariance.double())
    return white @ (vectors * values.clamp(min=0).sqrt()) @ vectors.T + mean


def rotation(d: int, seed: int) -> Tensor:
    return torch.linalg.qr(
        torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ).Q


def test_frechet_distance_of_axis_aligned_gaussians_is_that_of_their_means_and_deviations() -> None:
    m1, m2 = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.0, 1.0, 0.5]).double()
    s1, s2 = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([2.0, 0.5, 3.0]).double()
    a = with_moments(m1, torch.diag(s1**2), 40, seed=1)
    b = with_moments(m2, torch.diag(s2**2), 25, seed=2)
    assert frechet_distance(a, b) == pytest.approx(float(((m1 - m2) ** 2 + (s1 - s2) ** 2).sum()), rel=1e-12)


def test_frechet_distance_of_covariances_that_do_not_commute() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    q = rotation(6, 3)
    c1 = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5, 0.1]).double())
    c2 = q @ torch.diag(torch.tensor([0.2, 5.0, 1.0, 1.0, 2.0, 3.0]).double()) @ q.T
    zero = torch.zeros(6).double()
    root = linalg.sqrtm((c1 @ c2).numpy())
    told = float(c1.trace() + c2.trace()) - 2 * float(np.trace(root).real)
    assert frechet_distance(with_moments(zero, c1, 30), with_moments(zero, c2, 20, seed=4)) == pytest.approx(
        told, rel=1e-10
    )


def test_frechet_distance_holds_where_samples_are_fewer_than_features() -> None:
    """Two pairs of points in 64 dimensions: their covariances have rank 1, and the roots' trace is |u.v|."""
    u, v = torch.zeros(64), torch.zeros(64)
    u[0], v[0], v[1] = 3.0, 3.0, 4.0
    a, b = torch.stack([u, -u]), torch.stack([v, -v]) + 1.0
    # unbiased: a pair at +-u has the covariance 2 uu'
    assert frechet_distance(a, b) == pytest.approx(64 + 2 * 9 + 2 * 25 - 2 * 2 * 9, rel=1e-12)


def test_frechet_distance_of_a_set_to_itself_is_zero_and_does_not_hang_on_order() -> None:
    features = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(features, features.flip(0)) == 0
    assert frechet_distance(features[:10], features[:10]) == 0
    assert frechet_distance(features, features + 1) == pytest.approx(64, rel=1e-6)
    assert frechet_distance(features[:50], features[50:]) == pytest.approx(
        frechet_distance(features[50:], features[:50])
    )


def test_diversity_is_the_mean_distance_of_pairs() -> None:
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]])
    assert diversity(points) == pytest.approx((5 + 8 + 5) / 3)
    assert diversity(torch.ones(7, 64)) == 0


@pytest.mark.parametrize("shape", [(1, 64), (64,), (2, 3, 4)])
def test_measures_refuse_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="features must be"):
        diversity(torch.zeros(shape))
    with pytest.raises(ValueError, match="features must be"):
        frechet_distance(torch.zeros(3, 64), torch.zeros(shape))
    with pytest.raises(ValueError, match="against"):
        frechet_distance(torch.zeros(3, 64), torch.zeros(3, 2))


def test_rewards_are_the_upstreams() -> None:
    from PIL import Image

    digits = load_digits("test")
    images, prompts = digits.images[:6], [PROMPTS[label] for label in digits.labels[:6]]
    sizes = []
    for image in images:
        file = io.BytesIO()
        array = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(array).save(file, "JPEG", quality=95)
        sizes.append(len(file.getvalue()) / 1000)
    ddpo, flow = (LOADERS[name].rewards["jpeg_compressibility"] for name in ("ddpo", "flow_grpo"))
    assert ddpo(images, prompts).tolist() == [-size for size in sizes]
    assert flow(images, prompts).tolist() == pytest.approx([-size / 500 for size in sizes], rel=1e-12)

    both = rewards.weighted(
        {"jpeg_compressibility": 2.0, "digit_probability": 0.5}, LOADERS["flow_grpo"].rewards
    )
    expected = 2 * flow(images, prompts) + 0.5 * rewards.digit_probability(images, prompts)
    assert torch.allclose(both(images, prompts), expected)


# --- checkpoints ------------------------------------------------------------------------------------------------


def ddpo_run(path: Path, **trainer: Any) -> Path:
    """A run folder of ddpo's miniature without checkpoints."""
    trainer = {
        "pretrained": {"model": str(sd_path())},
        "reward_fn": "jpeg_compressibility",
        "run_name": "named",
        "logdir": "logs",
        "save_freq": 4,
        "resume_from": "",
        "sample": {"num_steps": 2, "guidance_scale": 1.0, "eta": 1.0, "batch_size": 8},
        **trainer,
    }
    return write_run(path, rewards=[0.0] * 13, trainer=trainer)


def save_unet(run: Path, number: int, shift: float) -> Any:
    """A checkpoint of the whole network, each weight moved by ``shift`` times itself."""
    unet = sd.load_pipeline().unet
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.mul_(1 + shift)
    unet.save_pretrained(run / "logs" / "named" / "checkpoints" / f"checkpoint_{number}" / "unet")
    return unet


def flow_run(path: Path, **trainer: Any) -> Path:
    trainer = {
        "pretrained": {"model": str(sd3_path())},
        "reward_fn": {"digit_probability": 1.0},
        "save_dir": str(path),
        "sample": {"num_steps": 2, "guidance_scale": 1.0, "noise_level": 0.7},
        **trainer,
    }
    return write_run(path, rewards=[0.0] * 3, upstream="flow_grpo", trainer=trainer, steps_per_epoch=2)


def flux_lora_run(path: Path, **trainer: Any) -> Path:
    trainer = {
        "pretrained_model_name_or_path": "data/flux",
        "use_hpsv2": True,
        "output_dir": "checkpoints",
        "resume_from_lora_checkpoint": None,
        **{"sampling_steps": 2, "eta": 0.3, "shift": 3},
        **trainer,
    }
    run = write_run(path, rewards=[0.0] * 3, upstream="dancegrpo_flux_lora", trainer=trainer)
    (run / "work" / "data").mkdir(parents=True)
    (run / "work" / "data" / "flux").symlink_to(flux_path())
    return run


def request(**changes: Any) -> Request:
    return dataclasses.replace(Request(samples=2, seed=0), **changes)


def quality(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / records.FILE).read_text().splitlines()]


def test_evaluates_the_checkpoints_weights_and_the_base_once(tmp_path: Path) -> None:
    """What is drawn is what the very weights of each checkpoint draw, by hand."""
    run, twin = ddpo_run(tmp_path / "a"), ddpo_run(tmp_path / "b")
    unets = {number: save_unet(run, number, 0.05 * (number + 1)) for number in (0, 2)}
    save_unet(twin, 0, 0.0)
    said: list[str] = []
    assert evaluate(run, request(), said.append) == []

    lines = quality(run)
    assert [(r["checkpoint"], r["epoch"], r["weights"]) for r in lines] == [
        ("base", 0, "base"),
        ("checkpoint_0", 5, "network"),
        ("checkpoint_2", 13, "network"),
    ]
    assert lines[0]["overall"]["frechet"] == 0
    assert 1e-6 < lines[1]["overall"]["frechet"] < lines[2]["overall"]["frechet"]
    assert set(lines[0]["prompts"]) == set(PROMPTS)

    pipeline = sd.load_pipeline()
    base = samples.draw(
        sd.sample, pipeline, LOADERS["ddpo"].rewards["jpeg_compressibility"], per_prompt=2, seed=0,
        settings={"steps": 2, "guidance": 1.0, "eta": 1.0},
    )  # fmt: skip
    pipeline.unet.load_state_dict(unets[2].state_dict())
    drawn = samples.draw(
        sd.sample, pipeline, LOADERS["ddpo"].rewards["jpeg_compressibility"], per_prompt=2, seed=0,
        settings={"steps": 2, "guidance": 1.0, "eta": 1.0},
    )  # fmt: skip
    overall, prompts = samples.measure(drawn, base)
    assert overall == lines[2]["overall"] and prompts == lines[2]["prompts"]

    # a second run beside it finds the base model's samples, and a checkpoint that equals the base is at no distance
    (cached,) = (tmp_path / CACHE).glob("*.safetensors")
    before = cached.stat().st_mtime_ns
    assert evaluate(twin, request(), said.append) == []
    assert cached.stat().st_mtime_ns == before
    assert quality(twin)[1]["overall"] == quality(twin)[0]["overall"] == lines[0]["overall"]
    assert load(run).quality == lines


def test_numbers_of_a_policy_by_hand() -> None:
    features = torch.zeros(10, 2, 64)
    features[0, 1, 0] = 5.0
    right = torch.ones(10, 2, dtype=torch.bool)
    right[3, 0] = False
    reward = torch.arange(20, dtype=torch.float64).reshape(10, 2)
    base = samples.Samples(torch.zeros(10, 2, 64), reward, right)
    overall, prompts = samples.measure(samples.Samples(features, reward, right), base)
    assert overall["reward"] == 9.5 and overall["accuracy"] == pytest.approx(0.95)
    assert overall["diversity"] == pytest.approx(0.5)
    assert prompts[PROMPTS[0]] == pytest.approx(
        {"reward": 0.5, "accuracy": 1.0, "diversity": 5.0, "frechet": 2.5**2 + 12.5}
    )
    assert prompts[PROMPTS[3]]["accuracy"] == 0.5 and prompts[PROMPTS[3]]["frechet"] == 0
    # 20 numbers of which one is 5: mean 1/4, variance 5/4
    assert overall["frechet"] == pytest.approx(0.25**2 + 1.25)


def test_goes_on_where_it_stopped_and_keeps_what_was_drawn_with_other_settings(tmp_path: Path) -> None:
    run = ddpo_run(tmp_path / "a")
    save_unet(run, 0, 0.1)
    said: list[str] = []
    evaluate(run, request(), said.append)
    first = quality(run)
    save_unet(run, 1, 0.2)
    said.clear()
    evaluate(run, request(), said.append)
    assert [s.split(": ")[1].split(",")[0] for s in said] == [
        "base is evaluated already",
        "checkpoint_0 is evaluated already",
        "checkpoint_1",
    ]
    assert quality(run)[:2] == first and len(quality(run)) == 3

    # a checkpoint that was replaced is evaluated anew, one that is gone keeps its line
    save_unet(run, 1, 0.3)
    shutil.rmtree(run / "logs" / "named" / "checkpoints" / "checkpoint_0")
    old = quality(run)[2]
    evaluate(run, request(), said.append)
    assert quality(run)[:2] == first and quality(run)[2]["sha256"] != old["sha256"]
    aside = run / records.SUPERSEDED
    assert [json.loads(line) for line in aside.read_text().splitlines()] == [old]

    third = quality(run)
    evaluate(run, request(seed=1), said.append)
    assert [r["checkpoint"] for r in quality(run)] == ["base", "checkpoint_1"]
    assert all(r["settings"]["seed"] == 1 for r in quality(run))
    assert [json.loads(line) for line in aside.read_text().splitlines()] == [old, *third]


def test_lora_of_ddpo(tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    from pcpo_overlay import compat
    from pcpo_overlay.compat.lora import LoRAAttnProcessor, lora_layers

    compat.install()
    pipeline = sd.load_pipeline()
    unet: UNet2DConditionModel = pipeline.unet
    processors = {}
    for name in unet.attn_processors:
        width = unet.config.block_out_channels[0]
        cross = None if name.endswith("attn1.processor") else unet.config.cross_attention_dim
        if name.startswith("mid_block"):
            width = unet.config.block_out_channels[-1]
        processors[name] = LoRAAttnProcessor(width, cross)
    unet.set_attn_processor(dict(processors))  # which empties what it is given
    with torch.no_grad():
        for processor in processors.values():
            processor.to_out_lora.up.weight.normal_()
    run = ddpo_run(tmp_path / "a")
    folder = run / "logs" / "named" / "checkpoints" / "checkpoint_0"
    unet.save_attn_procs(folder)

    assert evaluate(run, request(), lambda _: None) == []
    assert quality(run)[1]["weights"] == "lora" and quality(run)[1]["overall"]["frechet"] > 1e-6
    (checkpoint,) = LOADERS["ddpo"].checkpoints(load(run))
    fresh = sd.load_pipeline()
    LOADERS["ddpo"].put(fresh, checkpoint)
    loaded = lora_layers(fresh.unet)
    assert loaded.keys() == processors.keys() and loaded
    for name, processor in processors.items():
        for key, value in processor.state_dict().items():
            assert torch.equal(loaded[name].state_dict()[key], value)


def moved_transformer(shift: float) -> Any:
    transformer = LOADERS["flow_grpo"].load_pipeline(sd3_path()).transformer
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.mul_(1 + shift)
    return transformer


def test_flow_grpo_whole_network_and_lora(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    loader = LOADERS["flow_grpo"]
    run = flow_run(tmp_path / "a", train={"lora_path": ""})
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    step = iter(range(100))
    for line in lines:
        if line["kind"] == "step":
            line["step"] = next(step)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    network = moved_transformer(0.03)
    network.save_pretrained(run / "checkpoints" / "checkpoint-2" / "lora")
    adapted = get_peft_model(
        loader.load_pipeline(sd3_path()).transformer,
        LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, target_modules=["attn.to_q", "attn.to_v"]),
    )
    adapted.save_pretrained(run / "checkpoints" / "checkpoint-6" / "lora")

    assert evaluate(run, request(), lambda _: None) == []
    assert [(r["checkpoint"], r["epoch"], r["weights"]) for r in quality(run)] == [
        ("base", 0, "base"),
        ("checkpoint-2", 1, "network"),
        ("checkpoint-6", 3, "lora"),
    ]
    assert quality(run)[1]["overall"]["frechet"] > 1e-6 < quality(run)[2]["overall"]["frechet"]

    whole, low_rank = loader.checkpoints(load(run))
    pipeline = loader.load_pipeline(sd3_path())
    loader.put(pipeline, whole)
    for name, value in network.state_dict().items():
        assert torch.equal(pipeline.transformer.state_dict()[name], value)
    pipeline = loader.load_pipeline(sd3_path())
    loader.put(pipeline, low_rank)
    held = get_peft_model_state_dict(pipeline.transformer)
    assert held and all(torch.equal(held[k], v) for k, v in get_peft_model_state_dict(adapted).items())


def save_flux_lora(run: Path, before: int, alpha: int) -> Any:
    """Low-rank factors as DanceGRPO saves them, before an iteration's training; the adapted network."""
    from diffusers import FluxPipeline
    from peft import LoraConfig, get_peft_model_state_dict

    transformer = LOADERS["dancegrpo_flux_lora"].load_pipeline(flux_path()).transformer
    targets = ["to_k", "to_q", "to_v", "to_out.0"]
    transformer.add_adapter(
        LoraConfig(r=4, lora_alpha=alpha, init_lora_weights=False, target_modules=targets)
    )
    folder = run / "checkpoints" / f"lora-checkpoint-{before}-0"
    FluxPipeline.save_lora_weights(folder, transformer_lora_layers=get_peft_model_state_dict(transformer))
    scale = {"lora_rank": 4, "lora_alpha": alpha, "target_modules": targets}
    (folder / "lora_config.json").write_text(json.dumps({"step": before, "lora_params": scale}))
    return transformer


def test_dancegrpo_flux_lora(tmp_path: Path) -> None:
    loader = LOADERS["dancegrpo_flux_lora"]
    run = flux_lora_run(tmp_path / "a")
    adapted = {number: save_flux_lora(run, number, alpha) for number, alpha in ((2, 2), (3, 16))}
    assert evaluate(run, request(), lambda _: None) == []
    assert [(r["checkpoint"], r["epoch"], r["weights"]) for r in quality(run)] == [
        ("base", 0, "base"),
        ("lora-checkpoint-2-0", 1, "lora"),
        ("lora-checkpoint-3-0", 2, "lora"),
    ]
    # The scale, which only lora_config.json tells, is that of training.
    for number, checkpoint in zip(adapted, loader.checkpoints(load(run)), strict=True):
        pipeline = loader.load_pipeline(flux_path())
        loader.put(pipeline, checkpoint)
        layers = [
            network.transformer_blocks[0].attn.to_q for network in (pipeline.transformer, adapted[number])
        ]
        x = torch.randn(3, layers[0].in_features)
        assert torch.equal(layers[0](x), layers[1](x))
        assert not torch.allclose(layers[0](x), layers[0].base_layer(x), atol=1e-4)

    (run / "checkpoints" / "lora-checkpoint-2-0" / "lora_config.json").unlink()
    (run / records.FILE).unlink()
    (failed,) = evaluate(run, request(), lambda _: None)
    assert "does not say by how much its factors are scaled" in str(failed)
    assert [r["checkpoint"] for r in quality(run)] == ["base", "lora-checkpoint-3-0"]


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
def test_an_adapter_that_peft_would_quietly_leave_out_is_refused(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file

    loader = LOADERS["flow_grpo"]
    adapted = get_peft_model(
        loader.load_pipeline(sd3_path()).transformer, LoraConfig(r=2, target_modules=["attn.to_q"])
    )
    adapted.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    save_file({k.replace("to_q", "to_x"): v for k, v in load_file(file).items()}, file)
    with pytest.raises(CheckpointError, match="does not fit the model the run began with"):
        loader.put(loader.load_pipeline(sd3_path()), Checkpoint("checkpoint-1", 1, file, True))


def test_the_sampler_is_the_runs_own_and_native(tmp_path: Path) -> None:
    ddpo = subject_of(load(ddpo_run(tmp_path / "a")), request())
    assert ddpo.sampler == {"steps": 2, "guidance": 1.0, "eta": 1.0}
    flow = flow_run(
        tmp_path / "b",
        sample={"num_steps": 7, "eval_num_steps": 40, "guidance_scale": 0.0, "noise_level": 0.3},
    )
    assert subject_of(load(flow), request()).sampler == {
        "steps": 7,
        "guidance": 1.0,
        "noise_level": 0.3,
    }


def of_flow_grpo(path: Path, name: str, **sample: Any) -> Path:
    """A run of another of flow_grpo's trainers, with the miniature that it would train."""
    shipped, settings = LOADERS[name].shipped, {"num_steps": 5, "guidance_scale": 3.5, "noise_level": 0.8}
    trainer = {
        "pretrained": {"model": str(shipped)},
        "reward_fn": {"digit_probability": 1.0},
        "save_dir": str(path),
        "sample": {**settings, **sample},
    }
    return write_run(path, rewards=[0.0], upstream=name, trainer=trainer)


def test_the_samplers_of_flow_grpos_other_trainers(tmp_path: Path) -> None:
    plain = {"steps": 5, "guidance": 3.5, "noise_level": 0.8}
    window = {"sde_type": "cps", "sde_window_size": 3, "sde_window_range": (0, 4)}
    for name in ("flow_grpo_sd3_fast", "flow_grpo_flux_fast"):
        run = of_flow_grpo(tmp_path / name, name, **window)
        told = {**plain, "sde_type": "cps", "window": [3, 0, 4]}
        assert subject_of(load(run), request()).sampler == told
    for name, guidance in (("flow_grpo_flux", 0.5), ("flow_grpo_sd3_guard", 1.0)):
        run = of_flow_grpo(tmp_path / name, name, guidance_scale=0.5)
        assert subject_of(load(run), request()).sampler == {**plain, "guidance": guidance}
    broken = of_flow_grpo(tmp_path / "broken", "flow_grpo_sd3_fast", **{**window, "sde_window_range": [1]})
    with pytest.raises(EvaluationError, match=r"sde_window_range is \[1\] in place of two whole numbers"):
        subject_of(load(broken), request())


def test_a_rivals_records_are_those_of_the_trainer_that_it_is_compared_with(tmp_path: Path) -> None:
    held = [
        subject_of(load(of_flow_grpo(tmp_path / name, name)), request())
        for name in ("flow_grpo", "flow_grpo_sd3_guard")
    ]
    assert records.digest(held[0].settings) == records.digest(held[1].settings)


# --- refusals ---------------------------------------------------------------------------------------------------


def command(*argv: object) -> int:
    """Run ``pcpo evaluate`` in this process."""
    return main(["evaluate", *map(str, argv)])


def without_checkpoints(path: Path) -> Path:
    return ddpo_run(path / "run")


def of_flow_without_checkpoints(path: Path) -> Path:
    return flow_run(path / "run", train={})


def of_another_upstream(path: Path) -> Path:
    return write_run(path / "run", rewards=[0.0], upstream="dancegrpo_hunyuan")


def with_another_reward(path: Path) -> Path:
    return ddpo_run(path / "run", reward_fn="aesthetic_score")


def of_another_model(path: Path) -> Path:
    shutil.copytree(sd_path() / "unet", path / "large" / "unet")
    config = path / "large" / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "sample_size": 64}))
    return ddpo_run(path / "run", pretrained={"model": str(path / "large")})


def of_a_model_elsewhere(path: Path) -> Path:
    return ddpo_run(path / "run", pretrained={"model": "runwayml/stable-diffusion-v1-5"})


def without_a_config(path: Path) -> Path:
    return write_run(path / "run", rewards=[0.0], trainer={"pretrained": None})


def resumed(path: Path) -> Path:
    run = ddpo_run(path / "run", resume_from="somewhere")
    (run / "logs" / "named" / "checkpoints" / "checkpoint_0").mkdir(parents=True)
    return run


def cut_short(path: Path) -> Path:
    run = ddpo_run(path / "run")
    (run / "logs" / "named" / "checkpoints" / "checkpoint_0").mkdir(parents=True)
    return run


def with_a_lora_to_begin_with(path: Path) -> Path:
    return flow_run(path / "run", train={"lora_path": "somewhere"})


def with_a_flux_lora_to_begin_with(path: Path) -> Path:
    return flux_lora_run(path / "run", resume_from_lora_checkpoint="somewhere")


def of_a_model_with_code(path: Path) -> Path:
    """diffusers alone would import the module that its index names; evaluating it would run it."""
    model = shutil.copytree(sd_path(), path / "run-of" / "sd")
    (model / "unet" / "evil.py").write_text("raise SystemExit('this code was run')")
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps({**index, "unet": ["evil", "Evil"]}))
    run = ddpo_run(path / "run", pretrained={"model": str(model)})
    save_unet(run, 0, 0.1)
    return run


def with_damaged_records(path: Path) -> Path:
    run = ddpo_run(path / "run")
    (run / records.FILE).write_text('{"epoch": 0}\n')
    return run


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (without_checkpoints, "holds no checkpoints; ab makes them with -- --config.save_freq=5 --config.num_ch"),
        (of_flow_without_checkpoints, "holds no checkpoints; ab makes them with -- --config.save_freq=5, and an"),
        (of_another_upstream, "is a run of dancegrpo_hunyuan; evaluate knows those of ddpo, flow_grpo, flow_gr"),
        (with_another_reward, "aesthetic_score, which evaluate does not compute; it knows jpeg_compressibility, d"),
        (of_another_model, "draws no 32x32 digits and no 64x64 animals: evaluate is for runs of the miniatures"),
        (of_a_model_elsewhere, "no pipeline's folder on this machine"),
        (without_a_config, "run.json lacks the trainer's config, or part of it"),
        (resumed, "was resumed (config.resume_from)"),
        (cut_short, "holds neither a whole network nor LoRA weights; was it cut short by a kill?"),
        (with_a_lora_to_begin_with, "began with a LoRA of its own (config.train.lora_path)"),
        (with_a_flux_lora_to_begin_with, "began with a LoRA of its own (--resume_from_lora_checkpoint)"),
        (of_a_model_with_code, "unet is ['evil', 'Evil'], which is not one of the classes of diffusers and tra"),
        (with_damaged_records, "line 1 of evaluation.jsonl is damaged; move the file away"),
    ],
)  # fmt: skip
def test_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], Path], told: str
) -> None:
    assert command(make(tmp_path)) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("pcpo evaluate: ") and told in err
    assert str(tmp_path / "run") in err


def test_an_unreadable_checkpoint_is_named_and_the_others_are_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ddpo_run(tmp_path / "a")
    save_unet(run, 0, 0.1)
    save_unet(run, 1, 0.1)
    save_unet(run, 2, 0.2)
    checkpoints = run / "logs" / "named" / "checkpoints"
    broken = checkpoints / "checkpoint_0" / "unet" / "diffusion_pytorch_model.safetensors"
    broken.write_bytes(broken.read_bytes()[:1000])
    narrow = model_sd.build_unet().__class__(**{**model_sd.UNET, "block_out_channels": (8, 16)})
    narrow.save_pretrained(checkpoints / "checkpoint_1" / "unet")

    assert command(run, "--samples", 2) == 1
    first, second = capsys.readouterr().err.strip().splitlines()
    assert f"{broken} cannot be read" in first
    assert "checkpoint_1" in second and "does not fit the model the run began with" in second
    assert [r["checkpoint"] for r in quality(run)] == ["base", "checkpoint_2"]
    assert command(run, "--samples", 2) == 1, "what failed is tried again"


def test_a_run_of_another_machine_is_evaluated_on_the_shipped_miniature(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ddpo_run(tmp_path / "a", pretrained={"model": "/elsewhere/pcpo_overlay/tools/miniature/weights/sd"})
    save_unet(run, 0, 0.1)
    assert command(run, "--samples", 2) == 0
    assert "is not here; taken for it is the shipped miniature" in capsys.readouterr().out


def test_two_at_once_on_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import filelock

    run = ddpo_run(tmp_path / "a")
    save_unet(run, 0, 0.1)
    with filelock.FileLock(run / ".evaluate.lock"):
        assert command(run) == 1
    assert "is being evaluated by another command" in capsys.readouterr().err
    assert not (run / records.FILE).exists()


def test_ctrl_c_keeps_what_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ddpo_run(tmp_path / "a")
    save_unet(run, 0, 0.1)

    def put(pipeline: Any, checkpoint: Checkpoint) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(LOADERS, "ddpo", dataclasses.replace(LOADERS["ddpo"], put=put))
    assert command(run, "--samples", 2) == 130
    assert [r["checkpoint"] for r in quality(run)] == ["base"]
    assert "type the same command again" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--samples", "1"], ["--samples", "many"], ["--seed", "-1"]])
def test_wrong_arguments(tmp_path: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command(tmp_path, *arguments)
    assert stopped.value.code == 2


def test_no_such_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(tmp_path / "none") == 1
    assert "no such folder" in capsys.readouterr().err


def test_a_damaged_cache_is_drawn_anew(tmp_path: Path) -> None:
    drawn = samples.Samples(torch.zeros(10, 2, 64), torch.zeros(10, 2).double(), torch.ones(10, 2).bool())
    path = tmp_path / "new" / "base.safetensors"
    assert samples.restore(path, {"seed": 0}) is None
    samples.save(path, drawn, {"seed": 0})
    kept = samples.restore(path, {"seed": 0})
    assert kept is not None and torch.equal(kept.right, drawn.right)
    assert samples.restore(path, {"seed": 1}) is None
    path.write_bytes(path.read_bytes()[:100])
    assert samples.restore(path, {"seed": 0}) is None
