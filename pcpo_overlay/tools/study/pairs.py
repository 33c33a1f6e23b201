"""The folder of a study: ``study.json`` says what is compared, ``pictures/`` holds it under random names."""

from __future__ import annotations

import json
import random
import secrets
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pcpo_overlay.record.run_folder import jsonable
from pcpo_overlay.tools.faults import told
from pcpo_overlay.tools.folders import check_writable, written
from pcpo_overlay.tools.runs.files import RunError, read_object
from pcpo_overlay.tools.sample.folder import Folder, Picture, encode
from pcpo_overlay.tools.study import StudyError

FORMAT = 1
STUDY, PICTURES, ANSWERS = "study.json", "pictures", "answers.sqlite"
COMMAND = "pcpo study make"


@dataclass(frozen=True)
class Category:
    """What people are asked of a pair: a name for tables, and the question that they read."""

    name: str
    question: str


#: The paper has "all categories" and does not name them; these are ours.
CATEGORIES = (
    Category("overall", "Which picture do you prefer?"),
    Category("quality", "Which picture is better made, with fewer flaws?"),
    Category("prompt", "Which picture fits the text better?"),
)


@dataclass(frozen=True)
class Pair:
    """Two pictures of the same prompt and seed.

    Attributes:
        against: the position of the arm that the first one is compared with, from 1.
        prompt: the position of the prompt.
        seed: of both pictures' generators.
        text: the prompt.
        first: name of the first arm's picture, without its ending.
        other: name of the other arm's.
    """

    against: int
    prompt: int
    seed: int
    text: str
    first: str
    other: str


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        path: its folder.
        id: tells its answers from those of any other.
        arms: their names; the first is compared with each of the others.
        categories: what is asked of every pair.
        questions: how many pairs a participant is shown.
        size: height and width of the pictures, in pixels.
        pairs: all there are.
    """

    path: Path
    id: str
    arms: tuple[str, ...]
    categories: tuple[Category, ...]
    questions: int
    size: tuple[int, int]
    pairs: tuple[Pair, ...]

    def picture(self, name: str) -> Path:
        """The file of a picture."""
        return self.path / PICTURES / f"{name}.png"


def make(
    folders: Sequence[Folder],
    out: Path,
    *,
    names: Sequence[str],
    pairs: int,
    questions: int,
    categories: Sequence[Category] = CATEGORIES,
    seed: int = 0,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> Study:
    """Choose pairs, and write the study's folder.

    Args:
        folders: of ``pcpo sample``; the first is compared with each of the others.
        out: the study's folder. A study that has answers is never replaced.
        names: of the arms.
        pairs: how many there are of every prompt and comparison, each of another seed.
        questions: how many of all these a participant is shown, at most.
        seed: of the choice among a prompt's seeds.
        step: is told how many pairs are written, of how many.

    Raises:
        StudyError: arms share a name, lack pictures, or draw other sizes.
        SampleError: a picture is gone or damaged.
        FolderError: ``out`` is not this command's to write.
    """
    if len(set(names)) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise StudyError(f"two arms are called {twice}; name them with --labels")
    chosen = _chosen(folders, names, pairs, random.Random(seed))
    size: tuple[int, int] | None = None
    held = []
    check_writable(out, COMMAND)
    with written(out, COMMAND) as scratch:
        (scratch / PICTURES).mkdir()
        for n, (against, one, other) in enumerate(chosen):
            files = []
            for folder, picture in ((folders[0], one), (folders[against], other)):
                pixels = folder.read(picture)
                size = size or (pixels.shape[1], pixels.shape[2])
                if size != tuple(pixels.shape[1:]):
                    raise StudyError(
                        f"{folder.path / picture.file} has {pixels.shape[2]}x{pixels.shape[1]} pixels, and others "
                        f"have {size[1]}x{size[0]}: anyone could tell the arms apart; sample them at one --size"
                    )
                files.append(secrets.token_hex(16))
                (scratch / PICTURES / f"{files[-1]}.png").write_bytes(encode(pixels))
            held.append(Pair(against, one.prompt, one.seed, one.text, *files))
            step(n + 1, len(chosen))
        assert size is not None  # _chosen has at least one pair
        study = Study(
            out, secrets.token_hex(8), tuple(names), tuple(categories), min(questions, len(held)), size, tuple(held)
        )  # fmt: skip
        content: dict[str, Any] = {
            "format": FORMAT,
            **{k: v for k, v in asdict(study).items() if k != "path"},
        }
        content["drawn_with"] = {name: f.settings for name, f in zip(names, folders, strict=True)}
        text = json.dumps(jsonable(content), indent=1, ensure_ascii=False)
        (scratch / STUDY).write_text(text + "\n", encoding="utf-8")
    return study


def _chosen(
    folders: Sequence[Folder], names: Sequence[str], pairs: int, draw: random.Random
) -> list[tuple[int, Picture, Picture]]:
    """For every comparison and prompt so many seeds, as the other arm's place and both pictures."""
    held = [{(p.prompt, p.text, p.seed): p for p in folder.pictures()} for folder in folders]
    chosen = []
    for against in range(1, len(folders)):
        seeds: dict[tuple[int, str], list[int]] = defaultdict(list)
        for prompt, text, seed in sorted(held[0].keys() | held[against].keys()):
            both = (prompt, text, seed) in held[0] and (prompt, text, seed) in held[against]
            seeds[prompt, text] += [seed] if both else []
        for (prompt, text), there in seeds.items():
            if len(there) < pairs:
                raise StudyError(
                    f"{names[0]} and {names[against]} have {len(there)} seeds in common of prompt {prompt} "
                    f"({text:.40}), and --pairs asks for {pairs}; draw more with `pcpo sample`, or ask for fewer"
                )
            for seed in sorted(draw.sample(there, pairs)):
                chosen.append((against, held[0][prompt, text, seed], held[against][prompt, text, seed]))
    return chosen


def load(path: Path) -> Study:
    """A study that ``pcpo study make`` wrote.

    Raises:
        StudyError: it is none, or a picture is gone.
    """
    place = path / STUDY
    try:
        kept = read_object(place)
    except FileNotFoundError:
        raise StudyError(f"{path} is no study: it has no {STUDY}; `{COMMAND}` writes one") from None
    except (OSError, RunError) as error:
        raise StudyError(f"{place} cannot be read: {told(error)}") from None
    if kept.get("format") != FORMAT:
        raise StudyError(f"{place} is not of this version of pcpo (format {kept.get('format')!r:.20})")
    try:
        study = Study(
            path,
            str(kept["id"]),
            tuple(map(str, kept["arms"])),
            tuple(Category(str(c["name"]), str(c["question"])) for c in kept["categories"]),
            int(kept["questions"]),
            (int(kept["size"][0]), int(kept["size"][1])),
            tuple(Pair(**pair) for pair in kept["pairs"]),
        )
        if not study.categories or not all(0 < p.against < len(study.arms) for p in study.pairs):
            raise ValueError("an arm or a category is missing")
        if not 0 < study.questions <= len(study.pairs):
            raise ValueError(f"it has {len(study.pairs)} pairs, and asks for {study.questions}")
        files = [name for pair in study.pairs for name in (pair.first, pair.other)]
        if any(not name.isalnum() for name in [study.id, *files]):
            raise ValueError("a name of it is none")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise StudyError(f"{place} is damaged: {told(error)}; make the study anew") from None
    for name in files:
        if not study.picture(name).is_file():
            raise StudyError(f"{study.picture(name)} is gone; bring it back, or make the study anew")
    return study
