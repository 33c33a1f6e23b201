"""Upstream's own scripts on a reward of ``pcpo score``: a tiny PickScore, on each of the three, without a patch."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import launch
import numpy as np
import pytest
import torch
import warm
from dance.launch import TRAINERS
from launch import DDPO, FLOW_GRPO, HERE, MINIATURE, ROOT
from PIL import Image
from scored_pictures import score, tiny_clip
from torch.utils.data import DistributedSampler

from pcpo_overlay.__main__ import main
from pcpo_overlay.tools.miniature import PROMPTS
from pcpo_overlay.tools.miniature.dancegrpo.data import prepare
from pcpo_overlay.tools.paper.experiments import RECIPES

pytestmark = pytest.mark.usefixtures("offline_on_one_thread")

REWARDS = ROOT / "pcpo_overlay" / "tools" / "rewards"
#: One epoch.
SHORT = {"num_epochs": 1}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("weights") / "clip")


def kept_by(run: Any, trainer: launch.Trainer, name: str, clip: Path, kept: Path) -> Any:
    """A run of a trainer on PickScore, by the config file of rewards, over the miniature's."""
    return run(
        "observe",
        config=f"{HERE / 'keeping_config.py'}:{name}:pickscore:{trainer.config}",
        env={"KEPT": str(kept)},
        reward_weights=f"pickscore={clip}",
        **SHORT,
    )


@pytest.mark.upstream
def test_ddpo_trains_on_pickscore(ddpo_run: Any, clip: Path, tmp_path: Path) -> None:
    run = kept_by(ddpo_run, DDPO, "ddpo", clip, tmp_path / "kept.pt")
    values = same_as_score(tmp_path, clip)
    assert len(values) == 8
    (epoch,) = run.metrics("epoch")
    assert epoch["reward_mean"] == pytest.approx(np.mean(values), rel=1e-5)
    settings = json.dumps(run.run_json)
    assert "pcpo_pickscore" in settings and str(clip) in settings, "the run's record says what was rewarded"


@pytest.mark.upstream("flow_grpo")
def test_flow_grpo_trains_on_pickscore(flow_run: Any, clip: Path, tmp_path: Path) -> None:
    run = kept_by(flow_run, FLOW_GRPO, "flow_grpo", clip, tmp_path / "kept.pt")
    values = same_as_score(tmp_path, clip)
    assert len(values) == 8 + 2 * 10, "eight to train, and ten prompts before and after"
    (epoch,) = run.metrics("epoch")
    assert epoch["reward_mean"] == pytest.approx(np.mean(values[10:18]), rel=1e-5)
    assert {"avg", "pcpo_pickscore"} == run.metrics("eval")[0]["rewards"].keys()


def same_as_score(tmp_path: Path, clip: Path) -> list[float]:
    """Hold what the trainer got against ``pcpo score`` of PNGs of the same pictures; the trainer's, in order."""
    calls = torch.load(tmp_path / "kept.pt", weights_only=True)
    images = torch.cat([images for images, _, _ in calls])
    prompts = [prompt for _, some, _ in calls for prompt in some]
    values = [value for _, _, some in calls for value in some]
    png = torch.from_numpy((images.clamp(0, 1).numpy() * 255).round().astype("uint8"))
    told = score(tmp_path / "pictures", png, prompts, "pickscore", f"pickscore={clip}")
    assert values == pytest.approx(told, abs=1e-4)
    assert np.std(values) > 1e-2
    return values


@pytest.mark.upstream
def test_a_trainer_without_its_reward_ends_in_one_line(upstream_clone: Any, tmp_path: Path) -> None:
    clone = upstream_clone("ddpo-pytorch", False)
    words = [str(HERE / "record.py"), str(tmp_path / "record"), "scripts/train.py"]
    words.append(f"--config={REWARDS / 'ddpo_config.py'}:pickscore:{DDPO.config}")
    err = tmp_path / "err"
    assert warm.run(words, clone, [launch.environment(clone)], tmp_path / "out", err, 120) == 1
    lines = [line for line in err.read_text().splitlines() if line.startswith("pcpo reward: ")]
    told = "pickscore needs yuvalkirstain/PickScore_v1, 3.9 GB, from the Hugging Face hub; give it with "
    assert len(lines) == 1 and f"{told}--config.reward_weights=pickscore=PATH" in lines[0], err.read_text()
    assert "Traceback" not in err.read_text()


# --- DanceGRPO --------------------------------------------------------------------------------------------------

#: 2 prompts with 4 samples each, 2 optimizer steps, 4 sampling steps, one epoch.
SD = (
    "--config.sample.batch_size=2", "--config.num_generations=4", "--config.train.batch_size=2",
    "--config.train.gradient_accumulation_steps=2", "--config.sample.num_steps=4", "--config.num_epochs=0",
)  # fmt: skip


