"""Qwen2.5-VL: a short answer to a question about an image.

The text is the model's own chat form with one image, written out: transformers' processor of the same does no more, but
needs torchvision for its videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

_PAD = "<|image_pad|>"
CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>{pads}<|vision_end|>"
    "{question}<|im_end|>\n<|im_start|>assistant\n"
)


class VLM:
    """A Qwen2.5-VL that answers greedily.

    Args:
        model: its folder, or its name on the hub.
        device: where it runs; in bfloat16 on a GPU, in float32 on a CPU.
        tokens: the most that an answer may have.
        batch: questions at a time.
    """

    def __init__(self, model: str, device: torch.device, tokens: int = 64, batch: int = 16) -> None:
        import torch
        from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

        self.device, self.tokens, self.batch = device, tokens, batch
        self.dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        self.images = Qwen2VLImageProcessor.from_pretrained(model)
        # A prompt is continued at its right end, so shorter ones are filled up at the left.
        self.tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
        loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(model, torch_dtype=self.dtype)
        self.model = loaded.to(device).eval()

    def answer(self, images: Sequence[Image], questions: Sequence[str]) -> list[str]:
        """An answer to each question about the image of the same place."""
        import torch

        answers: list[str] = []
        with torch.inference_mode():
            for begin in range(0, len(images), self.batch):
                part = slice(begin, begin + self.batch)
                inputs = self.inputs(images[part], questions[part])
                # Of the model's own settings those that sample are off, and its repetition penalty stays.
                drawn = self.model.generate(
                    **inputs,
                    do_sample=False,
                    temperature=None,
                    top_p=None,
                    top_k=None,
                    max_new_tokens=self.tokens,
                )
                new = drawn[:, inputs["input_ids"].shape[1] :]
                answers += (
                    text.strip() for text in self.tokenizer.batch_decode(new, skip_special_tokens=True)
                )
        return answers

    def inputs(self, images: Sequence[Image], questions: Sequence[str]) -> dict[str, Any]:
        """What the model takes: token ids and mask (B, L), patches of all images (P, D) and their grids (B, 3)."""
        seen = self.images(images=list(images), return_tensors="pt")
        patches = seen["image_grid_thw"].prod(-1) // self.images.merge_size**2
        texts = [
            CHAT.format(pads=_PAD * count, question=question)
            for count, question in zip(patches.tolist(), questions, strict=True)
        ]
        tokens = self.tokenizer(texts, padding=True, return_tensors="pt")
        names = ("input_ids", "attention_mask")
        return {
            **{name: tokens[name].to(self.device) for name in names},
            "pixel_values": seen["pixel_values"].to(self.device, self.dtype),
            "image_grid_thw": seen["image_grid_thw"].to(self.device),
        }
