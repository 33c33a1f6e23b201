"""What Flow-GRPO alone needs: undoing what its sampler rounds, and the paper's prompts of an epoch.

Its sampler computes guidance in the dtype of the text embeddings, its training in float32 from the same outputs of the
network. So that on-policy ratios are exactly 1 in half precision this is set right for prediction matching, and the
sampler itself is never changed: the policy that is trained predicts the float32 guided velocity, so that is what the
tape keeps, together with the noise that leads to the drawn sample from *its* mean. The sampler rounds latents too; so
does the autocast under which sampling and training both call the network, so the network sees the same.

Upstream draws each batch of prompts by itself, so a prompt can come again in another batch of the same epoch, and the
number of distinct prompts is then below the configured one (paper, Appendix B, "Miscellaneous Details");
:class:`UniquePrompts` draws them without repetition.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay import losses
from pcpo_overlay.config import PCPOError


class UnroundedGuidance:
    """Sees the network's outputs during a rollout and redoes the guidance as training does it."""

    def __init__(self, network: torch.nn.Module, guidance_scale: float) -> None:
        self._scale = guidance_scale
        self._output: Tensor | None = None
        self._handle = network.register_forward_hook(self._see)

    def _see(self, network: torch.nn.Module, args: Any, output: Any) -> None:
        self._output = output[0]

    def close(self) -> None:
        """Stop listening; the rollout is over."""
        self._handle.remove()
        self._output = None

    def as_trained(self, pred: Tensor, z: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction and noise of the step just sampled, under the policy in training's precision.

        Args:
            pred: (B, ...) float32, the prediction that the sampler used.
            z: (B, ...) float32, the noise it drew.
            w: (B,) native weights of the step, ``w = c/s``.

        Returns:
            ``pred`` computed in float32, and ``z`` such that mean and noise still add up to the drawn sample. Both as
            they were where the sampler did not guide.
        """
        output, self._output = self._output, None
        if output is None or output.shape[0] != 2 * pred.shape[0]:
            return pred, z
        unconditional, conditional = losses.at_least_float32(output).chunk(2)
        trained = unconditional + self._scale * (conditional - unconditional)
        # mean(pred) = ... - c*pred, so the sample lies w*(trained - pred) stds further from the trained mean.
        return trained, z - losses.expand_to(w, pred) * (pred - trained)


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
