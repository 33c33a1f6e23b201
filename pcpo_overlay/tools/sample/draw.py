"""Drawing what a folder lacks, alone or as one of several processes."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pcpo_overlay.record.provenance import versions
from pcpo_overlay.record.run_folder import utc_now
from pcpo_overlay.tools.checkpoints import found, policy
from pcpo_overlay.tools.checkpoints.weights import files_of
from pcpo_overlay.tools.faults import WrongArgument
from pcpo_overlay.tools.models import INDEX, find, read_index
from pcpo_overlay.tools.sample import SampleError, families, folder, guidance
from pcpo_overlay.tools.sample.folder import Folder, Picture
from pcpo_overlay.tools.sample.prompts import Prompts


@dataclass(frozen=True)
class Expert:
    """A policy to mix with the base model.

    Attributes:
        path: its checkpoint, as the user named it.
        strength: its lambda.
        guidance: its own guidance scale; None is that of all.
    """

    path: Path
    strength: float
    guidance: float | None = None


@dataclass(frozen=True)
class Request:
    """What to draw.

    Attributes:
        model: the base model, as :func:`pcpo_overlay.tools.models.find` takes it.
        prompts: the prompts.
        seeds: of each prompt's pictures; None is one picture a prompt, whose seed is the prompt's position.
        checkpoint: of the policy to draw from; None is the base model.
        experts: policies to mix with the base model.
        settings: of the sampler, those given; see :func:`pcpo_overlay.tools.sample.families.settle`.
        size: pixels of a side, or height and width; None is the model's own.
        drop_long: leave out the prompts that the model's CLIP tokenizer would cut.
        limit: take the first so many of the prompts.
        batch: pictures drawn at a time; see :func:`draw`.
        device, dtype: None is what fits.
    """

    model: str
    prompts: Prompts
    seeds: Sequence[int] | None = (0,)
    checkpoint: Path | None = None
    experts: Sequence[Expert] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    size: int | tuple[int, int] | None = None
    drop_long: bool = False
    limit: int | None = None
    batch: int = 1
    device: torch.device | None = None
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Share:
    """Which of several processes this one is, by what torchrun, accelerate or the user set in the environment."""

    rank: int
    of: int

    @classmethod
    def here(cls) -> Share:
        """This process's.

        Raises:
            WrongArgument: ``RANK`` or ``WORLD_SIZE`` is none.
        """
        try:
            share = cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
            if not 0 <= share.rank < share.of:
                raise ValueError
        except ValueError:
            raise WrongArgument(
                f"RANK={os.environ.get('RANK')} and WORLD_SIZE={os.environ.get('WORLD_SIZE')} name no process; "
                "start several with torchrun, or set both"
            ) from None
        return share

    def device(self) -> torch.device:
        """The GPU of this process on its machine; the CPU where there is none."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


def plan(prompts: Prompts, seeds: Sequence[int] | None) -> list[Picture]:
    """All pictures, by prompt and seed."""
    return [
        Picture(number, seed, text)
        for number, text in enumerate(prompts.texts)
        for seed in sorted(set((number,) if seeds is None else seeds))
    ]


