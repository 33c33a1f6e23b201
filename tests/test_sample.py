"""``pcpo sample``: what is drawn hangs on prompt, seed and policy alone; folders are taken up, and never mixed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from policies import SAVED, whole_unet
from synthetic_runs import write_run
from test_evaluate import ddpo_run

from pcpo_overlay.__main__ import main
from pcpo_overlay.tools.miniature import PROMPTS, flux, sd, sd3, sd_path
from pcpo_overlay.tools.sample import SampleError, folder, prompts
from pcpo_overlay.tools.sample.draw import Request, Share, draw, plan
from pcpo_overlay.tools.sample.sheet import sheet

pytestmark = pytest.mark.usefixtures("offline_on_one_thread")
Capture = pytest.CaptureFixture[str]

LOADERS = {"sd": sd.load_pipeline, "sd3": sd3.load_pipeline, "flux": flux.load_pipeline}


def words(out: Path, *more: object, model: str = "miniature-sd", steps: int = 2) -> list[str]:
    fixed = ("sample", "--model", model, "--prompts", "digits", "--steps", steps, "--out", out)
    return [str(word) for word in (*fixed, *more)]


def command(out: Path, *more: object, **fixed: Any) -> int:
    return main(words(out, *more, **fixed))


def content(path: Path) -> dict[str, str]:
    """Digests of all pictures and of the manifest."""
    files = [*path.rglob("*.png"), path / folder.MANIFEST]
    return {f.relative_to(path).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


# --- what is drawn ----------------------------------------------------------------------------------------------


def by_hand(pipeline: Any, text: str, seed: int, **asked: Any) -> torch.Tensor:
    """What diffusers' own pipeline draws of one prompt and seed."""
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        text, generator=torch.Generator().manual_seed(seed), num_inference_steps=2, output_type="pt", **asked
    ).images[0]
    return (image * 255).round().to(torch.uint8)


ASKED: dict[str, dict[str, Any]] = {
    "sd": {"guidance_scale": 5.0, "eta": 1.0},
    "sd3": {"guidance_scale": 4.5, "max_sequence_length": 128, "height": 32, "width": 32},
    "flux": {"guidance_scale": 3.5, "max_sequence_length": 16, "height": 32, "width": 32},
}


@pytest.mark.parametrize("model", LOADERS)
def test_pictures_are_those_of_diffusers_own_pipeline(tmp_path: Path, model: str) -> None:
    out = tmp_path / "base"
    assert command(out, "--seeds", "0,7", "--limit", 2, "--batch", 1, model=f"miniature-{model}") == 0
    drawn = folder.load(out)
    pictures = drawn.pictures()
    assert [(p.prompt, p.seed, p.text) for p in pictures] == [
        (n, seed, PROMPTS[n]) for n in (0, 1) for seed in (0, 7)
    ]
    pipeline = LOADERS[model]()
    for picture in pictures:
        hand = by_hand(pipeline, picture.text, picture.seed, **ASKED[model])
        assert torch.equal(drawn.read(picture), hand)


@pytest.mark.parametrize("name", SAVED)
def test_pictures_of_a_checkpoint_are_those_of_its_network(tmp_path: Path, name: str) -> None:
    model, save = SAVED[name]
    network = save(tmp_path / "checkpoint_4")
    out = tmp_path / "tuned"
    more = ("--limit", 2, "--batch", 1, "--checkpoint", tmp_path / "checkpoint_4")
    assert command(out, *more, model=f"miniature-{model}") == 0
    pipeline = LOADERS[model]()
    base = [by_hand(pipeline, text, 0, **ASKED[model]) for text in PROMPTS[:2]]
    setattr(pipeline, "unet" if model == "sd" else "transformer", network)
    drawn = folder.load(out)
    for before, picture in zip(base, drawn.pictures(), strict=True):
        hand = by_hand(pipeline, picture.text, 0, **ASKED[model])
        assert torch.equal(drawn.read(picture), hand) and not torch.equal(hand, before)


