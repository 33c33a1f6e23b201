"""Implicit reward guidance: 0 is the base model and 1 the expert bit for bit, and the pipeline is left as it was."""

from __future__ import annotations

import copy
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from policies import SAVED, ddpo_lora, flux_lora, move, whole_unet
from test_sample import ASKED, LOADERS, by_hand, command, content

from pcpo_overlay.tools.checkpoints.found import named
from pcpo_overlay.tools.faults import WrongArgument
from pcpo_overlay.tools.miniature import PROMPTS, flux, sd, sd3
from pcpo_overlay.tools.sample import folder
from pcpo_overlay.tools.sample.guidance import Expert, expert_of, guided

pytestmark = pytest.mark.usefixtures("offline_on_one_thread")


def pictures(path: Path) -> dict[str, str]:
    return {file: sha for file, sha in content(path).items() if file != folder.MANIFEST}


@pytest.mark.parametrize("name", SAVED)
def test_the_ends_of_lambda_are_the_base_and_the_expert(tmp_path: Path, name: str) -> None:
    model, save = SAVED[name]
    checkpoint = tmp_path / "checkpoint_4"
    save(checkpoint)
    fixed: dict[str, Any] = {"model": f"miniature-{model}", "steps": 3}
    assert command(tmp_path / "base", "--limit", 2, **fixed) == 0
    assert command(tmp_path / "tuned", "--limit", 2, "--checkpoint", checkpoint, **fixed) == 0
    for strength in ("0", "0.5", "1", "1.5"):
        assert (
            command(tmp_path / strength, "--limit", 2, "--expert", f"{checkpoint}={strength}", **fixed) == 0
        )
    base, tuned = pictures(tmp_path / "base"), pictures(tmp_path / "tuned")
    assert pictures(tmp_path / "0") == base and pictures(tmp_path / "1") == tuned
    different = [base, tuned, pictures(tmp_path / "0.5"), pictures(tmp_path / "1.5")]
    assert len({one["00000/0.png"] for one in different}) == 4
    told = folder.load(tmp_path / "0.5").settings["experts"]
    assert [(one["lambda"], one["guidance"]) for one in told] == [(0.5, None)] and len(
        told[0]["sha256"]
    ) == 64


def predict(pipeline: Any, network: Any, halves: int = 2) -> Any:
    """What the miniature SD's network says of fixed noise; the mix, while one is in place."""
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(halves, 4, 8, 8, generator=draw)
    states = torch.randn(halves, 77, network.config.cross_attention_dim, generator=draw)
    with torch.no_grad():
        return network(x, torch.tensor(500), encoder_hidden_states=states, return_dict=False)[0]


def test_the_mix_of_two_experts_is_the_papers(tmp_path: Path) -> None:
    pipeline = sd.load_pipeline()
    whole_unet(tmp_path / "a", seed=1)
    ddpo_lora(tmp_path / "b", seed=2)
    first, second = (expert_of(pipeline, named(tmp_path / name)) for name in "ab")
    base, one, two = (predict(pipeline, network) for network in (pipeline.unet, first, second))
    assert min((base - one).abs().max(), (one - two).abs().max(), (base - two).abs().max()) > 1e-3
    with guided(pipeline, [Expert(first, 0.7), Expert(second, 0.5)]):
        mixed = predict(pipeline, pipeline.unet)
    exact = base.double() * (1 - 0.7 - 0.5) + 0.7 * one.double() + 0.5 * two.double()
    assert torch.allclose(mixed.double(), exact, rtol=0, atol=2e-6)
    assert torch.equal(predict(pipeline, pipeline.unet), base), "the hook is gone"


def test_the_output_keeps_its_kind_and_dtype(tmp_path: Path) -> None:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

    pipeline = sd.load_pipeline().to(torch.bfloat16)
    whole_unet(tmp_path / "a")
    tuned = expert_of(pipeline, named(tmp_path / "a"))
    assert next(tuned.parameters()).dtype == torch.bfloat16
    asked = (torch.randn(1, 4, 8, 8).bfloat16(), torch.tensor(500), torch.randn(1, 77, 64).bfloat16())
    asked = (*asked[:2], asked[2][..., : pipeline.unet.config.cross_attention_dim])
    with torch.no_grad():
        alone = [network(*asked).sample for network in (pipeline.unet, tuned)]
        for strength, expected in zip((0.0, 1.0), alone, strict=True):
            with guided(pipeline, [Expert(tuned, strength)]):
                mixed, plain = pipeline.unet(*asked), pipeline.unet(*asked, return_dict=False)
            assert isinstance(mixed, UNet2DConditionOutput) and isinstance(plain, tuple)
            assert mixed.sample.dtype == torch.bfloat16
            assert torch.equal(mixed.sample, expected) and torch.equal(plain[0], expected)


