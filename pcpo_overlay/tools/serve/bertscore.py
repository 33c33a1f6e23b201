"""BERTScore of an answer against what was to be answered: precision, recall and F1, by the library ``bert-score``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pcpo_overlay.tools.faults import WrongArgument, told

if TYPE_CHECKING:
    import torch

#: Tokens that the encoders of the library's table have places for. Some tokenizers know of no limit.
_LENGTH = 512


class Scores(NamedTuple):
    """One number a pair."""

    precision: list[float]
    recall: list[float]
    f1: list[float]


class BERTScore:
    """An encoder, whose features of one layer are compared; no baseline is subtracted, no token weighted.

    Args:
        encoder: its folder, or its name on the hub.
        device: where it runs, in float32.
        layer: whose features are taken (default: by the library's table, which is asked for a folder by its last name).

    Raises:
        WrongArgument: the encoder has no such layer; or none was given, and the table has no such encoder.
    """

    def __init__(self, encoder: str, device: torch.device, layer: int | None = None) -> None:
        from bert_score import BERTScorer
        from bert_score.utils import model2layers

        by_name = {name.rpartition("/")[2]: known for name, known in model2layers.items()}
        self.layer = layer or model2layers.get(encoder) or by_name.get(Path(encoder).name)
        if self.layer is None:
            raise WrongArgument(f"bert-score's table has no layer for {encoder}; give --layer N")
        try:
            self._scorer = BERTScorer(
                model_type=encoder, num_layers=self.layer, device=str(device), use_fast_tokenizer=True
            )
        except AssertionError as error:  # the library's word for a layer that is not there
            raise WrongArgument(f"layer {self.layer} of {encoder}: {told(error)}; see --layer") from None
        tokenizer = self._scorer._tokenizer
        tokenizer.model_max_length = min(tokenizer.model_max_length, _LENGTH)

    def score(self, answers: Sequence[str], references: Sequence[str]) -> Scores:
        """Compare each answer with the reference of the same place; an answer of no words scores 0."""
        found = self._scorer.score(list(answers), list(references))
        return Scores(*(column.tolist() for column in found))