def test_a_network_in_several_files(tmp_path: Path, capsys: Capture) -> None:
    network = whole_unet(tmp_path / "one")
    network.save_pretrained(tmp_path / "several" / "unet", max_shard_size="1MB")
    shards = sorted((tmp_path / "several" / "unet").glob("*.safetensors"))
    assert len(shards) > 1
    for name in ("one", "several"):
        assert command(tmp_path / f"of-{name}", "--limit", 1, "--checkpoint", tmp_path / name) == 0
    assert content(tmp_path / "of-one") == content(tmp_path / "of-several")
    shards[0].unlink()
    assert command(tmp_path / "none", "--checkpoint", tmp_path / "several") == 1
    assert f"{shards[0]} is missing" in capsys.readouterr().err


def test_the_last_checkpoint_of_a_run(tmp_path: Path, capsys: Capture) -> None:
    run = ddpo_run(tmp_path / "run")
    assert command(tmp_path / "none", "--limit", 1, "--checkpoint", run) == 1
    assert "holds no checkpoints" in capsys.readouterr().err
    checkpoints = run / "logs" / "named" / "checkpoints"
    for number, seed in ((2, 1), (10, 2)):  # by number, not by name
        whole_unet(checkpoints / f"checkpoint_{number}", seed=seed)
    for name, path in (("of-the-run", run), ("of-it", checkpoints / "checkpoint_10")):
        assert command(tmp_path / name, "--limit", 1, "--checkpoint", path) == 0
    assert content(tmp_path / "of-the-run") == content(tmp_path / "of-it")
    other = write_run(tmp_path / "other", rewards=[0.0], upstream="dancegrpo_hunyuan")
    assert command(tmp_path / "none", "--limit", 1, "--checkpoint", other) == 1
    assert "name the folder of a checkpoint" in capsys.readouterr().err


def start(out: Path, rank: int, of: int, *more: object) -> subprocess.Popen[bytes]:
    env = {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(of), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "pcpo_overlay",
        *words(out, "--seeds", "0-5", "--batch", 4, *more, steps=3),
    ]
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def ended(process: subprocess.Popen[bytes]) -> int:
    _, err = process.communicate(timeout=300)
    assert process.returncode in (0, -signal.SIGKILL), err.decode()
    return process.returncode