@pytest.mark.parametrize("name", SAVED)
def test_an_expert_leaves_the_base_as_it_was_and_shares_what_it_can(tmp_path: Path, name: str) -> None:
    model, save = SAVED[name]
    save(tmp_path / "a")
    pipeline = LOADERS[model]()
    base = pipeline.unet if model == "sd" else pipeline.transformer
    before = {key: value.clone() for key, value in base.state_dict().items()}
    trainable = [parameter.requires_grad for parameter in base.parameters()]
    tuned = expert_of(pipeline, named(tmp_path / "a"))
    assert base.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in base.state_dict().items())
    assert [parameter.requires_grad for parameter in base.parameters()] == trainable
    own = {p.data_ptr() for p in tuned.parameters()} - {p.data_ptr() for p in base.parameters()}
    if "LoRA" in name:
        shared = {p.data_ptr() for p in base.parameters()} & {p.data_ptr() for p in tuned.parameters()}
        assert len(shared) == len(list(base.parameters())) and own
    else:
        assert len(own) == len(list(base.parameters()))
    assert not tuned.training


def test_removing_the_guidance_restores_the_pipeline_after_an_error_too(tmp_path: Path) -> None:
    whole_unet(tmp_path / "a")
    pipeline = sd.load_pipeline()
    before = by_hand(pipeline, PROMPTS[0], 0, **ASKED["sd"])
    tuned = expert_of(pipeline, named(tmp_path / "a"))
    with pytest.raises(RuntimeError, match="on purpose"), guided(pipeline, [Expert(tuned, 0.5)]):
        assert not torch.equal(by_hand(pipeline, PROMPTS[0], 0, **ASKED["sd"]), before)
        raise RuntimeError("on purpose")
    assert torch.equal(by_hand(pipeline, PROMPTS[0], 0, **ASKED["sd"]), before)
    assert not pipeline.unet._forward_hooks
    with guided(pipeline, []):
        assert torch.equal(by_hand(pipeline, PROMPTS[0], 0, **ASKED["sd"]), before)


# --- a guidance scale of its own --------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["sd", "sd3"])
def test_at_one_scale_a_mix_of_outputs_is_the_mix_after_guidance(model: str) -> None:
    """The same picture whether the scale is said for each expert, which is mixed after guidance, or left out."""
    pipeline = LOADERS[model]()
    part = "unet" if model == "sd" else "transformer"
    tuned = copy.deepcopy(getattr(pipeline, part))
    move(tuned, 0.02)
    scale = float(ASKED[model]["guidance_scale"])
    drawn = []
    for own in (None, scale + 1e-12):
        with guided(pipeline, [Expert(tuned, 0.4, own)], scale=scale):
            drawn.append(by_hand(pipeline, PROMPTS[3], 1, **ASKED[model]).int())
    assert (drawn[0] - drawn[1]).abs().max() <= 1


@pytest.mark.parametrize("model", ["sd", "sd3"])
def test_an_expert_alone_at_its_own_scale_is_the_expert_at_that_scale(model: str) -> None:
    pipeline = LOADERS[model]()
    part = "unet" if model == "sd" else "transformer"
    tuned = copy.deepcopy(getattr(pipeline, part))
    move(tuned, 0.02)
    with guided(pipeline, [Expert(tuned, 1.0, 2.0)], scale=float(ASKED[model]["guidance_scale"])):
        mixed = by_hand(pipeline, PROMPTS[3], 1, **ASKED[model])
    setattr(pipeline, part, tuned)
    alone = by_hand(pipeline, PROMPTS[3], 1, **{**ASKED[model], "guidance_scale": 2.0})
    assert torch.equal(mixed, alone)
    assert not torch.equal(mixed, by_hand(pipeline, PROMPTS[3], 1, **ASKED[model]))


def test_flux_is_told_each_experts_own_scale(tmp_path: Path) -> None:
    flux_lora(tmp_path / "a")
    pipeline = flux.load_pipeline()
    tuned = expert_of(pipeline, named(tmp_path / "a"))
    with guided(pipeline, [Expert(tuned, 1.0, 1.5)], scale=3.5):
        mixed = by_hand(pipeline, PROMPTS[3], 1, **ASKED["flux"])
    pipeline.transformer = tuned
    alone = by_hand(pipeline, PROMPTS[3], 1, **{**ASKED["flux"], "guidance_scale": 1.5})
    assert torch.equal(mixed, alone)
    assert not torch.equal(mixed, by_hand(pipeline, PROMPTS[3], 1, **ASKED["flux"]))


