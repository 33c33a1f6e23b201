"""A Bagel as small as its code allows, with random weights: upstream's own model, tokenizer and autoencoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
}


def build(folder: Path) -> None:
    """Write what ``train_bagel.py`` reads; its package has to be importable, and its autoencoder small already."""
    from flow_grpo.bagel.modeling.autoencoder import load_ae
    from flow_grpo.bagel.modeling.bagel import Bagel, BagelConfig, Qwen2Config, Qwen2ForCausalLM
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    words = tokenizer(folder)
    (folder / "llm_config.json").write_text(json.dumps({**SIZES, "vocab_size": words}))
    config: Any = Qwen2Config.from_json_file(folder / "llm_config.json")
    config.qk_norm, config.tie_word_embeddings = True, False
    config.layer_module = "Qwen2MoTDecoderLayer"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(41)
        autoencoder, sizes = load_ae(None)
        model = Bagel(
            Qwen2ForCausalLM(config),
            None,
            BagelConfig(visual_und=False, llm_config=config, vae_config=sizes, max_latent_size=64),
        )
        with torch.no_grad():  # its last layer is zeros
            model.llm2vae.weight.normal_(std=0.1)
    save_file(dict(model.state_dict()), folder / "ema.safetensors")
    save_file(dict(autoencoder.state_dict()), folder / "ae.safetensors")


def tokenizer(folder: Path) -> int:
    """Qwen's byte-level tokenizer without a merge; its number of words, with those that upstream adds."""
    from transformers.models.qwen2.tokenization_qwen2 import bytes_to_unicode

    words = [*bytes_to_unicode().values(), "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return len(words) + 4
