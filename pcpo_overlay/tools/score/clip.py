"""Scores of a picture and its prompt by CLIP models, in transformers' own class.

=================  ==================================================================
CLIPScore          ``cos(image, text)``
PickScore          ``exp(logit_scale) * cos(image, text)``
HPSv2, HPSv2.1     ``cos(image, text)``, of ViT-H-14 with other weights
aesthetic          a row of linear layers on the image's features of unit length
=================  ==================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcpo_overlay.tools.score import pixels


class Clip:
    """A CLIP model with its tokenizer."""

    def __init__(self, folder: Path, see: Callable[[Tensor, int], Tensor] = pixels.clip) -> None:
        from transformers import CLIPModel, CLIPTokenizerFast

        self.model: Any = CLIPModel.from_pretrained(str(folder), local_files_only=True).eval()
        self.tokenizer: Any = CLIPTokenizerFast.from_pretrained(str(folder), local_files_only=True)
        self.side = int(self.model.config.vision_config.image_size)
        self.see = see

    def images(self, pictures: Tensor) -> Tensor:
        """Features of unit length (N, P)."""
        seen = self.see(pictures, self.side).to(self.model.device, self.model.dtype)
        found: Tensor = self.model.visual_projection(self.model.vision_model(seen).pooler_output)
        return F.normalize(found.float(), dim=-1)

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Features of unit length (N, P); a prompt is cut to the model's 77 tokens."""
        length = self.model.config.text_config.max_position_embeddings
        told = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).to(self.model.device)
        found: Tensor = self.model.text_projection(self.model.text_model(**told).pooler_output)
        return F.normalize(found.float(), dim=-1)

    @torch.no_grad()
    def cosine(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """(N,) in [-1, 1]."""
        different = list(dict.fromkeys(prompts))
        texts = self.texts(different)[[different.index(prompt) for prompt in prompts]]
        return (self.images(pictures) * texts).sum(-1).cpu()

    @torch.no_grad()
    def pick(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """PickScore (N,)."""
        return float(self.model.logit_scale.exp()) * self.cosine(pictures, prompts)


class Aesthetic:
    """A head on a CLIP model's image features: linear layers, one after the other, without anything in between."""

    def __init__(self, clip: Clip, head: Mapping[str, Tensor]) -> None:
        self.clip, self.layers = clip, linear_layers(head)

    @torch.no_grad()
    def __call__(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """(N,), from about 1 to 10; the prompts do not matter."""
        features = self.clip.images(pictures)
        scores: Tensor = self.layers.to(features.device)(features)
        return scores[:, 0].cpu()


def linear_layers(head: Mapping[str, Tensor]) -> nn.Sequential:
    """Linear layers, one after the other, from ``layers.N.weight`` and ``.bias``: dropouts have numbers in between.

    Raises:
        ValueError: there are none.
    """
    numbers = sorted({int(m[1]) for name in head if (m := re.fullmatch(r"layers\.(\d+)\.weight", name))})
    layers = nn.Sequential()
    for number in numbers:
        weight, bias = head[f"layers.{number}.weight"], head[f"layers.{number}.bias"]
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
    if not numbers:
        raise ValueError("the head holds no layers")
    return layers


#: Of open_clip's names, transformers'; ``{}`` is the layer's number.
_NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "logit_scale": "logit_scale",
}
_NORMS = {
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "ln_final": "text_model.final_layer_norm",
}
_TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_IN_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def from_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under open_clip's names under transformers'.

    Raises:
        ValueError: a name that no CLIP of open_clip's has.
    """
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if name in _NAMES:
            found[_NAMES[name]] = value
        elif name in _TRANSPOSED:
            found[_TRANSPOSED[name]] = value.T.contiguous()
        elif (norm := name.rpartition("."))[0] in _NORMS:
            found[f"{_NORMS[norm[0]]}.{norm[2]}"] = value
        elif m := re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", name):
            layer = f"{'vision' if m[1] else 'text'}_model.encoder.layers.{m[2]}"
            part, _, kind = m[3].replace("in_proj_", "in_proj.").rpartition(".")
            if part == "attn.in_proj":
                for which, third in zip("qkv", value.chunk(3), strict=True):
                    found[f"{layer}.self_attn.{which}_proj.{kind}"] = third
            elif part in _IN_LAYER:
                found[f"{layer}.{_IN_LAYER[part]}.{kind}"] = value
            else:
                raise ValueError(f"{name} is in no CLIP of open_clip's")
        elif name != "attn_mask":
            raise ValueError(f"{name} is in no CLIP of open_clip's")
    return found
