"""Stand-in for flash_attn, which runs on GPUs alone: attention over packed sequences by torch's own function."""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention


def flash_attn_varlen_qkvpacked_func(
    qkv: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
) -> torch.Tensor:
    """Attention within each of the sequences laid end to end.

    Args:
        qkv: (tokens of all sequences, 3, heads, channels).
        cu_seqlens: (sequences + 1,), where each sequence begins, and the end.

    Returns:
        (tokens of all sequences, heads, channels).
    """
    sequences = qkv.split(cu_seqlens.diff().tolist())
    attended = []
    for sequence in sequences:
        query, key, value = sequence.permute(1, 2, 0, 3).unbind(0)  # each (heads, tokens, channels)
        after = scaled_dot_product_attention(
            query, key, value, dropout_p=dropout_p, scale=softmax_scale, is_causal=causal
        )
        attended.append(after.transpose(0, 1))
    return torch.cat(attended)
