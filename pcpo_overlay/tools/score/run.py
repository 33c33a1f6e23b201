"""Scoring folders: in pieces that a stop does not lose, and from them a line a picture and a line a set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay.files import write_atomically
from pcpo_overlay.record.provenance import versions
from pcpo_overlay.record.run_folder import jsonable
from pcpo_overlay.tools.locks import held
from pcpo_overlay.tools.sample.folder import Folder, Picture
from pcpo_overlay.tools.score import ScoreError, scorers
from pcpo_overlay.tools.score.inception import FEATURES
from pcpo_overlay.tools.score.lpips import Lpips
from pcpo_overlay.tools.score.statistics import Gaussian, frechet, inception_score, pairs

#: Below the folder of pictures: what is kept of each piece, a line a picture, a line a set.
PIECES, SCORES, SETS = "scores", "scores.jsonl", "sets.jsonl"
LOCK = ".score.lock"
#: Pictures whose scores are kept in one file.
PIECE = 256

#: By a metric of sets, the scorer whose features it is of.
OF_FEATURES = {"fid": "inception", "is": "inception", "fd-dinov2": "dinov2", "fd-digit": "digit-features"}
#: Those that compare with the base model's pictures.
COMPARED = ("fid", "fd-dinov2", "fd-digit")
METRICS = (
    "clipscore", "pickscore", "hpsv2", "hpsv2.1", "imagereward", "aesthetic", "ocr", "digit", *OF_FEATURES, "lpips",
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What to score, and how.

    Attributes:
        metrics: of :data:`METRICS`.
        given: by the name of weights, a path or the hub's name.
        device: where the networks run.
        batch: pictures at a time.
        splits: of the Inception Score.
        most_pairs: of pictures of one prompt that LPIPS compares, at most.
    """

    metrics: Sequence[str]
    given: Mapping[str, str]
    device: torch.device
    batch: int = 32
    splits: int = 10
    most_pairs: int = 1000


@dataclass(frozen=True)
class Arm:
    """A folder of pictures with what is asked of it again and again.

    Attributes:
        folder: the folder.
        pictures: of it, by prompt and seed.
        prompts: the same, by the prompt's position.
    """

    folder: Folder
    pictures: list[Picture]
    prompts: dict[int, list[Picture]]

    @classmethod
    def of(cls, folder: Folder) -> Arm:
        """That of a folder."""
        pictures = folder.pictures()
        prompts: dict[int, list[Picture]] = {}
        for picture in pictures:
            prompts.setdefault(picture.prompt, []).append(picture)
        return cls(folder, pictures, prompts)

    @property
    def path(self) -> Path:
        """The folder's."""
        return self.folder.path


def score(
    folders: Sequence[Folder],
    reference: Folder | None,
    request: Request,
    say: Callable[[str], None] = print,
    step: Callable[[int, int, int], None] = lambda index, done, total: None,
) -> None:
    """Score folders; each scorer is loaded once for all of them.

    Args:
        folders: of the arms.
        reference: the base model's, which the distances are to; its own features are kept beside its pictures.
        request: what, and how.
        say: takes a line a set.
        step: takes which folder, how many of its pictures are scored by the scorer at hand, and of how many.

    Raises:
        Fault: weights are not here, a picture is damaged, or a folder cannot be compared.
        ImportError: a library is missing.
    """
    compared = [metric for metric in request.metrics if metric in COMPARED]
    if compared and reference is None:
        raise ScoreError(
            f"{', '.join(compared)} needs the base model's folder; draw it with `pcpo sample` without --checkpoint, "
            "and give it as --reference"
        )
    records: dict[str, dict[str, Any]] = {}
    every = {folder.path.resolve(): Arm.of(folder) for folder in folders}
    base = None
    if compared and reference is not None:
        base = every.get(reference.path.resolve()) or Arm.of(reference)
        for arm in every.values():
            _check_comparable(arm, base)
    kinds = dict.fromkeys(OF_FEATURES.get(metric, metric) for metric in request.metrics)
    for kind in [kind for kind in kinds if kind != "lpips"]:
        scorer, records[kind] = scorers.load(kind, request.given, request.device)
        features = [metric for metric, of in OF_FEATURES.items() if of == kind and metric in compared]
        wanted = dict(every)
        if features and base is not None:
            wanted.setdefault(base.path.resolve(), base)
        for index, arm in enumerate(wanted.values()):
            with held(arm.path / LOCK, f"{arm.path} is being scored by another command"):
                _fill(arm, kind, scorer, records[kind], request, partial(step, index))
    distance = None
    if "lpips" in kinds:
        distance, records["lpips"] = _lpips(request)
    for index, arm in enumerate(every.values()):
        with held(arm.path / LOCK, f"{arm.path} is being scored by another command"):
            if distance is not None:
                _fill_pairs(arm, distance, records["lpips"], request, partial(step, index))
            _write_scores(arm, records)
            _write_sets(arm, base, request, records, say)


# ----------------------------------------------------------------- pieces