def draw(
    request: Request,
    out: Path,
    share: Share,
    say: Callable[[str], None] = print,
    step: Callable[[int, int, str], None] = lambda done, total, told: None,
) -> tuple[Folder, bool]:
    """Draw the share of a folder's pictures that is yet to be drawn.

    A picture hangs on its prompt, its seed and the settings alone, bit for bit. Drawn one by one, that is all there is
    to it. What is drawn side by side is computed by other kernels, whose last bits differ with how many there are: now
    and then a pixel by 1 of 255. So a batch size other than 1 is a setting like the others, with the list of all
    pictures, and batches are cut from that list, not from what is left of it: neither the number of processes nor where
    an earlier command was stopped changes which pictures are side by side.

    Args:
        request: what to draw.
        out: the folder.
        share: which of several processes this is.
        say: takes a line of text.
        step: takes how many pictures are done, of how many, and how fast.

    Returns:
        The folder, and whether all pictures are there, those of the other processes too.

    Raises:
        Fault: a model, a checkpoint or the folder is not what it has to be.
        ImportError: a library is missing.
    """
    if request.checkpoint is not None and request.experts:
        raise WrongArgument(
            "--expert mixes with the base model; leave out --checkpoint, or make it an expert too"
        )
    model = find(request.model)
    device = request.device or share.device()
    pipeline, family, dtype = families.load(model, device, request.dtype)
    given = dict(request.settings)
    if request.model == "miniature-flux" and given.get("t5_length") is None:
        from pcpo_overlay.tools.miniature.flux import T5_LENGTH

        given["t5_length"] = T5_LENGTH  # of FLUX's 512 tokens it was shown these
    settings = families.settle(pipeline, family, given, request.size)
    prompts = request.prompts.fitting(pipeline.tokenizer) if request.drop_long else request.prompts
    prompts = prompts.first(request.limit)
    if prompts.left_out:
        say(f"{prompts.left_out} prompts are longer than the tokenizer takes, and left out")
    if not prompts.texts:
        raise SampleError(f"no prompt of {prompts.name} fits the tokenizer")
    checkpoint = None if request.checkpoint is None else found.named(request.checkpoint)
    experts = [(found.named(expert.path), expert) for expert in request.experts]
    decides = {
        "model_sha256": digest(_files_of(model)),
        "pipeline": type(pipeline).__name__,
        "checkpoint_sha256": None if checkpoint is None else digest(files_of(checkpoint.weights)),
        "experts": [
            {"sha256": digest(files_of(c.weights)), "lambda": e.strength, "guidance": e.guidance}
            for c, e in experts
        ],
        "sampler": {"name": type(pipeline.scheduler).__name__, **settings},
        "dtype": str(dtype).removeprefix("torch."),
        "prompts": {"sha256": prompts.sha256, "left_out": prompts.left_out},
    }
    wanted = plan(prompts, request.seeds)
    if request.batch > 1:
        of_all = hashlib.sha256(repr([(p.prompt, p.seed) for p in wanted]).encode()).hexdigest()
        decides["batch"] = {"size": request.batch, "pictures_sha256": of_all}
    names = {
        "model": request.model,
        "checkpoint": None if request.checkpoint is None else str(request.checkpoint),
        "experts": [str(expert.path) for expert in request.experts],
        "prompts": prompts.name,
    }
    start = {
        "time": utc_now(), "versions": versions(), "device": str(device), "rank": share.rank, "of": share.of
    }  # fmt: skip

    if checkpoint is not None:
        policy.put(pipeline, checkpoint)
        _move(pipeline, device, dtype)
    mixed = [guidance.Expert(guidance.expert_of(pipeline, c), e.strength, e.guidance) for c, e in experts]
    into = folder.begin(out, decides, names, start)
    with guidance.guided(pipeline, mixed, scale=settings["guidance"]):
        _draw(request, pipeline, family, settings, into, wanted, share, step)
    return into, folder.sort(into, wanted)


def _draw(
    request: Request,
    pipeline: Any,
    family: families.Family,
    settings: dict[str, Any],
    into: Folder,
    wanted: list[Picture],
    share: Share,
    step: Callable[[int, int, str], None],
) -> None:
    lacking = folder.missing(into, wanted)
    batches = [
        batch
        for n, batch in enumerate(_batches(wanted, request.batch))
        if n % share.of == share.rank and any(picture.file in lacking for picture in batch)
    ]
    total, done, began = sum(map(len, batches)), 0, time.monotonic()
    pipeline.set_progress_bar_config(disable=True)
    for batch in batches:
        step(done, total, _rate(done, total, time.monotonic() - began))
        images = families.pictures(
            pipeline, family, [p.text for p in batch], [p.seed for p in batch], settings
        )
        kept = [(p, image) for p, image in zip(batch, images, strict=True) if p.file in lacking]
        folder.keep(into, kept)
        done += len(batch)
    step(done, total, _rate(done, total, time.monotonic() - began))


def _batches(wanted: Sequence[Picture], size: int) -> Iterator[Sequence[Picture]]:
    for first in range(0, len(wanted), size):
        yield wanted[first : first + size]


def _rate(done: int, total: int, seconds: float) -> str:
    """How fast, and how much longer; of nothing done yet, nothing."""
    if not done or not seconds:
        return ""
    left = round((total - done) * seconds / done)
    return f"{done / seconds:.2f} a second, {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"


def _move(pipeline: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Factors come as they were saved; they are computed with as the network is."""
    getattr(pipeline, policy.trained_part(pipeline)).to(device=device, dtype=dtype)


def _files_of(model: Path) -> list[Path]:
    """What a pipeline is loaded from: its index and what lies in the folders that it names."""
    index = read_index(model, families.FAMILIES)
    parts = [
        name
        for name, part in index.items()
        if isinstance(part, list) and part[0] and name != "safety_checker"
    ]
    return [model / INDEX, *sorted(p for name in parts for p in (model / name).rglob("*") if p.is_file())]


def digest(files: Iterable[Path]) -> str:
    """SHA-256 of files' contents, one after the other; of a single file that file's own."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while piece := file.read(1 << 24):
                total.update(piece)
    return total.hexdigest()
