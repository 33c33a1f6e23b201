"""The paper's prompt sampler: distinct prompts over an epoch, in whole groups, the same draw on every rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcpo_overlay.config import PCPOError
from pcpo_overlay.flow_grpo import UniquePrompts, epoch_prompts


def draw(texts: Sequence[str], epoch: int = 0, **changed: Any) -> torch.Tensor:
    arguments = {"images_per_prompt": 2, "batches": 3, "ranks": 2, "batch_size": 2, "seed": 42}
    return epoch_prompts(texts, **{**arguments, **changed}, epoch=epoch)


def texts(n: int) -> list[str]:
    return [f"prompt {i}" for i in range(n)]


@settings(max_examples=60, deadline=None)
@given(
    batches=st.integers(1, 5),
    ranks=st.integers(1, 4),
    batch_size=st.integers(1, 6),
    images=st.integers(1, 6),
    spare=st.integers(0, 20),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 1000),
)
def test_every_epoch_has_the_configured_number_of_distinct_prompts(
    batches: int, ranks: int, batch_size: int, images: int, spare: int, seed: int, epoch: int
) -> None:
    total = batches * ranks * batch_size
    if total % images:
        with pytest.raises(PCPOError, match="do not divide into groups"):
            draw(texts(total), images_per_prompt=images, batches=batches, ranks=ranks, batch_size=batch_size)
        return
    drawn = epoch_prompts(
        texts(total // images + spare),
        images_per_prompt=images,
        batches=batches,
        ranks=ranks,
        batch_size=batch_size,
        seed=seed,
        epoch=epoch,
    )
    assert drawn.shape == (batches, ranks, batch_size)
    counts = Counter(drawn.flatten().tolist())
    assert len(counts) == total // images
    assert set(counts.values()) == {images}


def test_the_draw_depends_on_seed_and_epoch_alone() -> None:
    assert torch.equal(draw(texts(50)), draw(texts(50)))
    others = [draw(texts(50), epoch=1), draw(texts(50), seed=43)]
    assert not any(torch.equal(draw(texts(50)), other) for other in others)
    assert not torch.equal(draw(texts(50), epoch=1), draw(texts(50), seed=43))


def test_equal_texts_count_once() -> None:
    drawn = draw(["a", "b", "a", "c", "b", "d", "e", "f", "a"])
    assert sorted(set(drawn.flatten().tolist())) == [0, 1, 3, 5, 6, 7]


def test_too_few_prompts_are_an_error_that_says_how_many() -> None:
    with pytest.raises(PCPOError, match="needs 6 different prompts, the dataset has 2"):
        draw(["a", "b", "a"])


class Dataset:
    prompts = texts(8)

    def __getitem__(self, i: int) -> dict[str, str]:
        return {"prompt": self.prompts[i]}

    @staticmethod
    def collate_fn(examples: list[dict[str, str]]) -> tuple[list[str], list[SimpleNamespace]]:
        return [e["prompt"] for e in examples], [SimpleNamespace() for _ in examples]


def test_ranks_share_an_epoch_between_them() -> None:
    settings = {"images_per_prompt": 2, "batches": 3, "ranks": 2, "batch_size": 2, "seed": 1}
    ranks = [iter(UniquePrompts(Dataset(), rank=r, **settings)) for r in range(2)]
    for _ in range(3):
        epoch = [next(rank)[0] for _ in range(3) for rank in ranks]
        assert set(Counter(prompt for batch in epoch for prompt in batch).values()) == {2}
        assert len({prompt for batch in epoch for prompt in batch}) == 6


def test_epochs_differ() -> None:
    loader = UniquePrompts(Dataset(), rank=0, images_per_prompt=2, batches=1, ranks=1, batch_size=4, seed=0)
    batches = [tuple(prompts) for prompts, _ in islice(loader, 8)]
    assert len(set(batches)) > 1


def test_what_is_impossible_is_said_before_the_first_epoch() -> None:
    with pytest.raises(PCPOError):
        UniquePrompts(Dataset(), rank=0, images_per_prompt=3, batches=1, ranks=1, batch_size=4, seed=0)


def test_the_images_of_a_prompt_lie_anywhere_in_an_epoch() -> None:
    drawn = draw(texts(50), images_per_prompt=4, batches=8, ranks=1, batch_size=4)
    assert any(len(set(batch)) > 1 for batch in drawn[:, 0].tolist())
