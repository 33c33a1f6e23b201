"""The OCR score with the real weights on rendered words, and against flow_grpo's own reward."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from scored_folders import pictured
from test_score import sets
from torch import Tensor

from pcpo_overlay.__main__ import main
from pcpo_overlay.tools.score import ScoreError, ocr, run, scorers

pytestmark = pytest.mark.usefixtures("offline_on_one_thread")
CPU = torch.device("cpu")


def written(text: str, side: int = 192) -> Tensor:
    """A picture (3, side, side) uint8 of blue letters on a pale ground."""
    image = Image.new("RGB", (side, side), (250, 245, 230))
    font = ImageFont.load_default(size=side // 8)
    ImageDraw.Draw(image).multiline_text((12, side // 3), text, fill=(20, 30, 120), font=font)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


#: What a picture has, what its prompt asks for, and the score.
CASES = (
    ("Hello World", 'a wall with "Hello World" on it', 1.0),
    ("Grand\nOpening", 'a banner, "grand opening", on a "shop"', 1.0),  # lines run on; the first words count
    ("We are OPEN", 'a sign "Open"', 1.0),  # anywhere in what is read
    ("Hello Word", 'a wall with "Hello World" on it', 0.9),  # one letter of ten is missing
    ("", 'a sign that says "Open"', 0.0),
)


@pytest.fixture(scope="module")
def scorer() -> scorers.Scorer:
    if ocr.NO_RAPID:
        pytest.skip(f"{ocr.RAPID} has no release for this Python")
    return scorers.load("ocr", {}, CPU)[0]


@pytest.fixture(scope="module")
def read(scorer: scorers.Scorer) -> list[list[str]]:
    """What the real weights read in the pictures of :data:`CASES`."""
    assert isinstance(scorer, ocr.Ocr)
    return [scorer.read(written(text).permute(1, 2, 0).contiguous().numpy()) for text, _, _ in CASES]


def test_rendered_words_with_the_real_weights(read: list[list[str]], scorer: scorers.Scorer) -> None:
    assert isinstance(scorer, ocr.Ocr)
    assert [line.replace(" ", "") for line in read[1]] == ["Grand", "Opening"]
    for lines, (_, prompt, told) in zip(read, CASES, strict=True):
        assert scorer.score("".join(lines), ocr.words_of(prompt)) == pytest.approx(told), lines
    pictures = torch.stack([written("STOP"), written("STOP")])
    assert scorer(pictures, ['a "stop" sign', 'a "shop" sign']).tolist() == [1.0, 0.75]


def test_a_penalty_ends_at_the_length(scorer: scorers.Scorer) -> None:
    assert isinstance(scorer, ocr.Ocr)
    assert scorer.score("a long text about something else", "Open") == 0
    assert scorer.score("o p e", "Open") == 0.75


@pytest.mark.parametrize("prompt", ["a sign", 'a sign "', 'a sign "" here', 'a sign "  " here'])
def test_a_prompt_without_words(prompt: str) -> None:
    with pytest.raises(ScoreError, match=r'has no words in quotation marks \("\.\.\."\)'):
        ocr.words_of(prompt)


def as_paddle(reader: ocr.Reader) -> ModuleType:
    """A module that is called and answers as paddleocr 2.9 is and does, and reads with ``reader``."""

    class PaddleOCR:
        def __init__(self, use_angle_cls: bool, lang: str, use_gpu: bool, show_log: bool) -> None:
            assert (use_angle_cls, lang, use_gpu) == (False, "en", False)

        def ocr(self, picture: Any, cls: bool) -> list[Any]:
            lines = reader(picture)
            return [[[[[0, 0], [1, 0], [1, 1], [0, 1]], (text, 0.99)] for text in lines] or None]

    made = ModuleType("paddleocr")
    made.PaddleOCR = PaddleOCR  # type: ignore[attr-defined]
    return made


@pytest.mark.upstream("flow_grpo")
def test_against_upstreams_own_reward(
    upstream_clone: Callable[[str, bool], Path], read: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """flow_grpo's ``OcrScorer`` and this one give the same of the same readings; paddle itself does not run here."""
    from rapidfuzz.distance import Levenshtein

    answers = iter([*read, *read])
    monkeypatch.setitem(sys.modules, "paddleocr", as_paddle(lambda picture: next(answers)))
    distance = ModuleType("Levenshtein")
    distance.distance = Levenshtein.distance  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "Levenshtein", distance)
    file = upstream_clone("flow_grpo", False) / "flow_grpo" / "ocr.py"
    spec = importlib.util.spec_from_file_location("upstreams_ocr", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pictures = torch.stack([written(text) for text, _, _ in CASES])
    prompts = [prompt for _, prompt, _ in CASES]
    images = list(pictures.permute(0, 2, 3, 1).numpy())
    told = module.OcrScorer(use_gpu=False)(images, prompts)
    ours = ocr.Ocr(ocr.reader("paddleocr 2.9.1", CPU))(pictures, prompts)
    assert ours.tolist() == pytest.approx(told) and len(set(told)) == 3


def test_which_package_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"paddleocr": "2.9.1", "rapidocr-onnxruntime": "1.4.4"}
    monkeypatch.setattr(ocr, "_version", lambda package: there.get(package, ""))
    assert ocr.installed() == "paddleocr 2.9.1"
    there["paddleocr"] = "3.7.0"
    assert ocr.installed() == "rapidocr-onnxruntime 1.4.4", "the third generation answers in another way"


def test_where_nothing_can_read_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ocr, "_version", lambda package: "")
    monkeypatch.setattr(ocr, "NO_RAPID", True)
    pictured(tmp_path / "signs", written("Open")[None], ['a sign "Open"'])
    assert main(["score", str(tmp_path / "signs"), "--metrics", "ocr"]) == 1
    assert (
        "has no release for Python 3.13; score with Python 3.12, or install paddleocr 2"
        in capsys.readouterr().err
    )


@pytest.mark.skipif(ocr.NO_RAPID, reason=f"{ocr.RAPID} has no release for this Python")
def test_through_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = ['a sign "STOP"', 'a sign "GO"']
    folder = pictured(tmp_path / "arm", torch.stack([written("STOP"), written("NO")]), prompts)
    assert main(["score", str(folder), "--metrics", "ocr"]) == 0
    told = sets(folder)["ocr"]
    assert [line["value"] for line in told["prompts"]] == [1.0, 0.5] and told["overall"] == 0.75
    version = metadata.version("rapidocr-onnxruntime")
    assert told["read_with"] == f"rapidocr-onnxruntime {version}"
    assert set(told["weights_sha256"]) == {"det", "rec"}
    assert [json.loads(line)["scores"] for line in (folder / run.SCORES).read_text().splitlines()] == [
        {"ocr": 1.0}, {"ocr": 0.5}
    ]  # fmt: skip
    silent = pictured(tmp_path / "silent", written("STOP")[None], ["a sign"])
    capsys.readouterr()
    assert main(["score", str(silent), "--metrics", "ocr"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("pcpo score: ocr: the prompt 'a sign' has no words in quotation marks"), last
