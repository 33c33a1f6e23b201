"""The scorers of ``pcpo score`` as rewards: the same numbers, whatever a trainer gives and however it asks."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scored_pictures import score, tiny_clip

from pcpo_overlay.__main__ import main
from pcpo_overlay.tools.faults import WrongArgument
from pcpo_overlay.tools.rewards import dancegrpo, named, scored
from pcpo_overlay.tools.rewards.scored import Reward, pictures
from pcpo_overlay.tools.score import ScoreError, scorers

pytestmark = pytest.mark.usefixtures("offline_on_one_thread")
Capture = pytest.CaptureFixture[str]

PROMPTS = ["a handwritten three", "a handwritten nine", "a handwritten three", "naïve 9"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("weights") / "clip")


@pytest.fixture
def images() -> torch.Tensor:
    """Floats on and beside the border of two pixel values, and outside of [0, 1]."""
    drawn = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return (drawn * 1.2 - 0.1).requires_grad_()


def test_the_rewards_are_the_scores_of_one_picture() -> None:
    assert {"clipscore", "pickscore", "hpsv2", "hpsv2.1", "aesthetic"} <= set(scored.REWARDS)
    assert not {"fid", "is", "fd-dinov2", "lpips", "inception", "dinov2"} & set(scored.REWARDS)
    assert len({named.key(name) for name in scored.REWARDS}) == len(scored.REWARDS)
    assert all(named.key(name).isidentifier() for name in scored.REWARDS)


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_a_reward_is_what_pcpo_score_gives_the_png(
    clip: Path, images: torch.Tensor, tmp_path: Path, batch: int
) -> None:
    reward = Reward("pickscore", {"pickscore": str(clip)}, torch.device("cpu"), batch)
    png = (images.detach().clamp(0, 1).numpy() * 255).round().astype("uint8")  # diffusers' way to a PNG
    told = score(tmp_path / "pictures", torch.from_numpy(png), PROMPTS, "pickscore", f"pickscore={clip}")
    found = reward(images, tuple(PROMPTS))
    assert found.dtype == np.float32 and found.shape == (4,)
    assert found == pytest.approx(np.array(told), abs=1e-4)  # of numbers of about 10
    assert np.ptp(found) > 0.1
    assert reward(png.transpose(0, 2, 3, 1), PROMPTS) == pytest.approx(found)
    assert reward.record["weights_sha256"]["pickscore"] and reward.record["scorer"] == "pickscore"
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(reward(images, PROMPTS), found), (
            "half precision is the trainer's, not the score's"
        )


def test_half_precision_is_rounded_in_float32() -> None:
    values = (torch.arange(256 * 3 * 4).view(4, 3, 16, 16) / 3071).to(torch.bfloat16)
    plain = (values.float().numpy() * 255).round().astype("uint8")
    assert np.array_equal(pictures(values).numpy(), plain)
    assert not torch.equal(pictures(values), (values * 255).round().to(torch.uint8))


def test_what_is_no_picture_is_refused(clip: Path) -> None:
    reward = Reward("pickscore", {"pickscore": str(clip)}, torch.device("cpu"))
    with pytest.raises(ValueError, match="got 2 images for 1 prompts"):
        reward(torch.rand(2, 3, 8, 8), ["a"])
    for wrong in (torch.rand(2, 4, 3, 8, 8), torch.rand(2, 1, 8, 8), np.zeros((2, 8, 8), np.uint8)):
        with pytest.raises(ValueError, match=r"a tensor \(N, 3, H, W\) or a uint8 array"):
            reward(wrong, ["a", "b"])


def test_the_trainers_random_numbers_stay_its_own(clip: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    Reward("pickscore", {"pickscore": str(clip)}, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)


def test_threads_take_turns(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """flow_grpo scores in eight threads; transformers' fast tokenizer fails where two use it at once."""
    reward = Reward("pickscore", {"pickscore": str(clip)}, torch.device("cpu"))
    inside, most, scorer = [0], [0], reward._scorer

    def counted(*given: Any) -> torch.Tensor:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        threading.Event().wait(0.02)
        found = scorer(*given)
        inside[0] -= 1
        return found

    monkeypatch.setattr(reward, "_scorer", counted)
    image, found = torch.rand(1, 3, 32, 32), []
    threads = [threading.Thread(target=lambda: found.append(reward(image, ["a"]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and np.ptp(np.stack(found)) == 0 and most == [1]


def test_what_a_reward_needs_is_said_as_score_says_it(clip: Path, capsys: Capture) -> None:
    assert scored.check("pickscore", {"pickscore": str(clip)}) == {"pickscore": str(clip.resolve())}
    with pytest.raises(
        ScoreError, match=r"pickscore needs yuvalkirstain/PickScore_v1, 3\.9 GB, from the Hugging"
    ):
        scored.check("pickscore", {})
    with pytest.raises(WrongArgument, match="no reward 'fid'; there are clipscore, pickscore"):
        scored.check("fid", {})
    with pytest.raises(WrongArgument, match="no weights 'wings'; there are inception"):
        scored.check("pickscore", {"wings": "x"})
    with pytest.raises(SystemExit) as stop, named.one_line():
        scored.check("pickscore", {})
    err = capsys.readouterr().err
    assert stop.value.code == 1 and err.count("\n") == 1
    assert err.startswith("pcpo reward: pickscore needs ") and "--config.reward_weights=pickscore=PATH" in err


@pytest.mark.parametrize(
    ("argument", "code", "told"),
    [
        ("fid:base.py", 2, "names no reward or no config; write FILE:REWARD:CONFIG with one of clipscore, pickscore"),
        ("pickscore", 2, "names no reward or no config"),
        ("", 2, "names no reward or no config"),
        ("pickscore:nowhere.py:x", 1, "no nowhere.py under {here}: run it there"),
    ],
)  # fmt: skip
def test_a_config_that_names_no_reward_or_file_ends_in_one_line(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, argument: str, code: int, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        named.get_config(argument, "run it there")
    err = capsys.readouterr().err
    assert stop.value.code == code and err.count("\n") == 1
    assert err.startswith("pcpo reward: ") and told.format(here=tmp_path) in err


def test_the_config_gains_reward_weights_and_batch_alone(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from absl import app, flags
    from ml_collections import ConfigDict

    theirs = tmp_path / "theirs.py"
    theirs.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(name): return ConfigDict({'reward_fn': name, 'seed': 1})\n"
    )
    before_main: list[Any] = []
    monkeypatch.setattr(app, "call_after_init", before_main.append)
    name, config = named.get_config(f"pickscore:{theirs}:aesthetic", "")
    assert name == "pickscore"
    assert config.to_dict() == {"reward_fn": "aesthetic", "seed": 1, "reward_weights": "", "reward_batch": 32}
    assert isinstance(config, ConfigDict)
    values = flags.FlagValues()
    flags.DEFINE_string("config", "", "", flag_values=values)
    values(["x"])
    values.config = config
    monkeypatch.setattr(flags, "FLAGS", values)
    (check,) = before_main
    with pytest.raises(SystemExit):
        check()  # the weights are not here
    config.reward_weights = f"pickscore={clip},wings"
    with pytest.raises(SystemExit):
        check()
    config.reward_weights = f"pickscore={clip}"
    check()
    loaded = named.offered()["pcpo_pickscore"]()
    assert loaded is named.load("pickscore"), "made once, however often a trainer asks"


# --- DanceGRPO's folder -----------------------------------------------------------------------------------------


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What the folder takes of a clone."""
    for name in ("fastvideo/train.py", "data/flux/x", "data/stable-diffusion-v1-4/x", "assets/prompts.txt",
                 "assets/other.txt", "README.md", "reward.txt", ".git/x", "images/x", "hps_ckpt/x"):  # fmt: skip
        (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clone" / name).write_text("theirs")
    return tmp_path / "clone"


def test_the_folder_is_a_clone_with_another_reward(clone: Path, clip: Path, tmp_path: Path) -> None:
    model, prompts = tmp_path / "model", ["a cat", "ein Hund, groß"]
    model.mkdir()
    out = dancegrpo.prepare(tmp_path / "work", clone, "pickscore", {"pickscore": str(clip)}, model, prompts)
    assert (out / "fastvideo" / "train.py").read_text() == "theirs"
    assert (out / "data" / "stable-diffusion-v1-4").resolve() == model.resolve()
    assert (out / "data" / "flux" / "x").read_text() == (out / "assets" / "other.txt").read_text() == "theirs"
    assert (out / "assets" / "prompts.txt").read_text() == "a cat\nein Hund, groß\n"
    assert (clone / "assets" / "prompts.txt").read_text() == "theirs"
    assert sorted(p.name for p in (out / "hps_ckpt").iterdir()) == ["HPS_v2.1_compressed.pt", "reward.json"]
    assert not (out / "reward.txt").exists() and (out / "images").is_dir() and (out / "images_same").is_dir()
    # with nothing of its own it is the clone's
    plain = dancegrpo.prepare(tmp_path / "plain", clone, "pickscore", {"pickscore": str(clip)})
    assert (plain / "assets" / "prompts.txt").read_text() == "theirs"
    assert (plain / "data" / "stable-diffusion-v1-4" / "x").read_text() == "theirs"


@pytest.fixture
def hpsv2(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package under the name that the trainers import, whatever else of that name this process has imported."""
    others = {name: sys.modules.pop(name) for name in _modules_of("hpsv2")}
    monkeypatch.syspath_prepend(str(dancegrpo.HPS.parent))
    from hpsv2.src import open_clip  # type: ignore[import-not-found]
    from hpsv2.utils import hps_version_map, root_path  # type: ignore[import-not-found]  # noqa: F401

    yield open_clip
    for name in _modules_of("hpsv2"):
        del sys.modules[name]
    sys.modules.update(others)


def _modules_of(package: str) -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == package]


def test_the_trainers_inner_product_is_the_score(
    clone: Path, clip: Path, tmp_path: Path, hpsv2: Any, images: torch.Tensor
) -> None:
    out = dancegrpo.prepare(tmp_path / "work", clone, "pickscore", {"pickscore": str(clip)})
    model, _, preprocess = hpsv2.create_model_and_transforms(
        "ViT-H-14", str(out / "hps_ckpt" / "open_clip_pytorch_model.bin"), precision="amp", device="cpu"
    )
    held = torch.load(out / "hps_ckpt" / "HPS_v2.1_compressed.pt", weights_only=True)
    model.load_state_dict(held["state_dict"])
    model = model.to("cpu").eval()
    png = pictures(images)
    seen = torch.stack([preprocess(Image.fromarray(one.permute(1, 2, 0).numpy())) for one in png])
    assert torch.equal(seen, png)
    texts = hpsv2.get_tokenizer("ViT-H-14")(PROMPTS)
    with torch.no_grad(), torch.amp.autocast("cpu", torch.bfloat16):  # as the trainers, who would round it
        outputs = model(seen, texts)
        found = torch.diagonal(outputs["image_features"] @ outputs["text_features"].T)
    expected = Reward("pickscore", {"pickscore": str(clip)}, torch.device("cpu"))(images, PROMPTS)
    assert found.dtype == torch.float64
    assert np.array_equal(found.float().numpy(), expected)


def test_the_command_writes_the_folder(clone: Path, clip: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "work"
    words = [
        "reward",
        "pickscore",
        "--out",
        str(out),
        "--clone",
        str(clone),
        "--weights",
        f"pickscore={clip}",
    ]
    assert main([*words, "--model", "miniature-sd", "--prompts", "digits"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    told = json.loads((out / "hps_ckpt" / "reward.json").read_text())
    assert told == {"reward": "pickscore", "weights": {"pickscore": str(clip.resolve())}}
    assert len((out / "assets" / "prompts.txt").read_text().splitlines()) == 10
    assert (out / "data" / "stable-diffusion-v1-4" / "model_index.json").is_file()
    assert main(words) == 0, "what it wrote itself it writes anew"
    (out / "reward.txt").write_text("0.5\n")
    before = sorted(path for path in out.rglob("*"))
    assert main(words) == 1
    assert "holds what `pcpo reward` did not make (reward.txt)" in capsys.readouterr().err
    assert sorted(path for path in out.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["fid"], 2, "no reward 'fid'; there are clipscore, pickscore"),
        (["pickscore"], 1, "pickscore needs yuvalkirstain/PickScore_v1, 3.9 GB, from the Hugging Face hub"),
        (["pickscore", "--weights", "wings=x"], 2, "no weights 'wings'; there are inception"),
        (["pickscore", "--weights", "pickscore={clip}", "--clone", "."], 1, "there is no clone of DanceGRPO in"),
        (["pickscore", "--prompts", "nowhere.txt"], 1, "nowhere.txt cannot be read"),
        (["pickscore", "--model", "miniature-sd3"], 1, "is not of a StableDiffusionPipeline"),
    ],
)  # fmt: skip
def test_the_command_refuses_in_one_line(
    clone: Path, clip: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch,
    words: list[str], code: int, told: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    words = [word.format(clip=clip) for word in words]
    assert main(["reward", "--clone", str(clone), "--out", "work", *words]) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("pcpo reward: ") and told in err, err
    assert not (tmp_path / "work").exists()


def test_every_scorer_of_a_picture_can_be_loaded_by_its_weights_names() -> None:
    for name in scored.REWARDS:
        assert set(scorers.KINDS[name].needs) <= set(scorers.WEIGHTS)
