"""Folders of pictures, made without drawing any, and scores beside them that nobody measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pcpo_overlay.tools.sample import folder
from pcpo_overlay.tools.score import run


def pictured(path: Path, pictures: Tensor, prompts: Sequence[str], **names: Any) -> Path:
    """A folder as ``pcpo sample`` leaves it: of each prompt the same number of ``pictures`` (N, 3, H, W) uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir()
    settings = {
        "model_sha256": "0" * 64,
        "checkpoint_sha256": names.get("checkpoint"),
        "prompts": list(prompts),
        "sampler": {"name": "DDIMScheduler", "steps": 5},
    }
    held = folder.begin(path, settings, {"model": "noise", "checkpoint": None, **names}, {})
    each = len(pictures) // len(prompts)
    drawn = [(folder.Picture(n // each, n % each, prompts[n // each]), one) for n, one in enumerate(pictures)]
    folder.keep(held, drawn)
    assert folder.sort(held, [picture for picture, _ in drawn])
    return path


def told(path: Path, metrics: Mapping[str, Mapping[str, float | None]], **more: Any) -> None:
    """Write ``sets.jsonl``: of each metric its number over all, under ``""``, and by prompt."""
    lines = []
    for metric, values in metrics.items():
        prompts = [text for text in values if text]
        lines.append(
            {
                "metric": metric,
                "overall": values[""],
                "prompts": [{"prompt": n, "text": t, "value": values[t]} for n, t in enumerate(prompts)],
                "pictures": 4 * len(prompts),
                "pictures_of_a_prompt": [4, 4],
                "reference": None,
                "splits": 10 if metric == "is" else None,
                "scorer": metric,
                "weights_sha256": {metric: "a" * 64},
                "preprocessing": "none",
                "versions": {},
                **more,
            }
        )
    (path / run.SETS).write_text("".join(json.dumps(line) + "\n" for line in lines))
