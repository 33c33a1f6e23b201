"""ImageReward on transformers' BLIP, against numbers of the package `image-reward` itself, and through the command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scored_folders import pictured
from test_score import noisy, sets
from torch import Tensor

from pcpo_overlay.__main__ import main
from pcpo_overlay.tools.score import scorers
from pcpo_overlay.tools.score.blip import vision_state

pytestmark = pytest.mark.usefixtures("offline_on_one_thread")

WORDS = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *map(chr, range(97, 123)),
    *map("##{}".format, "aeinorst"),
)
WIDTH, INNER, SIDE, PATCH = 128, 64, 32, 16


def tiny_state(seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the names of ImageReward.pt: two layers each, two heads of vision and one of text."""
    draw = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def put(name: str, *shape: int, scale: float = 0.0) -> None:
        scale = scale or shape[-1] ** -0.5
        state[name] = scale * torch.randn(shape, generator=draw)

    def linear(name: str, outputs: int, inputs: int) -> None:
        put(f"{name}.weight", outputs, inputs)
        put(f"{name}.bias", outputs, scale=0.2)

    def norm(name: str, width: int) -> None:
        put(f"{name}.weight", width, scale=0.2)
        state[f"{name}.weight"] += 1
        put(f"{name}.bias", width, scale=0.2)

    eye = "blip.visual_encoder"
    put(f"{eye}.cls_token", 1, 1, WIDTH)
    put(f"{eye}.pos_embed", 1, (SIDE // PATCH) ** 2 + 1, WIDTH, scale=0.3)
    put(f"{eye}.patch_embed.proj.weight", WIDTH, 3, PATCH, PATCH, scale=0.05)
    put(f"{eye}.patch_embed.proj.bias", WIDTH, scale=0.2)
    for block in (f"{eye}.blocks.{n}" for n in range(2)):
        norm(f"{block}.norm1", WIDTH)
        norm(f"{block}.norm2", WIDTH)
        linear(f"{block}.attn.qkv", 3 * WIDTH, WIDTH)
        linear(f"{block}.attn.proj", WIDTH, WIDTH)
        linear(f"{block}.mlp.fc1", 4 * WIDTH, WIDTH)
        linear(f"{block}.mlp.fc2", WIDTH, 4 * WIDTH)
    norm(f"{eye}.norm", WIDTH)
    reader = "blip.text_encoder"
    state[f"{reader}.embeddings.position_ids"] = torch.arange(40)[None]
    put(f"{reader}.embeddings.word_embeddings.weight", len(WORDS) + 2, INNER, scale=1.0)
    put(f"{reader}.embeddings.position_embeddings.weight", 40, INNER, scale=0.5)
    norm(f"{reader}.embeddings.LayerNorm", INNER)
    for layer in (f"{reader}.encoder.layer.{n}" for n in range(2)):
        for which, width in (("attention", INNER), ("crossattention", WIDTH)):
            linear(f"{layer}.{which}.self.query", INNER, INNER)
            linear(f"{layer}.{which}.self.key", INNER, width)
            linear(f"{layer}.{which}.self.value", INNER, width)
            linear(f"{layer}.{which}.output.dense", INNER, INNER)
            norm(f"{layer}.{which}.output.LayerNorm", INNER)
        linear(f"{layer}.intermediate.dense", 96, INNER)
        linear(f"{layer}.output.dense", INNER, 96)
        norm(f"{layer}.output.LayerNorm", INNER)
    widths = (INNER, 32, 16, 8, 4, 1)
    for number, outputs, inputs in zip((0, 2, 4, 6, 7), widths[1:], widths[:-1], strict=True):
        linear(f"mlp.layers.{number}", outputs, inputs)
    for name, width in (("vision", WIDTH), ("text", INNER)):  # in the file but in no score
        linear(f"blip.{name}_proj", 8, width)
    return state


def tokenizer(path: Path) -> Path:
    """A tokenizer of BERT's with a few words, lower case alone."""
    path.mkdir()
    (path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    return path


PROMPTS = ("a b c", "On a note, a taste", "an ocean of " + "n " * 60)
#: What image-reward 1.5 gives of the same weights, prompts and pictures, its own ``score`` with its own BLIP of these
#: sizes (timm 0.6.13, fairscale 0.4.13, transformers 4.33.3, torch 2.13.0, a CPU).
PACKAGE = (0.246287003159523, 0.5543711185455322, 0.3198529779911041)


@pytest.fixture
def scorer(tmp_path: Path) -> scorers.Scorer:
    """The scorer as the command loads it."""
    torch.save(tiny_state(), tmp_path / "ImageReward.pt")
    given = {"imagereward": str(tmp_path / "ImageReward.pt"), "bert": str(tokenizer(tmp_path / "bert"))}
    return scorers.load("imagereward", given, torch.device("cpu"))[0]


def test_against_the_package_itself(scorer: scorers.Scorer) -> None:
    given = noisy(3, 40, 60, seed=5)
    assert scorer(given, PROMPTS).tolist() == pytest.approx(PACKAGE, abs=1e-5)
    alone = [float(scorer(one[None], [prompt])) for one, prompt in zip(given, PROMPTS, strict=True)]
    assert alone == pytest.approx(PACKAGE, abs=1e-5), "whatever is scored beside it"


def test_it_hangs_on_the_picture_and_on_the_prompt(scorer: scorers.Scorer) -> None:
    given = noisy(2, 40, 60)
    own = scorer(given, PROMPTS[:2])
    assert (own - scorer(given.flip(0), PROMPTS[:2])).abs().min() > 1e-3
    assert (own - scorer(given, PROMPTS[1::-1])).abs().min() > 1e-3
    many = "an ocean of " + "n " * 90
    assert torch.equal(scorer(given[:1], PROMPTS[2:]), scorer(given[:1], [many])), "35 tokens are read"


def test_what_is_no_image_reward(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rope is in no vision transformer"):
        vision_state({"rope": torch.zeros(1)})
    torch.save({"layers.0.weight": torch.zeros(1, 1)}, tmp_path / "other.pt")
    given = {"imagereward": str(tmp_path / "other.pt"), "bert": str(tokenizer(tmp_path / "bert"))}
    with pytest.raises(scorers.ScoreError, match="imagereward cannot be loaded from imagereward="):
        scorers.load("imagereward", given, torch.device("cpu"))


def test_through_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pictured(tmp_path / "arm", noisy(4, 40, 60), ["an ocean", "a note"])
    assert main(["score", str(folder), "--metrics", "imagereward"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "imagereward needs ImageReward.pt, 1.8 GB, from THUDM/ImageReward on the hub; give it with" in err
    torch.save(tiny_state(), tmp_path / "ImageReward.pt")
    words = ["--weights", f"imagereward={tmp_path / 'ImageReward.pt'}"]
    assert main(["score", str(folder), "--metrics", "imagereward", *words]) == 1
    err = capsys.readouterr().err
    assert "bert needs google-bert/bert-base-uncased, of it the tokenizer, 0.7 MB, from the Hugging" in err
    words += ["--weights", f"bert={tokenizer(tmp_path / 'bert')}"]
    assert main(["score", str(folder), "--metrics", "imagereward", *words]) == 0
    told = sets(folder)["imagereward"]
    assert len({line["value"] for line in told["prompts"]}) == 2
    assert set(told["weights_sha256"]) == {"imagereward", "bert"}
