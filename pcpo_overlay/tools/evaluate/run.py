"""Evaluating a run folder: its checkpoints and the model it began as, whatever of them is not evaluated yet."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcpo_overlay.files import sha256 as sha256_of
from pcpo_overlay.record.run_folder import utc_now
from pcpo_overlay.tools.checkpoints import Checkpoint, CheckpointError
from pcpo_overlay.tools.evaluate import EvaluationError, records, samples
from pcpo_overlay.tools.evaluate.loaders import LOADERS, Loader
from pcpo_overlay.tools.evaluate.rewards import Reward, weighted
from pcpo_overlay.tools.evaluate.samples import Samples
from pcpo_overlay.tools.faults import Fault, printable, told
from pcpo_overlay.tools.locks import held
from pcpo_overlay.tools.models import INDEX, ModelError, read_index
from pcpo_overlay.tools.runs.arms import compared_with
from pcpo_overlay.tools.runs.files import read_object
from pcpo_overlay.tools.runs.run import MOST_EPOCHS, Run, load

LOCK = ".evaluate.lock"
#: Beside the run folders: the base model's samples, by what they were drawn with.
CACHE = ".pcpo-evaluate"
BASE = "base"


@dataclass(frozen=True)
class Request:
    """What to draw: ``samples`` images of each prompt, at least 2, None for what fits them, from ``seed``."""

    samples: int | None
    seed: int


@dataclass(frozen=True)
class Subject:
    """A run, with all that evaluating its checkpoints takes.

    Attributes:
        run: the run.
        loader: its upstream's.
        model: the folder of the pipeline it began as.
        reward: its own.
        sampler: settings of the sampler, the run's own.
        settings: everything that decides what is drawn and measured.
    """

    run: Run
    loader: Loader
    model: Path
    reward: Reward
    sampler: dict[str, Any]
    settings: dict[str, Any]

    def policy(self, checkpoint: Checkpoint | None) -> Any:
        """The pipeline with a checkpoint's policy in it; of None the base model."""
        with _named(f"{self.model} cannot be loaded"):
            pipeline = self.loader.load_pipeline(self.model)
        if checkpoint is not None:
            self.loader.put(pipeline, checkpoint)
        return pipeline

    def draw(self, request: Request, checkpoint: Checkpoint | None) -> Samples:
        """Draw from a checkpoint's policy; of None from the base model."""
        name = self.model if checkpoint is None else checkpoint.weights
        pipeline = self.policy(checkpoint)
        with _named(f"{name} cannot be drawn from"):
            drawn = samples.draw(
                self.loader.sample,
                pipeline,
                self.reward,
                per_prompt=self.settings["samples"],
                seed=request.seed,
                settings=self.sampler,
                reader=self.loader.reader,
            )
        if not drawn.sound(self.loader.reader):
            raise EvaluationError(f"{name} draws what is no image: its numbers are not finite")
        return drawn


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Say in a line of what there was an error: a model's own files decide what the libraries stumble over."""
    try:
        yield
    except (Fault, ImportError):
        raise
    except Exception as error:
        raise EvaluationError(f"{what}: {type(error).__name__}: {told(error):.300}") from error


def subject_of(run: Run, request: Request, say: Callable[[str], None] = print) -> Subject:
    """Find out how to evaluate a run.

    Raises:
        EvaluationError: it cannot be: another upstream, another model than a miniature, another reward.
    """
    loader = LOADERS.get(run.upstream)
    if loader is None:
        raise EvaluationError(
            f"{run.path} is a run of {run.upstream}; evaluate knows those of {', '.join(LOADERS)}"
        )
    with _complete_config(run):
        trainer = run.info["trainer"]
        loader, model = _model(run, loader, say)
        weights = loader.reward_weights(trainer)
        sampler = loader.sampler(trainer)
    unknown = [name for name in weights if name not in loader.rewards]
    if unknown or not weights:
        raise EvaluationError(
            f"{run.path} was trained on the reward {', '.join(unknown) or '(none)'}, which evaluate does not compute; "
            f"it knows {', '.join(loader.rewards)}"
        )
    settings = {
        "format": records.FORMAT,
        "upstream": compared_with(run.upstream),
        "model_sha256": _folder_sha256(model),
        "classifier_sha256": sha256_of(loader.reader.weights()),
        "sampler": sampler,
        "reward": weights,
        "samples": request.samples or loader.reader.samples,
        "seed": request.seed,
        "batch": samples.BATCH,
    }
    return Subject(run, loader, model, weighted(weights, loader.rewards), sampler, settings)


