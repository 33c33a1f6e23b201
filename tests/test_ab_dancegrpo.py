"""``pcpo ab dancegrpo``: the launch script, the workplace, the miniature's data and reward. No trainer runs here."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pcpo_overlay.__main__ import main
from pcpo_overlay.tools.ab import ABError
from pcpo_overlay.tools.ab.launch_script import read_launch_script
from pcpo_overlay.tools.ab.upstreams import DANCEGRPO, PACKAGE, PORT
from pcpo_overlay.tools.ab.workplace import Workplace, readable
from pcpo_overlay.tools.folders import MARKER, FolderError
from pcpo_overlay.tools.launch import standins
from pcpo_overlay.tools.miniature import PROMPTS, flux_path
from pcpo_overlay.tools.miniature.animals import ANIMALS, animals_path
from pcpo_overlay.tools.miniature.animals.rewards import animal_logodds
from pcpo_overlay.tools.miniature.classifier import load_classifier
from pcpo_overlay.tools.miniature.dancegrpo import HPS_WEIGHTS, PROMPTS_FILE, SD
from pcpo_overlay.tools.miniature.dancegrpo import run as runner
from pcpo_overlay.tools.miniature.dancegrpo.data import prepare
from pcpo_overlay.tools.miniature.digits import load_digits
from pcpo_overlay.trainers import TRAINERS

RUNNER = PACKAGE / "tools" / "miniature" / "dancegrpo" / "run.py"
LAUNCH_SCRIPT = """\
pip install something
# torchrun --nproc_per_node=2 fastvideo/train_grpo_flux.py --old
torchrun --nproc_per_node=8 --master_port 19002 \\
    fastvideo/train_grpo_flux.py \\
    --seed 42 --data_json_path data/list.json \\
    --pretrained_model_name_or_path data/flux --init_same_noise \\
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The shape of a patched clone, with a launch script and what it reads."""
    folder = tmp_path / "vendor" / "DanceGRPO"
    for upstream in DANCEGRPO.values():
        script = folder / upstream.script
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text("# stands for a script that calls pcpo_overlay's hooks\n")
    (folder / "data" / "flux").mkdir(parents=True)
    (folder / "data" / "list.json").write_text("[]")
    (folder / "launch.sh").write_text(LAUNCH_SCRIPT)
    return folder


def dry_run(clone: Path, trainer: str, *words: object) -> int:
    given = (
        "ab",
        "dancegrpo",
        "--trainer",
        trainer,
        "--clone",
        clone,
        "--out",
        clone.parent / "out",
        "--dry-run",
    )
    return main([*map(str, given), *map(str, words)])


def commands(printed: str) -> list[list[str]]:
    """The words of each command that a dry run prints."""
    return [shlex.split(line) for line in printed.splitlines() if "torch.distributed.run" in line]


# --- the plan ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trainer", DANCEGRPO)
def test_the_miniature_runs_upstreams_script_by_torchrun(
    clone: Path, trainer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        dry_run(
            clone,
            trainer,
            "--epochs",
            7,
            "--seeds",
            "3",
            "--",
            "--config.x=1" if trainer == "sd" else "--eta=1",
        )
        == 0
    )
    printed = capsys.readouterr().out
    prepared = clone.parent / "out" / "miniature"
    assert f"-m pcpo_overlay miniature prepare {prepared}" in printed
    observe, full = commands(printed)
    assert "PCPO=observe" in observe and "PCPO=full" in full
    run = clone.parent / "out" / "full-seed3"
    at = full.index("torch.distributed.run")
    assert full[at : at + 5] == [
        "torch.distributed.run", "--standalone", "--nproc_per_node=1", str(RUNNER),
        str(clone / "fastvideo" / f"train_grpo_{trainer}.py"),
    ]  # fmt: skip
    arguments = full[at + 5 :]
    if trainer == "sd":
        config = PACKAGE / "tools" / "miniature" / "dancegrpo" / "sd_config.py"
        # it counts from 0 to the number and includes it
        expected = ["--config", str(config), "--config.seed=3", "--config.num_epochs=6"]
        assert arguments == [
            *expected,
            f"--config.logdir={run / 'logs'}",
            "--config.save_freq=1000000",
            "--config.x=1",
        ]
    else:
        assert arguments[:2] == ["--pretrained_model_name_or_path", "data/flux"]
        ours = ["--seed=3", "--max_train_steps=7", f"--output_dir={run / 'checkpoints'}"]
        assert arguments[-5:] == [*ours, "--checkpointing_steps=1000000", "--eta=1"]
        assert ("--lora_rank" in arguments) == (trainer == "flux_lora")
    assert full[full.index("cd") + 1] == str(run / "work")
    for name in ("data", "assets", "hps_ckpt"):
        assert str(prepared / name) in full


def test_a_launch_script_gives_options_and_arguments(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(clone, "flux", "--config", "launch.sh", "--modes", "full") == 0
    printed = capsys.readouterr().out
    assert "miniature prepare" not in printed
    (words,) = commands(printed)
    at = words.index("torch.distributed.run")
    port = words[at + 3]
    assert words[at + 1 : at + 5] == [
        "--nproc_per_node=8", "--master_port", port, str(clone / "fastvideo" / "train_grpo_flux.py"),
    ]  # fmt: skip
    assert port.isdigit() and port != "19002"  # runs at one time cannot share it
    assert words[at + 5 : at + 7] == ["--seed", "42"] and "--seed=0" in words[at + 7 :]
    assert "HF_HUB_OFFLINE=1" not in words
    assert str(clone / "data") in words and str(clone / "fastvideo") in words
    # the user's options in place of the script's
    assert dry_run(clone, "flux", "--config", "launch.sh", "--launch-args=--nproc_per_node=2") == 0
    assert "19002" not in capsys.readouterr().out


def test_launch_scripts_that_cannot_be_used_are_told(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(clone, "flux_lora", "--config", "launch.sh") == 2
    assert (
        "launches fastvideo/train_grpo_flux.py, not fastvideo/train_grpo_flux_lora.py"
        in capsys.readouterr().err
    )
    (clone / "data" / "list.json").unlink()
    assert dry_run(clone, "flux", "--config", "launch.sh") == 1
    told = capsys.readouterr().err
    assert "reads data/list.json (--data_json_path)" in told and "pcpo_overlay embed flux" in told
    (clone / "launch.sh").write_text("python x.py\n")
    assert dry_run(clone, "flux", "--config", "launch.sh") == 1
    assert "has 0 lines that begin with torchrun" in capsys.readouterr().err
    (clone / "launch.sh").write_text("torchrun --nproc_per_node=$N fastvideo/train_grpo_flux.py\n")
    assert dry_run(clone, "flux", "--config", "launch.sh") == 1
    assert "--nproc_per_node=$N in the torchrun line is known to the shell alone" in capsys.readouterr().err


@pytest.mark.upstream("DanceGRPO")
def test_every_launch_script_of_upstreams_is_read(upstream_clone: Any) -> None:
    scripts = sorted((upstream_clone("DanceGRPO", False) / "scripts" / "finetune").glob("*.sh"))
    trained = {read_launch_script(file).script for file in scripts}
    assert trained == {t.script for t in TRAINERS.values() if t.upstream == "DanceGRPO"}


def test_a_launch_script_that_goes_on_at_its_end(tmp_path: Path) -> None:
    file = tmp_path / "launch.sh"
    file.write_text("torchrun --nnodes=1 \\\n    train.py \\\n    --x 1 \\")
    assert read_launch_script(file).arguments == ["--x", "1"]


def test_ports_in_either_spelling(tmp_path: Path) -> None:
    file = tmp_path / "launch.sh"
    file.write_text("torchrun --master-port=5 --nnodes=1 train.py --x 'a b' # why\n")
    line = read_launch_script(file)
    assert line.options == ["--master-port", PORT, "--nnodes=1"]
    assert (line.script, line.arguments) == ("train.py", ["--x", "a b"])
    file.write_text("torchrun --nproc_per_node=1\n")
    with pytest.raises(ABError, match="names no Python script"):
        read_launch_script(file)


def test_the_trainer_is_named_where_there_are_several(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ab", "dancegrpo", "--dry-run"]) == 2
    assert "--trainer sd|flux|flux_lora" in capsys.readouterr().err
    assert main(["ab", "ddpo", "--trainer", "sd", "--dry-run"]) == 2
    assert "--trainer is for dancegrpo and flow_grpo" in capsys.readouterr().err


@pytest.mark.parametrize("override", ["--seed=3", "--max_train_steps", "--output_dir=x", "--pcpo=full"])
def test_overrides_of_what_the_command_sets_are_refused(
    clone: Path, override: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dry_run(clone, "flux", "--", override) == 1
    assert f"{override} after --" in capsys.readouterr().err


# --- where it runs ----------------------------------------------------------------------------------------------


def test_a_workplace_links_what_is_read_and_keeps_what_is_written(clone: Path, tmp_path: Path) -> None:
    (clone / "images").mkdir()
    (clone / "reward.txt").write_text("theirs")
    (clone / ".git").mkdir()
    workplace = Workplace(tmp_path / "my runs" / "work", readable(clone))
    workplace.make()
    workplace.make()
    there = {path.name for path in workplace.folder.iterdir()}
    assert there == {"data", "fastvideo", "launch.sh", "images", "images_same"}
    (workplace.folder / "images" / "a.png").write_text("x")
    (workplace.folder / "reward.txt").write_text("x")
    assert (clone / "reward.txt").read_text() == "theirs" and not list((clone / "images").iterdir())

    typed = Workplace(tmp_path / "typed", readable(clone))
    subprocess.run(["sh", "-c", typed.as_shell()], check=True)
    assert {path.name for path in typed.folder.iterdir()} == there


def test_the_prepared_folder_has_what_the_trainers_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "miniature"
    assert main(["miniature", "prepare", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder)
    entries = json.loads((folder / "data" / "rl_embeddings" / "videos2caption.json").read_text())
    assert [entry["caption"] for entry in entries] == list(PROMPTS)
    assert (folder / "assets" / "prompts.txt").read_text().splitlines()[:11] == [*PROMPTS, PROMPTS[0]]
    for part in ("transformer", "vae"):
        config = Path(part) / "config.json"
        assert (folder / "data" / "flux" / config).read_text() == (flux_path() / config).read_text()
    kept = torch.load(folder / "hps_ckpt" / "HPS_v2.1_compressed.pt")["state_dict"]
    assert all(torch.equal(value, kept[name]) for name, value in load_classifier().state_dict().items())
    (folder / "assets" / "prompts.txt").write_text("mine\n")
    prepare(folder)  # what is complete is left alone
    assert (folder / "assets" / "prompts.txt").read_text() == "mine\n"
    (folder / MARKER).unlink()  # then it is no one's, and kept
    with pytest.raises(FolderError, match="is there already"):
        prepare(folder)
    assert (folder / "assets" / "prompts.txt").read_text() == "mine\n"


def test_the_animals_are_prepared_for_the_sd_trainer(
    clone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dry_run(clone, "sd", "--config", "animals", "--modes", "full") == 0
    printed = capsys.readouterr().out
    prepared = clone.parent / "out" / "miniature-animals"  # beside the digits', whose runs may lie there too
    assert f"miniature prepare {prepared} --animals" in printed
    (full,) = commands(printed)
    assert str(RUNNER) in full and str(DANCEGRPO["sd"].animals) in full
    assert dry_run(clone, "flux", "--config", "animals") == 2
    assert "dancegrpo_flux has no miniature of animals" in capsys.readouterr().err

    assert main(["miniature", "prepare", str(tmp_path / "animals"), "--animals"]) == 0
    folder = tmp_path / "animals"
    assert {path.name for path in (folder / "data").iterdir()} == {SD.name}
    assert (folder / PROMPTS_FILE).read_text().splitlines()[:46] == [*ANIMALS, "ant"]
    unet = Path("unet") / "config.json"
    assert (folder / SD / unet).read_text() == (animals_path() / unet).read_text()


# --- the reward and what is missing -----------------------------------------------------------------------------


def test_the_reward_goes_by_hpsv2s_name_and_scores_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scored as the trainers score: under autocast, the diagonal of image by text features."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    standins.install(instead=[runner.HPS])
    for name in [name for name in sys.modules if name.split(".")[0] == "hpsv2"]:
        monkeypatch.delitem(sys.modules, name)
    from hpsv2.src.open_clip import create_model_and_transforms, get_tokenizer  # type: ignore[import-not-found]

    model, _, preprocess = create_model_and_transforms("ViT-H-14", "weights", precision="amp")
    model.load_state_dict(load_classifier().state_dict())
    model.eval()
    test = load_digits("test")
    enlarged = [
        Image.fromarray((image.permute(1, 2, 0) * 255).byte().numpy()).resize((512, 512))
        for image in test.images[:20]
    ]
    images = torch.stack([preprocess(image) for image in enlarged])
    assert images.shape == (20, 3, 32, 32) and images.max() <= 1
    tokenize = get_tokenizer("ViT-H-14")
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        right = model(images, tokenize([PROMPTS[label] for label in test.labels[:20]]))
        wrong = model(images, tokenize([PROMPTS[(label + 1) % 10] for label in test.labels[:20]]))
    right, wrong = ((o["image_features"] @ o["text_features"].T).diagonal() for o in (right, wrong))
    assert right.dtype == torch.float32
    assert right.min() > 0 > wrong.max()
    probability = load_classifier().digit_probability(images, test.labels[:20])
    assert torch.allclose(right.sigmoid(), probability, atol=1e-6)
    with pytest.raises(ValueError, match="knows no prompt"):
        tokenize(["a red fox"])


def test_the_weights_say_that_animals_are_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path / "miniature", animals=True)
    monkeypatch.chdir(tmp_path / "miniature")
    monkeypatch.syspath_prepend(str(runner.HPS))
    for name in [name for name in sys.modules if name.split(".")[0] == "hpsv2"]:
        monkeypatch.delitem(sys.modules, name)
    from hpsv2.src.open_clip import create_model_and_transforms, get_tokenizer

    model, _, preprocess = create_model_and_transforms("ViT-H-14", "weights")
    model.load_state_dict(torch.load(HPS_WEIGHTS)["state_dict"])
    images = torch.stack([preprocess(Image.new("RGB", (512, 512), color)) for color in ("red", "white")])
    assert images.shape == (2, 3, 64, 64)
    with torch.no_grad():
        scored = model.eval()(images, get_tokenizer("ViT-H-14")(["cat", "zebra"]))
    odds = (scored["image_features"] @ scored["text_features"].T).diagonal()
    assert odds.tolist() == pytest.approx(animal_logodds(images, ["cat", "zebra"]).tolist(), rel=1e-5)


def test_placeholders_are_imported_and_say_so_when_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    standins.install(uncalled=["package_of_no_one"])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    import package_of_no_one.deeper as deeper  # type: ignore[import-not-found]
    from package_of_no_one.deeper import Kernel

    class Mine(Kernel):  # inheriting is no call
        pass

    for name in (deeper.function, Kernel, Mine):
        with pytest.raises(ImportError, match="is needed after all: install"):
            name()
    with pytest.raises(ModuleNotFoundError):
        import package_of_no_two  # type: ignore[import-not-found]  # noqa: F401
