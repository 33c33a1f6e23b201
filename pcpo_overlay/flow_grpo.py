"""What Flow-GRPO alone needs: the network's inputs as they were sampled with, and the paper's prompts of an epoch.

Its FLUX trainers give the network in training what it was not given in sampling: a view of the samples, which a linear
layer in half precision computes other last bits from, and a timestep that the sampler had rounded before it divided it.
On-policy predictions then differ, and with them every ratio; :class:`AsSampled` gives it the sampler's.

Upstream draws each batch of prompts by itself, so a prompt can come again in another batch of the same epoch, and the
number of distinct prompts is then below the configured one (paper, Appendix B, "Miscellaneous Details");
:class:`UniquePrompts` draws them without repetition.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay.config import PCPOError


class AsSampled:
    """Gives a network in training what its sampler gave it: the samples in one piece, and the sampler's timestep.

    Nothing is changed in sampling, nor in evaluation, nor where the two agree.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        self._seen: Tensor | None = None
        self._sampled: Tensor | None = None
        self._training: Tensor | None = None
        network.register_forward_pre_hook(self._give, with_kwargs=True)

    def _give(
        self, network: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._training is None:
            self._seen = kwargs["timestep"][:1]
            return None
        hidden = kwargs["hidden_states"].contiguous()
        return args, {**kwargs, "hidden_states": hidden, "timestep": self._training}

    def sampled(self, row: Tensor, steps: int) -> None:
        """The step at ``row`` (1,) or (B,) of a schedule was sampled: keep the timestep that the network was given."""
        if self._seen is None:
            return
        if self._sampled is None or self._sampled.numel() != steps:
            self._sampled = self._seen.new_zeros(steps)
        self._sampled.index_copy_(0, row[:1], self._seen)
        self._seen = None

    def trains(self, row: Tensor | None) -> None:
        """The steps at ``row`` (B,) are about to be trained; with None, no step any more."""
        self._training = None if row is None or self._sampled is None else self._sampled[row]


def epoch_prompts(
    texts: Sequence[str],
    *,
    images_per_prompt: int,
    batches: int,
    ranks: int,
    batch_size: int,
    seed: int,
    epoch: int,
) -> Tensor:
    """Draw the prompts of one epoch, the same on every rank.

    ``batches*ranks*batch_size/images_per_prompt`` prompts of different text, each ``images_per_prompt`` times, in
    random order over the whole epoch. A prompt's images may thus lie in several batches and on several ranks; the
    trainer normalises rewards over the epoch.

    Args:
        texts: the dataset's prompts; of those with equal text only the first is drawn.
        seed, epoch: the draw depends on these two alone.

    Returns:
        (batches, ranks, batch_size) int64 positions in ``texts``.

    Raises:
        PCPOError: the samples do not divide into groups, or there are too few different prompts.
    """
    total = batches * ranks * batch_size
    if total % images_per_prompt:
        raise PCPOError(
            f"unique_prompts: {total} samples an epoch ({batches} batches on {ranks} ranks of {batch_size}) do not "
            f"divide into groups of {images_per_prompt}; change sample.num_batches_per_epoch or "
            "sample.num_image_per_prompt"
        )
    count = total // images_per_prompt
    first = (
        torch.tensor(list({text: i for i, text in reversed(list(enumerate(texts)))}.values())).sort().values
    )
    if count > first.numel():
        raise PCPOError(
            f"unique_prompts: an epoch needs {count} different prompts, the dataset has {first.numel()}; raise "
            "sample.num_image_per_prompt, or train on fewer samples an epoch"
        )
    # Seeds and epochs are mixed so that epoch e of seed s is not epoch e-1 of seed s+1.
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    drawn = first[torch.randperm(first.numel(), generator=generator)[:count]]
    repeated = drawn.repeat_interleave(images_per_prompt)
    return repeated[torch.randperm(total, generator=generator)].view(batches, ranks, batch_size)


class UniquePrompts:
    """In place of the trainer's dataloader: its batches for one rank, epoch after epoch, without end.

    Args:
        dataset: upstream's, with ``prompts`` (texts), ``__getitem__`` and ``collate_fn``.
        rank: of this process; the other arguments as for :func:`epoch_prompts`.
    """

    def __init__(self, dataset: Any, *, rank: int, **settings: int) -> None:
        self._dataset = dataset
        self._rank = rank
        self._settings = settings
        epoch_prompts(
            dataset.prompts, **settings, epoch=0
        )  # what is impossible is said before the first epoch

    def __iter__(self) -> Iterator[Any]:
        epoch = 0
        while True:
            for batch in epoch_prompts(self._dataset.prompts, **self._settings, epoch=epoch):
                yield self._dataset.collate_fn([self._dataset[i] for i in batch[self._rank].tolist()])
            epoch += 1