def test_processes_a_kill_and_going_on_change_no_picture(tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    assert command(alone, "--seeds", "0-5", "--batch", 4, steps=3) == 0

    out = tmp_path / "shared"
    first, second = start(out, 0, 2), start(out, 1, 2)
    while first.poll() is None and not (out / "00000" / "0.png").exists():  # of the first batch, which is its
        time.sleep(0.01)
    first.kill()
    assert ended(first) == -signal.SIGKILL
    assert ended(second) == 0
    held = len(folder.load(out).pictures())
    assert 0 < held < 60
    # a kill may also leave a picture without its line, and half a line
    (out / "00000").mkdir(exist_ok=True)
    (out / folder.MANIFEST).open("a").write('{"file": "00000/0.p')
    kept = {p: (out / p.file).stat().st_mtime_ns for p in folder.load(out).pictures()}
    for process in [start(out, rank, 2) for rank in (1, 0)]:
        assert ended(process) == 0
    assert content(out) == content(alone)
    assert {p: (out / p.file).stat().st_mtime_ns for p in kept} == kept, "what was there is not drawn again"
    assert [s["of"] for s in folder.load(out).told["starts"]] == [2, 2, 2, 2]


def test_the_batch_size_changes_last_bits_alone_and_is_not_mixed(tmp_path: Path, capsys: Capture) -> None:
    drawn = {}
    for batch in (1, 3, 20):
        assert command(tmp_path / str(batch), "--seeds", "0-1", "--batch", batch) == 0
        held = folder.load(tmp_path / str(batch))
        drawn[batch] = torch.stack([held.read(p) for p in held.pictures()]).int()
    assert all((drawn[1] - drawn[batch]).abs().max() <= 1 for batch in (3, 20))
    for more, told in (
        (["--seeds", "0-1", "--batch", 4], "batch.size is 3, not 4"),
        (["--seeds", "0-2", "--batch", 3], "batch.pictures_sha256 is"),
        (["--seeds", "0-1"], "batch is"),
    ):
        capsys.readouterr()
        assert command(tmp_path / "3", *more) == 1
        assert told in capsys.readouterr().err


def test_what_is_gone_or_new_is_drawn_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "a"
    assert command(out, "--limit", 4) == 0
    before = content(out)
    gone = out / "00002" / "0.png"
    gone.unlink()
    with pytest.raises(SampleError, match="is gone"):
        folder.load(out).pictures()
    kept = (out / "00001" / "0.png").stat().st_mtime_ns
    assert command(out, "--limit", 4) == 0
    assert content(out) == before and (out / "00001" / "0.png").stat().st_mtime_ns == kept
    assert command(out, "--limit", 4, "--seeds", "0,1") == 0, "more seeds of the same prompts"
    assert {**content(out), folder.MANIFEST: ""} == {**before, **content(out), folder.MANIFEST: ""}
    assert len(folder.load(out).pictures()) == 8


def test_one_picture_a_prompt_has_a_seed_of_its_own(tmp_path: Path) -> None:
    assert command(tmp_path / "a", "--seeds", "each", "--limit", 3, "--grid") == 0
    assert [(p.prompt, p.seed) for p in folder.load(tmp_path / "a").pictures()] == [(0, 0), (1, 1), (2, 2)]
    assert (tmp_path / "a" / folder.GRID).is_file()


def test_the_folder_says_what_it_was_drawn_with(tmp_path: Path) -> None:
    whole_unet(tmp_path / "checkpoint_4")
    assert command(tmp_path / "a", "--limit", 1, "--checkpoint", tmp_path / "checkpoint_4") == 0
    held = folder.load(tmp_path / "a")
    weights = tmp_path / "checkpoint_4" / "unet" / "diffusion_pytorch_model.safetensors"
    assert held.settings["checkpoint_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert held.settings["sampler"] == {
        "name": "DDIMScheduler", "steps": 2, "guidance": 5.0, "eta": 1.0, "height": 32, "width": 32
    }  # fmt: skip
    assert held.settings["dtype"] == "float32" and "batch" not in held.settings
    assert held.told["model"] == "miniature-sd" and held.told["checkpoint"] == str(tmp_path / "checkpoint_4")
    assert {"torch", "diffusers", "pcpo_overlay"} <= held.told["starts"][0]["versions"].keys()
    line = json.loads((tmp_path / "a" / folder.MANIFEST).read_text())
    assert line["text"] == PROMPTS[0] and line["seed"] == 0
    data = (tmp_path / "a" / line["file"]).read_bytes()
    assert line["sha256"] == hashlib.sha256(data).hexdigest()


def test_a_picture_file_holds_pixels_and_nothing_else(tmp_path: Path) -> None:
    from PIL import Image

    pixels = torch.randint(0, 256, (3, 5, 9), dtype=torch.uint8)
    data = folder.encode(pixels)
    assert torch.equal(folder.decode(data), pixels)
    (tmp_path / "a.png").write_bytes(data)
    with Image.open(tmp_path / "a.png") as image:
        assert image.info == {}


# --- models -----------------------------------------------------------------------------------------------------


def hub_layout(path: Path) -> Path:
    """The miniature in the layout of the hub's Stable Diffusion 1.x, with its safety checker's entries."""
    shutil.copytree(sd_path(), path)
    index = json.loads((path / "model_index.json").read_text())
    index |= {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
        "requires_safety_checker": True,
    }
    (path / "model_index.json").write_text(json.dumps(index))
    (path / "feature_extractor").mkdir()
    extractor = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224}
    (path / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps(extractor))
    return path


