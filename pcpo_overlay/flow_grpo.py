"""What Flow-GRPO alone needs: the paper's prompts of an epoch.

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
