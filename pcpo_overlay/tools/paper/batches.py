"""From Table 7's images and updates per iteration to what each upstream is told, on any number of GPUs, and back.

No upstream is told these two numbers. Each has its own product of batch sizes, counts and processes for the images, and
its own gradient accumulation for the updates. ``flags_for`` solves for them, with upstream's sizes per GPU kept;
``batch_of`` says what flags come to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pcpo_overlay.tools.paper.table import Configuration

Flags = Mapping[str, int]


@dataclass(frozen=True)
class Batch:
    """One iteration.

    Attributes:
        images: generated, over all GPUs.
        updates: optimizer steps.
        prompts: distinct prompts; None for DDPO, which draws one for every image.
        images_from, updates_from: the first two written out.
    """

    images: int
    updates: int
    prompts: int | None
    images_from: str
    updates_from: str


@dataclass(frozen=True)
class Arithmetic:
    """One upstream's arithmetic.

    Attributes:
        flags_for: the flags that make a configuration's batch on so many GPUs; None where that does not divide.
        batch_of: what flags come to on so many GPUs.
    """

    flags_for: Callable[[Configuration, int], Flags | None]
    batch_of: Callable[[Flags, int], Batch]


def _split(total: int | None, *divisors: int) -> int | None:
    """The quotient, or None where it is no whole number."""
    for divisor in divisors:
        if total is None or total % divisor:
            return None
        total //= divisor
    return total or None


def _whole(**flags: int | None) -> Flags | None:
    """Flags by their names with ``.`` as ``__``, or None where one has no whole value."""
    whole = {f"--{name.replace('__', '.')}": value for name, value in flags.items() if value is not None}
    return whole if len(whole) == len(flags) else None


def _per_update(images: int, gpus: int, flags: Flags) -> tuple[int, str]:
    size, accumulated = (
        flags["--config.train.batch_size"],
        flags["--config.train.gradient_accumulation_steps"],
    )
    updates = images // (gpus * size * accumulated)
    return updates, f"{images} / ({on_gpus(gpus)} x {size} images x {accumulated} accumulated) = {updates}"


def on_gpus(gpus: int) -> str:
    """1 GPU, 2 GPUs."""
    return f"{gpus} GPU{'' if gpus == 1 else 's'}"


# ------------------------------------------------------------ ddpo-pytorch


def _ddpo_flags(paper: Configuration, gpus: int) -> Flags | None:
    size, train_size = 8, 4
    per_gpu = _split(paper.whole("images_per_iteration"), gpus)
    return _whole(
        config__sample__batch_size=size,
        config__sample__num_batches_per_epoch=_split(per_gpu, size),
        config__train__batch_size=train_size,
        config__train__gradient_accumulation_steps=_split(per_gpu, train_size, paper.whole("updates")),
    )


def _ddpo_batch(flags: Flags, gpus: int) -> Batch:
    size, batches = flags["--config.sample.batch_size"], flags["--config.sample.num_batches_per_epoch"]
    images = gpus * size * batches
    updates, updates_from = _per_update(images, gpus, flags)
    images_from = f"{on_gpus(gpus)} x {size} images x {batches} batches = {images}"
    return Batch(images, updates, None, images_from, updates_from)


#: Batches of 8 images in sampling and of 4 in training, as in ``config/dgx.py``.
DDPO = Arithmetic(_ddpo_flags, _ddpo_batch)


# --------------------------------------- DanceGRPO on Stable Diffusion


def _dance_sd_flags(paper: Configuration, gpus: int) -> Flags | None:
    generations = paper.whole("images_per_prompt")
    prompts = _split(paper.whole("prompts_per_iteration"), gpus)
    train_size = None if prompts is None else min(4, prompts)
    if prompts is None or train_size is None or prompts % train_size:
        return None
    return _whole(
        config__sample__batch_size=prompts,
        config__num_generations=generations,
        config__train__batch_size=train_size,
        config__train__gradient_accumulation_steps=_split(
            prompts * generations, train_size, paper.whole("updates")
        ),
    )


def _dance_sd_batch(flags: Flags, gpus: int) -> Batch:
    prompts, generations = flags["--config.sample.batch_size"], flags["--config.num_generations"]
    images = gpus * prompts * generations
    updates, updates_from = _per_update(images, gpus, flags)
    images_from = f"{on_gpus(gpus)} x {prompts} prompts x {generations} images = {images}"
    return Batch(images, updates, gpus * prompts, images_from, updates_from)


#: The sampling batch counts prompts, the training batch, at most 4, counts images and divides the sampling batch.
DANCE_SD = Arithmetic(_dance_sd_flags, _dance_sd_batch)


# ------------------------------------------------- DanceGRPO on FLUX


def _dance_flux_flags(paper: Configuration, gpus: int) -> Flags | None:
    generations = paper.whole("images_per_prompt")
    prompts = _split(paper.whole("prompts_per_iteration"), gpus)
    return _whole(
        train_batch_size=prompts,
        # the same again: where it is smaller, the loader cuts a batch up without its captions
        train_sp_batch_size=prompts,
        num_generations=generations,
        gradient_accumulation_steps=_split((prompts or 0) * generations, paper.whole("updates")),
    )


def _dance_flux_batch(flags: Flags, gpus: int) -> Batch:
    prompts, generations = flags["--train_batch_size"], flags["--num_generations"]
    accumulated = flags["--gradient_accumulation_steps"]
    images = gpus * prompts * generations
    updates = prompts * generations // accumulated
    return Batch(
        images,
        updates,
        gpus * prompts,
        f"{on_gpus(gpus)} x {prompts} prompts x {generations} images = {images}",
        f"{prompts * generations} images per GPU / {accumulated} accumulated = {updates}",
    )


#: A GPU trains its images one by one and steps after every so many.
DANCE_FLUX = Arithmetic(_dance_flux_flags, _dance_flux_batch)


# -------------------------------------------------------------- flow_grpo


def _flow_flags(paper: Configuration, gpus: int) -> Flags | None:
    size = 8
    group = paper.whole("images_per_prompt")
    if gpus * size % group:  # all GPUs' batches together have to hold whole groups
        return None
    batches = _split(paper.whole("images_per_iteration"), gpus, size)
    return _whole(
        config__sample__train_batch_size=size,
        config__sample__num_image_per_prompt=group,
        config__sample__num_batches_per_epoch=batches,
        config__train__batch_size=size,
        config__train__gradient_accumulation_steps=_split(batches, paper.whole("updates")),
    )


def _flow_batch(flags: Flags, gpus: int) -> Batch:
    size, batches = flags["--config.sample.train_batch_size"], flags["--config.sample.num_batches_per_epoch"]
    images = gpus * size * batches
    updates, updates_from = _per_update(images, gpus, flags)
    images_from = f"{on_gpus(gpus)} x {size} images x {batches} batches = {images}"
    group = flags["--config.sample.num_image_per_prompt"]
    return Batch(images, updates, images // group, images_from, updates_from)


#: Batches of 8 images per GPU, as in the configurations for 1 and 4 GPUs of ``config/grpo.py``.
FLOW = Arithmetic(_flow_flags, _flow_batch)