def test_a_scale_that_cannot_be_given_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole_unet(tmp_path / "a")
    more = ("--limit", 1, "--guidance", 1, "--expert", f"{tmp_path / 'a'}=0.5@3")
    assert command(tmp_path / "out", *more) == 2
    assert "needs the empty prompt" in capsys.readouterr().err
    pipeline = sd3.load_pipeline()
    with (
        pytest.raises(WrongArgument, match="needs the empty prompt"),
        guided(pipeline, [Expert(pipeline.transformer, 0.5, 3.0)]),
    ):
        pass


def test_a_checkpoint_and_experts_together_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole_unet(tmp_path / "a")
    assert command(tmp_path / "out", "--checkpoint", tmp_path / "a", "--expert", f"{tmp_path / 'a'}=0.5") == 2
    assert "--expert mixes with the base model" in capsys.readouterr().err


def test_two_experts_from_the_command_line(tmp_path: Path) -> None:
    whole_unet(tmp_path / "a", seed=1)
    ddpo_lora(tmp_path / "b", seed=2)
    mix = ("--expert", f"{tmp_path / 'a'}=0.7", "--expert", f"{tmp_path / 'b'}=0.5@3")
    assert command(tmp_path / "out", "--limit", 1, *mix) == 0
    held = folder.load(tmp_path / "out")
    pipeline = sd.load_pipeline()
    experts = [
        Expert(expert_of(pipeline, named(tmp_path / name)), strength, scale)
        for name, strength, scale in (("a", 0.7, None), ("b", 0.5, 3.0))
    ]
    with guided(pipeline, experts, scale=5.0):
        assert torch.equal(held.read(held.pictures()[0]), by_hand(pipeline, PROMPTS[0], 0, **ASKED["sd"]))
    assert [one["guidance"] for one in held.settings["experts"]] == [None, 3.0]


# --- the benchmark: both rewards over lambda --------------------------------------------------------------------


def test_the_benchmark_draws_each_mix_once_and_the_base_model_among_them() -> None:
    from benchmarks import guidance

    mixes = guidance.every_mix()
    assert mixes[0] == {} and len(mixes) == len({tuple(sorted(mix.items())) for mix in mixes})
    assert len(mixes) == 2 * (len(guidance.ALONE) - 1) + (len(guidance.MIXED) - 1) ** 2 + 1
    folders = {guidance._folder(mix, Path("out")).name for mix in mixes}
    assert len(folders) == len(mixes) and {"base", "digit-1", "jpeg-0.5", "digit-0.5_jpeg-1"} <= folders


@pytest.mark.upstream
def test_the_benchmarks_rewards_are_those_of_the_training(ddpo_pristine: Path, tmp_path: Path) -> None:
    """Of the PNGs what ddpo-pytorch's own reward is of the floats they were rounded from, and the miniature's."""
    from benchmarks import guidance
    from benchmarks.measuring.guidance_figure import DIGIT, JPEG
    from pcpo_overlay.tools.launch.flow_grpo import REWARDS

    drawn = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    prompts = ["a handwritten three", "a handwritten nine"]
    opened = folder.begin(tmp_path / "pictures", {}, {}, {})
    pixels = (drawn * 255).round().byte()
    folder.keep(opened, [(folder.Picture(n, 0, text, ""), pixels[n]) for n, text in enumerate(prompts)])
    found = guidance.rewards(tmp_path / "pictures")
    theirs = runpy.run_path(str(ddpo_pristine / "ddpo_pytorch" / "rewards.py"))[JPEG]()
    assert found[JPEG] == theirs(drawn, prompts, [{}, {}])[0].tolist()
    assert found[DIGIT] == pytest.approx(REWARDS[DIGIT]()(drawn, prompts).tolist(), abs=0.02)


def test_the_numbers_behind_the_benchmarks_figure(tmp_path: Path) -> None:
    from benchmarks.measuring.guidance_figure import DIGIT, JPEG, Guided, Point

    point = Point.of({DIGIT: 1.0}, {DIGIT: [0.2, 0.4, 0.9], JPEG: [-1.0, -1.0, -1.0]})
    assert point.means == pytest.approx({DIGIT: 0.5, JPEG: -1.0})
    assert point.errors == pytest.approx({DIGIT: (0.13 / 3) ** 0.5, JPEG: 0.0})
    base = Point.of({}, {DIGIT: [0.1, 0.3], JPEG: [-1.0, -2.0]})
    guided = Guided("a test", 3, [point, base])
    guided.write(tmp_path / "guided.json")
    assert Guided.read(tmp_path / "guided.json") == guided
    assert guided.alone(DIGIT) == [base, point] and guided.alone(JPEG) == [base]