def test_the_hubs_stable_diffusion_is_drawn_from_without_its_safety_checker(tmp_path: Path) -> None:
    model = hub_layout(tmp_path / "sd15")
    assert command(tmp_path / "a", "--limit", 2, model=str(model)) == 0
    assert command(tmp_path / "b", "--limit", 2) == 0
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_a_model_by_its_name_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """What lies in the hub's cache is found by name; what does not is one line."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.HF_HUB_CACHE", str(cache), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = cache / "models--someone--digits"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    shutil.copytree(sd_path(), repository / "snapshots" / ("a" * 40))
    assert command(tmp_path / "a", "--limit", 1, model="someone/digits") == 0
    assert command(tmp_path / "b", "--limit", 1) == 0
    assert content(tmp_path / "a") == content(tmp_path / "b")
    capsys.readouterr()
    assert command(tmp_path / "c", model="someone/else") == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "someone/else is no folder here and cannot be had from the hub" in err


# --- refusals ---------------------------------------------------------------------------------------------------


def test_another_checkpoint_or_sampler_is_not_mixed_in(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "a"
    assert command(out, "--limit", 1) == 0
    before = content(out)
    for n, more in enumerate((["--guidance", "2"], ["--checkpoint", str(tmp_path / "checkpoint")])):
        whole_unet(tmp_path / "checkpoint")
        capsys.readouterr()
        assert command(out, "--limit", 1, *more) == 1
        err = capsys.readouterr().err
        assert f"{out} was drawn with other settings (" in err and err.count("\n") == 1
        assert ("sampler.guidance is 5.0, not 2.0", "checkpoint_sha256 is null")[n] in err
    assert content(out) == before


def foreign(out: Path) -> None:
    out.mkdir()
    (out / "thesis.txt").write_text("mine")


def cut_settings(out: Path) -> None:
    command(out, "--limit", 1)
    (out / folder.SETTINGS).write_text('{"format": 1')


def odd_line(out: Path) -> None:
    command(out, "--limit", 1)
    (out / folder.MANIFEST).write_text('{"prompt": "../../x", "seed": 0, "text": "a", "sha256": "b"}\n')


@pytest.mark.parametrize(
    ("make", "more", "code", "told"),
    [
        (foreign, [], 1, "holds what `pcpo sample` did not make (thesis.txt)"),
        (cut_settings, ["--limit", "1"], 1, "sample.json cannot be read"),
        (odd_line, ["--limit", "1"], 1, "line 1 of"),
        (None, ["--model", "nowhere"], 1, "nowhere is no folder, no name on the hub, and none of miniature-sd"),
        (None, ["--prompts", "nothing.txt"], 1, "nothing.txt cannot be read: No such file or directory; by name"),
        (None, ["--prompts", "figure-99"], 1, "lists no prompts of figure 99; it lists those of 1a, 1b, 13"),
        (None, ["--prompts", "animals", "--vendor", "nowhere"], 1, "clone it with: python apply.py ddpo-pytorch"),
        (None, ["--checkpoint", "nowhere"], 1, "nowhere is no checkpoint of a trainer's: looked for diffusion_p"),
        (None, ["--shift", "3"], 2, "Stable Diffusion 1.x has no --shift; it has --steps, --guidance, --eta"),
        (None, ["--t5-length", "3"], 2, "Stable Diffusion 1.x has no --t5-length"),
        (None, ["--eta", "-1"], 2, "--eta -1 is too low"),
        (None, ["--size", "30"], 2, "draws multiples of 4 pixels, not 30x30"),
        (None, ["--device", "cuda"], 2, "finds no GPU here"),
        (None, ["--device", "wings"], 2, "--device 'wings' is none that torch knows"),
    ],
)  # fmt: skip
def test_refuses_in_one_line(
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None] | None,
    more: list[str],
    code: int,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if told == "finds no GPU here" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU, which the refusal is not for")
    out = tmp_path / "out"
    if make is not None:
        make(out)
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert command(out, *more) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("pcpo sample: ") and told in err, err
    assert [p for p in sorted(tmp_path.rglob("*")) if p.name != folder.LOCK] == [
        p for p in before if p.name != folder.LOCK
    ]


@pytest.mark.parametrize(
    "more",
    [
        ["--seeds", "3-1"], ["--seeds", "a"], ["--seeds", ""], ["--seeds", "0-99999999"], ["--size", "0"],
        ["--batch", "0"],
        ["--expert", "x"], ["--expert", "=1"], ["--expert", "x=much"], ["--expert", "x=1@"], ["--dtype", "int8"],
    ],
)  # fmt: skip
def test_wrong_arguments(tmp_path: Path, more: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command(tmp_path / "a", *more)
    assert stopped.value.code == 2


def test_a_policy_that_diverged_is_said_and_not_drawn(tmp_path: Path, capsys: Capture) -> None:
    unet = sd.load_pipeline().unet
    with torch.no_grad():
        unet.conv_in.weight.mul_(1e38)
    unet.save_pretrained(tmp_path / "checkpoint" / "unet")
    assert command(tmp_path / "a", "--limit", 1, "--checkpoint", tmp_path / "checkpoint") == 1
    assert "is not finite: the policy diverged" in capsys.readouterr().err
    assert not list((tmp_path / "a").rglob("*.png"))


def test_a_process_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command(tmp_path / "a") == 2
    assert "RANK=2 and WORLD_SIZE=2 name no process" in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    from pcpo_overlay.tools.sample import families

    original, calls = families.pictures, []

    def stopped(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(families, "pictures", stopped)
    assert command(tmp_path / "a", "--batch", 3) == 130
    assert "type the same command again" in capsys.readouterr().err
    assert len(folder.load(tmp_path / "a").pictures()) == 3


# --- prompts ----------------------------------------------------------------------------------------------------


def load(path: Path, text: str) -> tuple[str, ...]:
    path.write_text(text, encoding="utf-8")
    return prompts.load(str(path), Path("vendor")).texts


def test_prompts_of_files(tmp_path: Path) -> None:
    file = tmp_path / "prompts"
    assert load(file, "a cat\n\n  two dögs \na cat\n") == ("a cat", "two dögs", "a cat")
    assert load(file, '{"prompt": "a", "tag": 1}\n{"prompt": "b"}\n') == ("a", "b")
    assert load(file, '{"prompt": "a"}') == ("a",)
    assert load(file, '["a", {"prompt": "b\\nc"}]') == ("a", "b c")
    assert load(file, '{"x1": {"category": "art", "prompt": "a"}, "x2": {"prompt": "b"}}') == ("a", "b")
    coco = {
        "images": [{"id": 9}, {"id": 4}, {"id": 5}],
        "annotations": [
            {"image_id": 4, "id": 31, "caption": "later "},
            {"image_id": 9, "id": 40, "caption": "nine"},
            {"image_id": 4, "id": 30, "caption": "first\n"},
        ],
    }
    assert load(file, json.dumps(coco)) == ("nine", "first")
    assert prompts.load(str(file), tmp_path).sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "text", ["", "\n \n", "[1]", "{}", '{"a": {"category": "b"}}', "[" * 10**5, '["a", ""]']
)
def test_prompts_that_are_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(SampleError, match=r"holds no prompts|are in no form that is known"):
        load(tmp_path / "prompts", text)


def test_prompts_of_the_papers_figures() -> None:
    every, thirteen = (prompts.load(name, Path()).texts for name in ("figures", "figure-13"))
    assert len(thirteen) == 4 and set(thirteen) < set(every) and len(set(every)) == len(every)
    assert prompts.load("figure-1a", Path()).texts[0] == "cat"


@pytest.mark.upstream("ddpo-pytorch", "flow_grpo")
def test_prompts_of_the_upstreams(upstream_clone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ddpo, flow = (upstream_clone(name, False) for name in ("ddpo-pytorch", "flow_grpo"))
    vendor = ddpo.parent
    assert flow.parent == vendor
    animals, activities, pickapic, ocr = (
        prompts.load(name, vendor).texts for name in ("animals", "activities", "pickapic", "ocr")
    )
    assert len(animals) == 45 and len(activities) == 135 and len(pickapic) == 2048 and len(ocr) > 500
    assert {"a bat playing chess", "a bird riding a bike", "an ant washing the dishes"} <= set(activities)


def test_long_prompts_are_left_out_as_the_tokenizer_counts(tmp_path: Path, capsys: Capture) -> None:
    """As many tokens as the model takes fit, begin and end among them; one more does not. Then the limit."""
    tokenizer = sd.load_pipeline().tokenizer
    most = tokenizer.model_max_length
    fits, over = " ".join(["zero"] * (most - 2)), " ".join(["zero"] * (most - 1))
    assert len(tokenizer(fits).input_ids) == most == len(tokenizer(over).input_ids) - 1
    file = tmp_path / "prompts.txt"
    file.write_text(f"{over}\n{fits}\n{over}\nzero\nzero\n")
    out = tmp_path / "a"
    assert command(out, "--prompts", file, "--drop-long", "--limit", 2) == 0
    assert [p.text for p in folder.load(out).pictures()] == [fits, "zero"]
    assert folder.load(out).settings["prompts"]["left_out"] == 2
    assert "2 prompts are longer" in capsys.readouterr().err


# --- the contact sheet ------------------------------------------------------------------------------------------


def painted(
    path: Path, colour: tuple[int, int, int], seeds: tuple[int, ...] = (0, 1), side: int = 32
) -> folder.Folder:
    """A folder of pictures of one colour each, the darker the higher the seed."""
    texts = prompts.Prompts("two", ("a red square", "a square " + "of many words " * 9), "0")
    wanted = plan(texts, seeds)
    made = folder.begin(path, {"colour": colour}, {}, {})
    shade = [torch.tensor(colour, dtype=torch.uint8) // (1 + p.seed) for p in wanted]
    folder.keep(
        made, [(p, s[:, None, None].expand(3, side, side)) for p, s in zip(wanted, shade, strict=True)]
    )
    return made


def pixels(path: Path) -> torch.Tensor:
    return folder.decode(path.read_bytes())


def test_a_sheet_of_seeds(tmp_path: Path) -> None:
    made = painted(tmp_path / "a", (200, 0, 0))
    image = pixels(sheet([made], tmp_path / "new" / "grid.png"))
    assert image.shape == (3, 27 + 2 * 96, 220 + 2 * 96), "small pictures are enlarged to 96 pixels"
    for row in range(2):
        for column, red in enumerate((200, 100)):
            cell = image[:, 27 + 96 * row : 27 + 96 * (row + 1), 220 + 96 * column : 220 + 96 * (column + 1)]
            assert (cell == torch.tensor([red, 0, 0])[:, None, None]).all()
    assert (image[:, :27] < 128).any() and (image[:, 27:, :220] < 128).any(), "heads and prompts are written"


def test_a_sheet_of_arms(tmp_path: Path) -> None:
    arms = [painted(tmp_path / "a", (200, 0, 0)), painted(tmp_path / "b", (0, 0, 90), seeds=(1, 2))]
    assert (
        main(["grid", *(str(a.path) for a in arms), "--out", str(tmp_path / "g.png"), "--labels", "one,two"])
        == 0
    )
    image = pixels(tmp_path / "g.png")
    assert image.shape == (3, 27 + 2 * 96, 220 + 2 * 96)
    assert image[:, 60, 230].tolist() == [100, 0, 0], "the first seed that both have"
    assert image[:, 60, 330].tolist() == [0, 0, 45]
    with pytest.raises(SampleError, match="have no picture of the same prompt and seed"):
        sheet(arms, tmp_path / "h.png", seeds=[0])
    large = painted(tmp_path / "c", (9, 9, 9), seeds=(0,), side=600)
    assert pixels(sheet([large], tmp_path / "i.png")).shape == (3, 2 * 256, 220 + 256), (
        "a single column has no head"
    )


def test_a_damaged_picture_is_not_shown(tmp_path: Path) -> None:
    made = painted(tmp_path / "a", (200, 0, 0))
    (made.path / "00000" / "0.png").write_bytes(folder.encode(torch.zeros(3, 32, 32, dtype=torch.uint8)))
    with pytest.raises(SampleError, match="is not the picture that was drawn"):
        sheet([made], tmp_path / "grid.png")
    assert not (tmp_path / "grid.png").exists()


def test_drawing_from_python(tmp_path: Path) -> None:
    request = Request("miniature-sd", prompts.load("digits", Path()).first(1), settings={"steps": 1})
    said: list[str] = []
    into, complete = draw(request, tmp_path / "a", Share(0, 1), said.append)
    assert complete and [p.file for p in into.pictures()] == ["00000/0.png"]
