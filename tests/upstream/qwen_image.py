"""Pipelines of Qwen-Image and Qwen-Image-Edit as small as their code allows, with random weights, in the layout that
diffusers reads.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from dance import models

#: One token a byte, so that the template in front of a prompt has as many as the pipeline cuts off, and more.
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
HIDDEN = 32
#: References come in pixels that it divides; the part that resizes them to others takes no others than 0 to 255.
PATCH = 16


def tokenizer(folder: Path) -> Any:
    """Qwen's byte-level tokenizer without a merge."""
    from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer, bytes_to_unicode

    folder.mkdir(parents=True)
    words = [*bytes_to_unicode().values(), *SPECIAL]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    made = Qwen2Tokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        additional_special_tokens=list(SPECIAL[1:]),
    )
    made.save_pretrained(folder)
    return made


def text_encoder(folder: Path, tokens: Any) -> None:
    """Qwen2.5-VL with one layer of text and one of pictures."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(21)
    ids = {word: tokens.convert_tokens_to_ids(word) for word in SPECIAL}
    text = {
        "vocab_size": len(tokens), "hidden_size": HIDDEN, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "bos_token_id": None, "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"],
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": HIDDEN,
        "fullatt_block_indexes": [0], "patch_size": PATCH,
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    models.save(Qwen2_5_VLForConditionalGeneration(config), folder)


def adapter(folder: Path, transformer: Path) -> None:
    """A LoRA adapter of a transformer that changes what it predicts, as a trained one does."""
    from diffusers import QwenImageTransformer2DModel
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(22)
    network: Any = QwenImageTransformer2DModel.from_pretrained(transformer)
    config = LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, target_modules=["attn.to_q", "attn.to_v"])
    get_peft_model(network, config).save_pretrained(folder)


def build(folder: Path, edits: bool = False) -> Path:
    """Write the pipeline's folder, of Qwen-Image-Edit where it ``edits``, and a LoRA adapter into ``adapter`` of it."""
    from diffusers import FlowMatchEulerDiscreteScheduler
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    with torch.random.fork_rng(devices=[]):
        models.qwen_image(folder)
        tokens = tokenizer(folder / "tokenizer")
        text_encoder(folder / "text_encoder", tokens)
        adapter(folder / "adapter", folder / "transformer")
    # as Qwen-Image's own
    FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, shift_terminal=0.02, max_image_seq_len=8192
    ).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "QwenImagePipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "transformer": ["diffusers", "QwenImageTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLQwenImage"],
    }
    if edits:
        tokens.save_pretrained(folder / "processor")
        Qwen2VLImageProcessor(patch_size=PATCH, do_resize=False).save_pretrained(folder / "processor")
        index |= {"_class_name": "QwenImageEditPipeline", "processor": ["transformers", "Qwen2VLProcessor"]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


# ------------------------------------------- what a run of the editing trainer needs


def edit_small() -> None:
    """References of 32 pixels, where the pipeline takes 1024 whatever the resolution; and their processor without its
    part for videos, which needs torchvision. To be called before the script is run.
    """
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit
    from transformers import ProcessorMixin, Qwen2VLProcessor

    def without_videos(self: Any, image_processor: Any, tokenizer: Any, **kwargs: Any) -> None:
        self.image_token, self.video_token = SPECIAL[-2:]
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids(list(SPECIAL[-2:]))
        ProcessorMixin.__init__(self, image_processor, tokenizer)

    processor: Any = Qwen2VLProcessor
    processor.attributes = ["image_processor", "tokenizer"]
    processor.image_processor_class = "Qwen2VLImageProcessor"
    processor.__init__ = without_videos
    pipeline: Any = pipeline_qwenimage_edit
    calculate = pipeline.calculate_dimensions
    pipeline.calculate_dimensions = lambda area, ratio: calculate(area / 32**2, ratio)