@pytest.mark.upstream("DanceGRPO")
def test_dancegrpos_sd_trainer_trains_on_pickscore(upstream_clone: Any, clip: Path, tmp_path: Path) -> None:
    """Configuration 7, with the miniature in the place of SD 1.5: the folder that its script makes, and its trainer."""
    clone, prompts, work = upstream_clone("DanceGRPO", True), tmp_path / "prompts.txt", tmp_path / "work"
    prompts.write_text("\n".join(PROMPTS) + "\n")
    words = ["--clone", clone, "--model", "miniature-sd", "--prompts", prompts, "--out", work]
    assert main(["reward", "pickscore", "--weights", f"pickscore={clip}", *map(str, words)]) == 0
    script = RECIPES[7].script
    arguments = [
        MINIATURE / "dancegrpo" / "run.py",
        script,
        f"--config={MINIATURE / 'dancegrpo' / 'sd_config.py'}",
        *SD,
    ]
    train(arguments, work, clone, PCPO="observe")
    # the pictures as the trainer gave them: cut off to bytes, enlarged, and through JPEG
    files = sorted((work / "images_same").iterdir(), key=lambda f: [int(n) for n in f.stem.split("-")[1:3]])
    pictures = torch.stack([torch.from_numpy(np.array(Image.open(f))) for f in files]).permute(0, 3, 1, 2)
    assert pictures.shape == (8, 3, 512, 512)
    # its own sampler's first two prompts, four pictures of each
    sampler: Any = DistributedSampler(PROMPTS, num_replicas=1, rank=0, seed=123543)  # type: ignore[arg-type]
    asked = [PROMPTS[number] for number in list(sampler)[:2] for _ in range(4)]
    told = score(tmp_path / "pictures", pictures, asked, "pickscore", f"pickscore={clip}")
    (printed,) = re.findall(r"gathered_reward tensor\(\[([^]]+)\]", (work / "out.txt").read_text())
    assert [float(v) for v in printed.split(",")] == pytest.approx(told, abs=1e-3) and np.std(told) > 1e-2
    assert float((work / "reward.txt").read_text()) == pytest.approx(np.mean(told), rel=1e-5)
    (run,) = (work / "pcpo_runs").iterdir()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (epoch,) = (line for line in lines if line["kind"] == "epoch")
    assert epoch["reward_mean"] == pytest.approx(np.mean(told), rel=1e-5) and epoch["reward_count"] == 8
    assert [line["grad_norm"] > 0 for line in lines if line["kind"] == "step"] == [True, True]


@pytest.mark.upstream("DanceGRPO")
def test_dancegrpos_flux_trainer_trains_on_pickscore(upstream_clone: Any, clip: Path, tmp_path: Path) -> None:
    clone, work = upstream_clone("DanceGRPO", True), tmp_path / "work"
    options = ["--weights", f"pickscore={clip}", "--clone", str(clone), "--out", str(work)]
    assert main(["reward", "pickscore", *options]) == 0
    for read in ("flux", "rl_embeddings"):
        (work / "data" / read).symlink_to(prepare(tmp_path / "miniature") / "data" / read)
    small = {"data_json_path": "data/rl_embeddings/videos2caption.json", "h": 64, "w": 64}
    words = [MINIATURE / "dancegrpo" / "run.py", "fastvideo/train_grpo_flux.py"]
    train([*words, *TRAINERS["flux"].arguments({**small, "max_train_steps": 1})], work, clone, PCPO="observe")
    files = sorted((work / "images").iterdir(), key=lambda f: int(f.stem.rpartition("_")[2]))
    pictures = torch.stack([torch.from_numpy(np.array(Image.open(f))) for f in files]).permute(0, 3, 1, 2)
    (printed,) = re.findall(r"gathered_reward tensor\(\[([^]]+)\]", (work / "out.txt").read_text())
    rewards = [float(value) for value in printed.split(",")]
    assert len(rewards) == len(files) == 4 and np.std(rewards) > 1e-2
    # four pictures of one prompt: of which, the rewards tell
    every = [prompt for prompt in PROMPTS for _ in files]
    told = score(tmp_path / "pictures", pictures.repeat(10, 1, 1, 1), every, "pickscore", f"pickscore={clip}")
    by_prompt = torch.tensor(told).view(10, 4)
    assert ((by_prompt - torch.tensor(rewards)).abs().amax(1) < 1e-3).sum() == 1


def train(arguments: list[Any], work: Path, clone: Path, **extra: str) -> None:
    """Run a trainer in its folder with ``.`` on the path, as the printed command does."""
    environment = launch.environment(clone, **launch.ranks(1)[0], **extra)
    environment["PYTHONPATH"] = os.pathsep.join([".", str(ROOT), str(clone)])
    err = work / "err.txt"
    code = warm.run([str(a) for a in arguments], work, [environment], work / "out.txt", err, launch.TIMEOUT_S)
    assert code == 0, err.read_text()[-3000:]