def _fill(
    arm: Arm,
    kind: str,
    scorer: scorers.Scorer,
    record: dict[str, Any],
    request: Request,
    step: Callable[[int, int], None],
) -> None:
    """Score the pictures of a folder that are not scored yet, a piece at a time."""
    for number, some in _pieces(arm.pictures):
        step(number * PIECE, len(arm.pictures))
        file = _file(arm, kind, number)
        if _kept(file, some, record) is not None:
            continue
        found = []
        for first in range(0, len(some), request.batch):
            batch = some[first : first + request.batch]
            images = [arm.folder.read(picture) for picture in batch]
            if len({image.shape for image in images}) > 1:
                raise ScoreError(f"{arm.path} holds pictures of different sizes")
            found.append(scorer(torch.stack(images), [picture.text for picture in batch]).float())
        _keep(file, torch.cat(found), some, record)
    step(len(arm.pictures), len(arm.pictures))


def _pieces(pictures: Sequence[Picture]) -> Iterator[tuple[int, Sequence[Picture]]]:
    for number, first in enumerate(range(0, len(pictures), PIECE)):
        yield number, pictures[first : first + PIECE]


def _file(arm: Arm, kind: str, number: int) -> Path:
    return arm.path / PIECES / f"{kind}.{number:05d}.safetensors"


def _key(pictures: Sequence[Picture], record: dict[str, Any]) -> str:
    """What a piece is of: the scorer, its weights, and the very pictures with their prompts."""
    told = [[p.file, p.sha256, p.text] for p in pictures]
    return hashlib.sha256(json.dumps([record, told], sort_keys=True).encode()).hexdigest()


def _keep(file: Path, values: Tensor, pictures: Sequence[Picture], record: dict[str, Any]) -> None:
    from safetensors.torch import save

    if not torch.isfinite(values).all():
        raise ScoreError(f"{record['scorer']} gives {file.parent.parent} numbers that are not finite")
    file.parent.mkdir(exist_ok=True)
    write_atomically(file, save({"values": values.contiguous()}, {"key": _key(pictures, record)}))


def _kept(file: Path, pictures: Sequence[Picture], record: dict[str, Any]) -> Tensor | None:
    """The values of a piece; None where it is not there, or of other pictures or another scorer."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="pt") as opened:
            if (opened.metadata() or {}).get("key") == _key(pictures, record):
                values: Tensor = opened.get_tensor("values")
                return values
    except (OSError, SafetensorError):
        pass
    return None


def values_of(
    arm: Arm, kind: str, record: dict[str, Any], prompt: int | None = None
) -> Iterator[tuple[Sequence[Picture], Tensor]]:
    """Each piece of a folder: its pictures, and their scores (n,) or features (n, D); of one prompt or of all.

    Raises:
        ScoreError: a piece is missing.
    """
    for number, some in _pieces(arm.pictures):
        rows = [n for n, picture in enumerate(some) if prompt is None or picture.prompt == prompt]
        if not rows:
            continue
        values = _kept(_file(arm, kind, number), some, record)
        if values is None:
            raise ScoreError(f"{_file(arm, kind, number)} is gone or changed; type the same command again")
        yield [some[n] for n in rows], values[rows]


# ------------------------------------------------------------------ pairs


def _lpips(request: Request) -> tuple[Lpips, dict[str, Any]]:
    paths = {name: scorers.find(name, request.given) for name in ("alexnet", "lpips")}
    network, heads = (scorers.tensors(paths[name]) for name in ("alexnet", "lpips"))
    model = Lpips()
    try:
        model.load(network, heads)
    except (KeyError, RuntimeError) as error:
        raise ScoreError(
            f"{paths['alexnet']} or {paths['lpips']} holds other weights ({error!s:.120})"
        ) from None
    record = {
        "scorer": "lpips",
        **scorers.recorded(paths),
        "preprocessing": "[-1, 1] at the picture's own size",
        "pairs": request.most_pairs,
        "seed": 0,
    }
    return model.eval().to(request.device), record


@torch.no_grad()
def _fill_pairs(
    arm: Arm,
    model: Lpips,
    record: dict[str, Any],
    request: Request,
    step: Callable[[int, int], None],
) -> None:
    """The distances of pairs of each prompt's pictures, a piece a prompt."""
    for done, (prompt, pictures) in enumerate(arm.prompts.items()):
        step(done, len(arm.prompts))
        file = _file(arm, "lpips", prompt)
        if len(pictures) < 2 or _kept(file, pictures, record) is not None:
            continue
        found = []
        for some in pairs(len(pictures), request.most_pairs).split(request.batch):
            one, other = (
                model.features(torch.stack([arm.folder.read(pictures[n]) for n in column]).to(request.device))
                for column in some.T.tolist()
            )
            found.append(model.distance(one, other).float().cpu())
        _keep(file, torch.cat(found), pictures, record)
    step(len(arm.prompts), len(arm.prompts))


# ---------------------------------------------------------------- results


