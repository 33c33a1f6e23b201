"""What ``pcpo score`` itself gives pictures, and a PickScore small enough for a test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from test_score import tiny_clip
from torch import Tensor

from pcpo_overlay.__main__ import main
from pcpo_overlay.tools.sample import folder

__all__ = ["score", "tiny_clip"]


def score(path: Path, pictures: Tensor, prompts: Sequence[str], metric: str, weights: str) -> list[float]:
    """The scores of pictures (N, 3, H, W) uint8, written as PNGs into a folder like one of ``pcpo sample``."""
    opened = folder.begin(path, {"of": "a test"}, {}, {})
    held = [folder.Picture(n, 0, prompt, "") for n, prompt in enumerate(prompts)]
    folder.keep(opened, list(zip(held, pictures, strict=True)))
    assert main(["score", str(path), "--metrics", metric, "--weights", weights, "--device", "cpu"]) == 0
    lines = map(json.loads, (path / "scores.jsonl").read_text().splitlines())
    return [line["scores"][metric] for line in lines]
