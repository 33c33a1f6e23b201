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


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    causal: bool = False,
) -> torch.Tensor:
    """Attention of packed queries to packed keys, sequence by sequence; flow_grpo's Bagel calls it.

    Args:
        q: (tokens of all sequences, heads, channels).
        k, v: the same, of as many heads or of fewer, each of which several heads of ``q`` share.
        cu_seqlens_q, cu_seqlens_k: (sequences + 1,), where each sequence begins, and the end.
        causal: a query sees no key behind it, the last query being at the last key.

    Returns:
        (tokens of all sequences, heads, channels).
    """
    parts = [x.split(n.diff().tolist()) for x, n in ((q, cu_seqlens_q), (k, cu_seqlens_k), (v, cu_seqlens_k))]
    attended = []
    for sequence in zip(*parts, strict=True):
        query, key, value = (x.transpose(0, 1) for x in sequence)  # each (heads, tokens, channels)
        sees = torch.ones(query.shape[1], key.shape[1], dtype=torch.bool)
        mask = sees.tril(key.shape[1] - query.shape[1]) if causal else None
        after = scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
        attended.append(after.transpose(0, 1))
    return torch.cat(attended)


def flash_attn_func(*args: object, **kwargs: object) -> torch.Tensor:
    """Imported by Bagel and never called.

    Raises:
        NotImplementedError: it was.
    """
    raise NotImplementedError("flash_attn_func has no stand-in")
