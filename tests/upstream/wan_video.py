"""A Wan 2.1 pipeline as small as its code allows, with random weights, in a folder that diffusers reads."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from dance import models


def build(folder: Path) -> None:
    """Write the pipeline's folder."""
    from diffusers import UniPCMultistepScheduler
    from transformers import UMT5Config, UMT5EncoderModel

    models.wan(folder)
    words = models.bytes_tokenizer(folder / "tokenizer")
    torch.manual_seed(31)
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_heads": 2, "num_layers": 1}
    UMT5EncoderModel(UMT5Config(vocab_size=words, **sizes)).save_pretrained(folder / "text_encoder")
    # as that of Wan2.1-T2V-1.3B-Diffusers
    UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "WanPipeline",
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
