"""How well a picture has the words that its prompt puts in quotation marks, as flow_grpo's OCR reward has it.

``1 - min(d(read, asked), n) / n``, of the ``n`` letters asked for: ``d`` is the edit distance, 0 where ``asked`` is
anywhere in what is read, all lines of it one after the other, in small letters and without spaces.

Upstream reads with paddleocr 2, which is taken where it is installed. Elsewhere it is rapidocr-onnxruntime, which has
PP-OCRv4's weights in its wheel: networks of the same family, whose readings differ now and then.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay.tools.faults import require
from pcpo_overlay.tools.score import ScoreError

#: Of a picture (H, W, 3) uint8 the lines that are read.
Reader = Callable[[Any], list[str]]
RAPID, PADDLE = "rapidocr-onnxruntime", "paddleocr"
#: Where the first has no release, as pyproject.toml has it.
NO_RAPID = sys.version_info >= (3, 13)
#: Finding lines as paddleocr does by default: rapidocr's own would enlarge every picture to 736 pixels first.
AS_PADDLE = {
    "det_limit_type": "max",
    "det_limit_side_len": 960,
    "det_box_thresh": 0.6,
    "det_unclip_ratio": 1.5,
}


class Ocr:
    """The score of a picture by the words that its prompt asks for."""

    def __init__(self, read: Reader) -> None:
        from rapidfuzz.distance import Levenshtein

        self.read, self.distance = read, Levenshtein.distance

    def __call__(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """(N,) in [0, 1].

        Raises:
            ScoreError: a prompt asks for no words.
        """
        asked = [words_of(prompt) for prompt in prompts]
        read = [self.read(one.permute(1, 2, 0).contiguous().cpu().numpy()) for one in pictures]
        return torch.tensor([self.score("".join(r), a) for r, a in zip(read, asked, strict=True)])

    def score(self, read: str, asked: str) -> float:
        """Of what is read and what is asked for."""
        read, asked = _plain(read), _plain(asked)
        errors = 0 if asked in read else min(self.distance(read, asked), len(asked))
        return 1 - errors / len(asked)


def words_of(prompt: str) -> str:
    """What stands between the first two quotation marks.

    Raises:
        ScoreError: nothing does.
    """
    parts = prompt.split('"')
    if len(parts) < 3 or not _plain(parts[1]):
        raise ScoreError(
            f'ocr: the prompt {prompt!r:.80} has no words in quotation marks ("...") that a picture could be read for'
        )
    return parts[1]


def _plain(text: str) -> str:
    return text.replace(" ", "").lower()


def installed() -> str:
    """The package that reads, with its version: paddleocr's second generation, else rapidocr's.

    Raises:
        ImportError: neither is installed.
        ScoreError: nor can be, on a Python that rapidocr has no release for.
    """
    paddle = _version(PADDLE)
    if paddle.startswith("2."):  # the third is called and answers in another way
        return f"{PADDLE} {paddle}"
    if not _version(RAPID):
        if NO_RAPID:
            raise ScoreError(
                f"ocr needs {RAPID}, which has no release for Python 3.13; score with Python 3.12, or install "
                "paddleocr 2"
            )
        require("rapidocr_onnxruntime", "ocr needs", "score")
    return f"{RAPID} {_version(RAPID)}"


def weights() -> dict[str, Path]:
    """The files that rapidocr reads with, in its own package, by what each finds: lines, and their letters."""
    folder = Path(str(metadata.distribution(RAPID).locate_file("rapidocr_onnxruntime"))) / "models"
    return {"det": folder / "ch_PP-OCRv4_det_infer.onnx", "rec": folder / "ch_PP-OCRv4_rec_infer.onnx"}


def reader(package: str, device: torch.device) -> Reader:
    """What reads with a package of :func:`installed`.

    Pixels go in as upstream hands them over, red first, though both packages take them for blue first.
    """
    if package.startswith(PADDLE):
        from paddleocr import PaddleOCR

        paddle = PaddleOCR(use_angle_cls=False, lang="en", use_gpu=device.type == "cuda", show_log=False)

        def with_paddle(picture: Any) -> list[str]:
            (lines,) = paddle.ocr(picture, cls=False)
            return [text for _, (text, sure) in lines or () if sure > 0]

        return with_paddle
    from rapidocr_onnxruntime import RapidOCR

    rapid = RapidOCR(**AS_PADDLE)

    def with_rapid(picture: Any) -> list[str]:
        lines, _ = rapid(picture, use_cls=False)
        return [text for _, text, sure in lines or () if float(sure) > 0]

    return with_rapid


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