def _model(run: Run, loader: Loader, say: Callable[[str], None]) -> tuple[Loader, Path]:
    """The folder of the miniature that a run began as, with its loader; the shipped one where it ran on another
    machine's."""
    named = loader.began_as(run)
    path = Path(named)
    known = (loader, *loader.others)
    for one in known:
        if not path.is_dir() and path.parts[-2:] == one.shipped.parts[-2:]:
            say(f"note: {run.path.name}: {named} is not here; taken for it is the shipped miniature")
            path = one.shipped
    if not (path / loader.network / "config.json").is_file():
        raise EvaluationError(
            f"{run.path} began as {named:.300}, which is no pipeline's folder on this machine"
        )
    differences = [_differs(path, one.shipped) for one in known]
    if None not in differences:
        raise EvaluationError(
            f"{run.path} began as {named}, which draws no {' and no '.join(one.reader.draws for one in known)}: "
            f"evaluate is for runs of the miniatures ({differences[0]})"
        )
    of_model = known[differences.index(None)]
    try:
        read_index(path, json.loads((of_model.shipped / INDEX).read_text())["_class_name"])
    except (ModelError, FileNotFoundError) as error:
        raise EvaluationError(f"{run.path} began as a model that is not loaded: {error}") from None
    return of_model, path


def _differs(model: Path, shipped: Path) -> str | None:
    """What tells a pipeline from a miniature, the first such thing; None where nothing does."""
    for file in sorted(p for p in shipped.glob("*/*config.json") if p.name in _CONFIGS):
        place = file.relative_to(shipped)
        if differs := _other(model / place, file):
            return f"{place} has another {differs}"
    return None


#: What describes a part of a pipeline; a tokenizer's differs with the version that wrote it.
_CONFIGS = ("config.json", "scheduler_config.json")
#: What in them does.
_OF_VERSIONS = {"architectures", "dtype", "torch_dtype", "transformers_version"}


def _other(config: Path, shipped: Path) -> str | None:
    """The first name whose value differs from the miniature's, in a part's configuration; None where there is none."""
    try:
        theirs = read_object(config)
    except FileNotFoundError:
        return None  # which loading it will say
    ours = read_object(shipped)
    names = [name for name in theirs if name not in _OF_VERSIONS and not name.startswith("_")]
    return next(
        (printable(n[:80]) for n in names if (theirs[n] or ours.get(n)) and theirs[n] != ours.get(n)), None
    )


