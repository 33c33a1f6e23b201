"""ImageReward (Xu et al., 2023): BLIP reads the prompt with the picture before it, and linear layers give the score.

The package `image-reward` needs torchvision, old releases of timm and fairscale, and `clip` from its repository: an
environment of its own. Its network is BLIP's, which transformers has; here are its names, and its sizes are read from
the file itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay.tools.score import pixels
from pcpo_overlay.tools.score.clip import linear_layers

#: Of the scores on the data that ImageReward was trained on.
MEAN, STD = 0.16717362830052426, 1.0333394966054072
#: Tokens of a prompt, and numbers of a head of attention in both of BLIP's networks.
LENGTH, HEAD = 35, 64

_VISION = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm": "post_layernorm",
}
_IN_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


class ImageReward:
    """The score of a picture and its prompt, from the state of ``ImageReward.pt`` and BERT's tokenizer."""

    def __init__(self, state: Mapping[str, Tensor], tokenizer: Path, device: torch.device) -> None:
        """Build both networks in the sizes of the state.

        Raises:
            KeyError, RuntimeError, ValueError: it is no ImageReward's.
        """
        from transformers import (
            BertTokenizerFast,
            BlipTextConfig,
            BlipTextModel,
            BlipVisionConfig,
            BlipVisionModel,
        )

        vision = vision_state(_below(state, "blip.visual_encoder."))
        text = _below(state, "blip.text_encoder.")
        text.pop("embeddings.position_ids", None)
        width, _, patch, _ = vision["embeddings.patch_embedding.weight"].shape
        self.side = patch * round((vision["embeddings.position_embedding"].shape[1] - 1) ** 0.5)
        self.vision: Any = BlipVisionModel(
            BlipVisionConfig(
                hidden_size=width, intermediate_size=len(vision["encoder.layers.0.mlp.fc1.weight"]),
                num_hidden_layers=_layers(vision, "encoder.layers"), num_attention_heads=width // HEAD,
                image_size=self.side, patch_size=patch, layer_norm_eps=1e-6,
            )
        )  # fmt: skip
        words, inner = text["embeddings.word_embeddings.weight"].shape
        self.text: Any = BlipTextModel(
            BlipTextConfig(
                vocab_size=words, hidden_size=inner, encoder_hidden_size=width,
                intermediate_size=len(text["encoder.layer.0.intermediate.dense.weight"]),
                num_hidden_layers=_layers(text, "encoder.layer"), num_attention_heads=inner // HEAD,
                max_position_embeddings=len(text["embeddings.position_embeddings.weight"]),
            ),
            add_pooling_layer=False,
        )  # fmt: skip
        self.vision.load_state_dict(vision)
        self.text.load_state_dict(text)
        self.head = linear_layers(_below(state, "mlp."))
        for network in (self.vision, self.text, self.head):
            network.eval().to(device)
        self.tokenizer: Any = BertTokenizerFast.from_pretrained(str(tokenizer), local_files_only=True)

    @torch.no_grad()
    def __call__(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """(N,), of mean 0 and standard deviation 1 on ImageReward's own data."""
        device = self.vision.device
        seen = self.vision(pixels.clip(pictures, self.side).to(device)).last_hidden_state
        told = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
        ).to(device)
        read = self.text(
            told.input_ids, told.attention_mask, encoder_hidden_states=seen, use_cache=False, is_decoder=False
        ).last_hidden_state[:, 0]  # of the first token, BERT's [CLS]
        scores: Tensor = self.head(read.float())[:, 0]
        return ((scores - MEAN) / STD).cpu()


def vision_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of BLIP's vision transformer under transformers' names.

    Raises:
        ValueError: a name that it has not.
    """
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name)
        stem, _, kind = name.rpartition(".")
        if block and block[2] in _IN_BLOCK:
            found[f"encoder.layers.{block[1]}.{_IN_BLOCK[block[2]]}.{block[3]}"] = value
        elif name in _VISION:
            found[_VISION[name]] = value
        elif stem in _VISION:
            found[f"{_VISION[stem]}.{kind}"] = value
        else:
            raise ValueError(f"{name} is in no vision transformer of BLIP's")
    return found


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _layers(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({m[1] for name in state if (m := re.match(rf"{re.escape(prefix)}\.(\d+)\.", name))})
