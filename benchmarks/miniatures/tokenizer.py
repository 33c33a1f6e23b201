"""A CLIP and a T5 tokenizer with vocabularies of our own: bytes, and what makes each word of ours one token.

Any other prompt falls back to pieces and bytes, so every string tokenizes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from pcpo_overlay.tools.miniature import PROMPTS

MAX_LENGTH = 16
"""Tokens of a padded prompt; equal to the text encoder's `max_position_embeddings`."""

START, END = "<|startoftext|>", "<|endoftext|>"


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins of byte-level BPE: printable Latin-1 stays, the rest moves above 255."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(rest))]


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, the most frequent pair first, until every word is one token.

    Ties go to the alphabetically first pair, so the result depends on the words alone.
    """
    split = [(*word[:-1], word[-1] + "</w>") for word in sorted(set(words))]
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for word in split for pair in pairwise(word))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = [_merge(word, best) for word in split]


def _merge(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for symbol in word:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return tuple(merged)


def vocabulary(prompts: Sequence[str] = PROMPTS) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token to id, and the merges in order. The end token is the last id and also pads, as in SD 1.x."""
    symbols = byte_symbols()
    merges = learn_merges(word for prompt in prompts for word in prompt.split())
    tokens = symbols + [symbol + "</w>" for symbol in symbols] + ["".join(pair) for pair in merges]
    tokens += [START, END]
    return {token: i for i, token in enumerate(tokens)}, merges


def write_tokenizer(folder: Path, *, max_length: int = MAX_LENGTH, prompts: Sequence[str] = PROMPTS) -> None:
    """Write the four files of a CLIPTokenizer into `folder`; prompts are padded and cut to `max_length` tokens.

    Every word of `prompts` is one token.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocab, merges = vocabulary(prompts)
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = {
        **special,
        "tokenizer_class": "CLIPTokenizer",
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": max_length,
    }
    _write_json(folder / "vocab.json", vocab)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(folder / "tokenizer_config.json", config)


T5_PAD, T5_END, T5_UNKNOWN = "<pad>", "</s>", "<unk>"
T5_MAX_LENGTH = 512
"""T5's own. SD3's callers give a length with each call: Flow-GRPO 128, diffusers 256."""


def t5_vocabulary() -> list[str]:
    """Pieces in the order of their ids: T5's three special ones, the bytes, a space, and a piece a word of ours."""
    words = sorted({word for prompt in PROMPTS for word in prompt.split()})
    return [
        *(T5_PAD, T5_END, T5_UNKNOWN),
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *(f"▁{word}" for word in words),
    ]


def write_t5_tokenizer(folder: Path) -> None:
    """Write the files of a T5TokenizerFast into `folder`: a unigram model, so that no SentencePiece is needed."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = t5_vocabulary()
    special = [T5_PAD, T5_END, T5_UNKNOWN]
    spaces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    end = [{"SpecialToken": {"id": T5_END, "type_id": 0}}]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **flags} for i, token in enumerate(special)],
        "normalizer": {"type": "NFKC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, spaces]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, *end],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                *end,
                {"Sequence": {"id": "B", "type_id": 0}},
                *end,
            ],
            "special_tokens": {T5_END: {"id": T5_END, "ids": [special.index(T5_END)], "tokens": [T5_END]}},
        },
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, spaces]},
        "model": {
            "type": "Unigram",
            "unk_id": special.index(T5_UNKNOWN),
            # log probabilities: the fewest pieces win
            "vocab": [[piece, 0.0 if piece in special else -1.0] for piece in pieces],
            "byte_fallback": True,
        },
    }
    names = {"eos_token": T5_END, "unk_token": T5_UNKNOWN, "pad_token": T5_PAD}
    config = {
        **names,
        "tokenizer_class": "T5TokenizerFast",
        "extra_ids": 0,
        "additional_special_tokens": [],
        "clean_up_tokenization_spaces": False,
        "model_max_length": T5_MAX_LENGTH,
    }
    _write_json(folder / "tokenizer.json", tokenizer)
    _write_json(folder / "special_tokens_map.json", names)
    _write_json(folder / "tokenizer_config.json", config)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