@contextmanager
def _complete_config(run: Run) -> Iterator[None]:
    """Say so where ``run.json`` lacks a setting that is read of it."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(
            f"{run.path}: run.json lacks the trainer's config, or part of it ({error!r:.200})"
        ) from None
    except ValueError as error:
        raise EvaluationError(f"{run.path}: run.json: {told(error)}") from None


def _folder_sha256(folder: Path) -> str:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    content = [(name, sha256_of(folder / name)) for name in names]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def evaluate(
    folder: Path,
    request: Request,
    say: Callable[[str], None] = print,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> list[Fault]:
    """Evaluate what is not evaluated yet; after every checkpoint the records are on disk.

    Args:
        folder: a run folder.
        request: what to draw.
        say: takes a line per checkpoint.
        step: takes how many policies are done, and of how many.

    Returns:
        What is wrong with each checkpoint that could not be evaluated; the others are.

    Raises:
        EvaluationError, CheckpointError: nothing of the run can be evaluated.
        RunError: the folder cannot be read.
        ImportError: a library is missing.
        OSError: the folder cannot be written.
    """
    run = load(folder)
    if run.status in ("died", "failed"):
        say(f"note: {run.name}: this run {run.how_it_ended}")
    subject = subject_of(run, request, say)
    with _complete_config(run):
        checkpoints = subject.loader.checkpoints(run)
    if not checkpoints:
        raise EvaluationError(
            f"{folder} holds no checkpoints; ab makes them with {subject.loader.save_options}, and another "
            "--out where these runs are finished"
        )
    for checkpoint in checkpoints:
        if not 0 <= checkpoint.epoch < MOST_EPOCHS:
            raise EvaluationError(
                f"{checkpoint.weights} would be of epoch {checkpoint.epoch}, which no run has"
            )
    with held(folder / LOCK, f"{folder} is being evaluated by another command"):
        return _evaluate(subject, checkpoints, request, say, step)


def _evaluate(
    subject: Subject,
    checkpoints: list[Checkpoint],
    request: Request,
    say: Callable[[str], None],
    step: Callable[[int, int], None],
) -> list[Fault]:
    folder, name = subject.run.path, subject.run.path.name
    digest = records.digest(subject.settings)
    done, others = records.sort_out(load(folder).quality, digest)  # read again, now that nobody else writes
    stale = [record for record in done if _is_stale(record, checkpoints)]
    if stale:
        say(f"note: {name}: {len(stale)} records of checkpoints since replaced go to {records.SUPERSEDED}")
        done = [record for record in done if record not in stale]
    if others:
        say(
            f"note: {name}: {len(others)} records with other settings (--samples, --seed, ...) go to "
            f"{records.SUPERSEDED}"
        )
    if others or stale:
        records.set_aside(folder, [*others, *stale])
        records.write(folder, done)
    known = {record["checkpoint"] for record in done}

    base = None
    failed: list[Fault] = []
    for n, checkpoint in enumerate((None, *checkpoints)):
        step(n, 1 + len(checkpoints))
        called = BASE if checkpoint is None else checkpoint.name
        if called in known:
            say(f"{name}: {called} is evaluated already")
            continue
        started = time.monotonic()
        if base is None:
            base = base_samples(subject, request, digest)
        try:
            drawn = base if checkpoint is None else subject.draw(request, checkpoint)
        except (EvaluationError, CheckpointError) as error:
            failed.append(error)
            continue
        sha256 = subject.settings["model_sha256"] if checkpoint is None else sha256_of(checkpoint.weights)
        overall, prompts = samples.measure(drawn, base, subject.loader.reader)
        record = {
            "format": records.FORMAT,
            "checkpoint": called,
            "epoch": 0 if checkpoint is None else checkpoint.epoch,
            "weights": BASE if checkpoint is None else "lora" if checkpoint.lora else "network",
            "sha256": sha256,
            "overall": overall,
            "prompts": prompts,
            "settings": subject.settings,
            "digest": digest,
            "seconds": time.monotonic() - started,
            "written": utc_now(),
        }
        done.append(record)
        records.write(folder, done)
        say(_line(name, record))
    step(1 + len(checkpoints), 1 + len(checkpoints))
    return failed


def _is_stale(record: dict[str, Any], checkpoints: list[Checkpoint]) -> bool:
    """Whether another checkpoint has taken the name of the evaluated one. One that is gone keeps its record."""
    twins = [checkpoint for checkpoint in checkpoints if checkpoint.name == record["checkpoint"]]
    return any(
        sha256_of(twin.weights) != record.get("sha256") or twin.epoch != record["epoch"] for twin in twins
    )


def _line(name: str, record: dict[str, Any]) -> str:
    values = record["overall"]
    return (
        f"{name}: {record['checkpoint']}, epoch {record['epoch']}: reward {values['reward']:.4g}, accuracy "
        f"{values['accuracy']:.3f}, diversity {values['diversity']:.3f}, Fréchet distance {values['frechet']:.3f} "
        f"({record['seconds']:.0f} s)"
    )


def base_samples(subject: Subject, request: Request, digest: str) -> Samples:
    """The base model's samples: those kept beside the run folders, else drawn and kept there."""
    cache = subject.run.path.parent / CACHE / f"base-{digest[:16]}.safetensors"
    with held(cache.with_suffix(".lock"), f"{cache.parent} is in use", wait=True):
        kept = samples.restore(cache, subject.settings, subject.loader.reader)
        if kept is None:
            kept = subject.draw(request, None)
            samples.save(cache, kept, subject.settings)
        return kept
