"""Prompts: those that the trainers and the paper use, by name, or a file's.

=====================  ==============================================================================================
name                   prompts
=====================  ==============================================================================================
``digits``             the ten of the miniatures
``figures``            all of the paper's figures (Appendix G); ``figure-13`` and the like those of one
``animals``            ddpo-pytorch's 45 ``simple_animals``
``activities``         its 135 ``nouns_activities``: each animal with each of three activities
``pickapic``           flow_grpo's test set of Pick-a-Pic, 2,048
``ocr``                flow_grpo's test set of rendered text
=====================  ==============================================================================================

The last four are read from the upstream's clone. A file is text with a prompt a line, JSON lines with a ``prompt``
each, a JSON list, COCO's captions (``captions_val2017.json``: of each image the caption with the lowest id, in the
order of the images) or MJHQ-30K's ``meta_data.json``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.faults import told
from pcpo_overlay.tools.miniature import PROMPTS as DIGITS
from pcpo_overlay.tools.sample import SampleError

FIGURES = Path(__file__).with_name("figures.json")
#: By name, the upstream whose clone has the prompts.
OF_CLONES = {
    "animals": "ddpo-pytorch",
    "activities": "ddpo-pytorch",
    "pickapic": "flow_grpo",
    "ocr": "flow_grpo",
}
NAMES = ("digits", "figures", *OF_CLONES)


@dataclass(frozen=True)
class Prompts:
    """Prompts in order.

    Attributes:
        name: as the user gave it.
        texts: the prompts; one may come twice.
        sha256: of the file or files that they were read from; of ``digits`` of the prompts themselves.
        left_out: how many were over-long, and are not among ``texts``.
    """

    name: str
    texts: tuple[str, ...]
    sha256: str
    left_out: int = 0

    def first(self, count: int | None) -> Prompts:
        """Only the first so many."""
        return replace(self, texts=self.texts[:count])

    def fitting(self, tokenizer: Any) -> Prompts:
        """Only those that a tokenizer cuts nothing of: with begin and end at most its ``model_max_length``.

        Args:
            tokenizer: a CLIP tokenizer; the paper left out MJHQ-30K's prompts of more than 77 tokens.
        """
        kept = tuple(t for t in self.texts if len(tokenizer(t).input_ids) <= tokenizer.model_max_length)
        return replace(self, texts=kept, left_out=len(self.texts) - len(kept))


def load(name: str, vendor: Path) -> Prompts:
    """Prompts by name or from a file.

    Args:
        name: one of :data:`NAMES`, ``figure-13`` or the like, or a file.
        vendor: the folder of clones.

    Raises:
        SampleError: no such name or file, or no prompts in it.
    """
    if name == "digits":
        return Prompts(name, DIGITS, hashlib.sha256("\n".join(DIGITS).encode()).hexdigest())
    if name == "figures" or name.startswith("figure-"):
        return _figures(name)
    if name in OF_CLONES:
        return _of_clone(name, vendor)
    return _made(name, [Path(name)], _of_file)


def _figures(name: str) -> Prompts:
    figures: dict[str, list[str]] = json.loads(FIGURES.read_text(encoding="utf-8"))
    wanted = list(figures) if name == "figures" else [name.removeprefix("figure-")]
    if wanted[0] not in figures:
        raise SampleError(
            f"the paper lists no prompts of figure {wanted[0]}; it lists those of {', '.join(figures)}"
        )
    texts = [text for figure in wanted for text in figures[figure]]
    return Prompts(name, tuple(dict.fromkeys(texts)), hashlib.sha256(FIGURES.read_bytes()).hexdigest())


def _of_clone(name: str, vendor: Path) -> Prompts:
    clone = vendor / OF_CLONES[name]
    if not clone.is_dir():
        raise SampleError(
            f"the prompts {name} lie in {OF_CLONES[name]}, and {clone} is not there; "
            f"clone it with: python apply.py {OF_CLONES[name]}"
        )
    assets, dataset = clone / "ddpo_pytorch" / "assets", clone / "dataset"
    if name == "animals":
        return _made(name, [assets / "simple_animals.txt"], _lines)
    if name == "activities":
        files = [assets / "simple_animals.txt", assets / "activities.txt"]
        return _made(name, files, _activities)
    return _made(name, [dataset / {"pickapic": "pickscore"}.get(name, name) / "test.txt"], _lines)


def _made(name: str, files: list[Path], read: Callable[..., Iterable[str]]) -> Prompts:
    """Read files, one after the other, and make prompts of what they hold."""
    digest, held = hashlib.sha256(), []
    for file in files:
        try:
            data = file.read_bytes()
            digest.update(data)
            held.append(data.decode("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            known = f"; by name there are {', '.join(NAMES)}, figure-13, ..." if str(file) == name else ""
            raise SampleError(f"the prompts {file} cannot be read: {told(error)}{known}") from None
    try:
        texts = tuple(read(*held))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SampleError(
            f"the prompts {files[-1]} are in no form that is known ({told(error):.200}); write one a line"
        ) from None
    if not texts:
        raise SampleError(f"{files[-1]} holds no prompts; write one a line")
    return Prompts(name, texts, digest.hexdigest())


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _activities(animals: str, activities: str) -> list[str]:
    """Each animal with each activity, with the article that upstream's own library gives it."""
    try:
        import inflect
    except ImportError:
        raise ImportError(
            'the prompts activities need inflect; install it with: pip install "pcpo-overlay[sample]"'
        ) from None
    engine = inflect.engine()
    return [f"{engine.a(animal)} {activity}" for animal in _lines(animals) for activity in _lines(activities)]


def _of_file(text: str) -> list[str]:
    if text.lstrip()[:1] not in ("{", "["):
        return _lines(text)
    try:
        held = json.loads(text)
    except ValueError:  # JSON lines
        held = [json.loads(line) for line in _lines(text)]
    if isinstance(held, dict) and "annotations" in held:
        return _coco(held)
    if isinstance(held, dict):  # MJHQ-30K: by the image's name
        held = [held] if "prompt" in held else list(held.values())
    return [_text(one if isinstance(one, str) else one["prompt"]) for one in held]


def _coco(held: dict[str, Any]) -> list[str]:
    captions: dict[int, tuple[int, str]] = {}
    for one in held["annotations"]:
        image, this = one["image_id"], (one["id"], _text(one["caption"]))
        captions[image] = min(captions.get(image, this), this)
    return [captions[image["id"]][1] for image in held["images"] if image["id"] in captions]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r:.60} is no prompt")
    return " ".join(value.split())
