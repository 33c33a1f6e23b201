"""Stand-in for flash_attn.bert_padding: take the padding out of a batch, and put it back."""

from __future__ import annotations

import torch


def unpad_input(
    hidden_states: torch.Tensor, attention_mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int, torch.Tensor]:
    """Tokens under the mask end to end, their places, where each sequence begins, the longest, all lengths.

    Args:
        hidden_states: (B, S, ...).
        attention_mask: (B, S), true for tokens and false for padding.
    """
    lengths = attention_mask.sum(dim=-1, dtype=torch.int32)
    places = attention_mask.flatten().nonzero().flatten()
    begins = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    return hidden_states.flatten(0, 1)[places], places, begins, int(lengths.max()), lengths


def pad_input(hidden_states: torch.Tensor, indices: torch.Tensor, batch: int, seqlen: int) -> torch.Tensor:
    """The reverse: (B, S, ...) with zeros where padding was."""
    padded = hidden_states.new_zeros(batch * seqlen, *hidden_states.shape[1:])
    return padded.index_copy(0, indices, hidden_states).unflatten(0, (batch, seqlen))