def _write_scores(arm: Arm, records: Mapping[str, dict[str, Any]]) -> None:
    """A line a picture: its scores by name. Those of earlier commands stay, where they are of the same picture."""
    path = arm.path / SCORES
    before = {line["file"]: line for line in _lines(path)}
    lines: dict[str, dict[str, Any]] = {}
    for p in arm.pictures:
        old = before.get(p.file, {})
        kept = dict(old["scores"]) if old.get("sha256") == p.sha256 else {}
        lines[p.file] = {
            "file": p.file,
            "prompt": p.prompt,
            "seed": p.seed,
            "sha256": p.sha256,
            "scores": kept,
        }
    for kind, record in records.items():
        if kind == "lpips" or kind in OF_FEATURES.values():
            continue
        for pictures, values in values_of(arm, kind, record):
            for picture, value in zip(pictures, values.tolist(), strict=True):
                lines[picture.file]["scores"][kind] = value
    if any(line["scores"] for line in lines.values()):
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines.values()))


def _write_sets(
    arm: Arm,
    base: Arm | None,
    request: Request,
    records: Mapping[str, dict[str, Any]],
    say: Callable[[str], None],
) -> None:
    """A line a metric: overall, by prompt, and what it is of. Those of other metrics stay."""
    path = arm.path / SETS
    kept = {line["metric"]: line for line in _lines(path)}
    counts = [len(pictures) for pictures in arm.prompts.values()]
    for metric in request.metrics:
        record = records[OF_FEATURES.get(metric, metric)]
        overall, by_prompt = _measure(arm, base, metric, record, request)
        kept[metric] = {
            "metric": metric,
            "overall": overall,
            "prompts": [
                {"prompt": prompt, "text": arm.prompts[prompt][0].text, "value": value}
                for prompt, value in by_prompt.items()
            ],
            "pictures": sum(counts),
            "pictures_of_a_prompt": [min(counts), max(counts)],
            "reference": base.folder.settings if base is not None and metric in COMPARED else None,
            "splits": request.splits if metric == "is" else None,
            **record,
            "versions": versions(),
        }
        say(f"{arm.folder.name}: {metric} {'none' if overall is None else format(overall, '.5g')}")
        write_atomically(path, "".join(json.dumps(jsonable(kept[name])) + "\n" for name in sorted(kept)))


def _measure(
    arm: Arm, base: Arm | None, metric: str, record: dict[str, Any], request: Request
) -> tuple[float | None, dict[int, float | None]]:
    """A metric over all pictures, and by prompt; None where there are too few.

    LPIPS diversity over all is the mean over prompts; every other metric is of all pictures together.
    """
    kind = OF_FEATURES.get(metric, metric)

    def of(prompt: int | None) -> float | None:
        if metric == "is":
            logits = torch.cat([values[:, FEATURES:] for _, values in values_of(arm, kind, record, prompt)])
            return inception_score(logits, request.splits) if len(logits) >= request.splits else None
        if base is not None and metric in COMPARED:
            one, other = _gaussian(arm, kind, record, prompt), _gaussian(base, kind, record, prompt)
            return frechet(one, other) if one is not None and other is not None else None
        return _mean(
            [value for _, values in values_of(arm, kind, record, prompt) for value in values.tolist()]
        )

    if metric != "lpips":
        return of(None), {prompt: of(prompt) for prompt in arm.prompts}
    by_prompt: dict[int, float | None] = {}
    for prompt, pictures in arm.prompts.items():
        values = _kept(_file(arm, "lpips", prompt), pictures, record)
        by_prompt[prompt] = None if values is None else float(values.double().mean())
    return _mean(list(by_prompt.values())), by_prompt


def _check_comparable(arm: Arm, base: Arm) -> None:
    """Refuse two folders of other prompts or numbers of pictures: the distance depends on both.

    Raises:
        ScoreError: they are.
    """
    told = [{n: (some[0].text, len(some)) for n, some in one.prompts.items()} for one in (arm, base)]
    if told[0] != told[1]:
        raise ScoreError(
            f"{arm.path} and {base.path} are not of the same prompts with as many pictures each, so that no distance "
            "compares them; draw what is missing"
        )


def _gaussian(arm: Arm, kind: str, record: dict[str, Any], prompt: int | None) -> Gaussian | None:
    """The distribution of features, of one prompt's pictures or of all; None of less than two."""
    if len(arm.pictures if prompt is None else arm.prompts[prompt]) < 2:
        return None
    width = FEATURES if kind == "inception" else None
    return Gaussian.of(lambda: (values[:, :width] for _, values in values_of(arm, kind, record, prompt)))


def _mean(values: Sequence[float | None]) -> float | None:
    held = [value for value in values if value is not None]
    return sum(held) / len(held) if held else None


def _lines(path: Path) -> list[dict[str, Any]]:
    """What an earlier command wrote.

    Raises:
        ScoreError: it is damaged.
    """
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise ScoreError(f"{path} cannot be read ({error!s:.120}); move it away") from None
