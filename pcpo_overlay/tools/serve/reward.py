"""The reward: what a vision-language model says of an image, compared with what was to be said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pcpo_overlay.tools.serve.protocol import Request, decode

if TYPE_CHECKING:
    from pcpo_overlay.tools.serve.bertscore import BERTScore
    from pcpo_overlay.tools.serve.vlm import VLM

T = TypeVar("T")


def make_reward(vlm: VLM, scorer: BERTScore) -> Callable[[Request], dict[str, list[list[Any]]]]:
    """What answers a request: ``outputs``, and, where answers came with it, ``precision``, ``recall`` and ``f1``.

    Each is a list of as many lists as there are images, of as many entries as the image has questions.
    """

    def reward(request: Request) -> dict[str, list[list[Any]]]:
        images = decode(request)
        asked = [(image, text) for image, row in zip(images, request.queries, strict=True) for text in row]
        said = vlm.answer([image for image, _ in asked], [text for _, text in asked])
        answer: dict[str, list[list[Any]]] = {"outputs": _by_image(said, request.queries)}
        if request.answers is not None:
            scores = scorer.score(said, [text for row in request.answers for text in row])
            answer |= {name: _by_image(column, request.queries) for name, column in scores._asdict().items()}
        return answer

    return reward


def _by_image(flat: Iterable[T], rows: Sequence[Sequence[str]]) -> list[list[T]]:
    entries = iter(flat)
    return [[next(entries) for _ in row] for row in rows]
