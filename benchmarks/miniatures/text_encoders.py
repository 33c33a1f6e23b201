"""The text encoders that the miniatures share, fitted to their tokenizers: CLIP and T5 with small numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.miniatures.tokenizer import T5_END, T5_PAD, t5_vocabulary, vocabulary
from pcpo_overlay.tools.miniature import PROMPTS, require


def clip_config(
    width: int,
    *,
    heads: int,
    length: int,
    feed_forward: int,
    activation: str = "quick_gelu",
    prompts: Sequence[str] = PROMPTS,
) -> Any:
    """A CLIPTextConfig of two layers.

    Args:
        width: of the states, and of the projection where the model has one.
        heads: of attention.
        length: most tokens of a prompt.
        feed_forward: width of the layers between.
        activation: transformers' name of it.
        prompts: of the tokenizer; see :func:`benchmarks.miniatures.tokenizer.write_tokenizer`.
    """
    require("transformers")
    from transformers import CLIPTextConfig

    vocab, _ = vocabulary(prompts)
    start, end = len(vocab) - 2, len(vocab) - 1
    return CLIPTextConfig(
        vocab_size=len(vocab),
        hidden_size=width,
        intermediate_size=feed_forward,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=heads,
        max_position_embeddings=length,
        hidden_act=activation,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
    )


def build_t5(width: int) -> Any:
    """A fresh T5EncoderModel of two layers: token ids (N, tokens) to states (N, tokens, width)."""
    require("transformers")
    from transformers import T5Config, T5EncoderModel

    pieces = t5_vocabulary()
    config = T5Config(
        vocab_size=len(pieces),
        d_model=width,
        d_kv=16,
        d_ff=2 * width,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        tie_word_embeddings=False,
        use_cache=False,
        pad_token_id=pieces.index(T5_PAD),
        eos_token_id=pieces.index(T5_END),
    )
    return T5EncoderModel(config)
