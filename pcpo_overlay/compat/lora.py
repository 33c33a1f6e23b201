"""Low-rank adaptation of attention in the form diffusers 0.17 had it, for libraries that dropped it.

Names of parameters, initialisation (Hu et al., 2022) and rank are those a checkpoint of that version has.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class LoRALayer(nn.Module):
    """``x -> up(down(x))`` with rank-``r`` factors; ``up`` starts at zero, so the layer starts as nothing."""

    def __init__(self, in_features: int, out_features: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(in_features, rank, bias=False)
        self.up = nn.Linear(rank, out_features, bias=False)
        nn.init.normal_(self.down.weight, std=1 / rank)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features), computed in the factors' dtype, returned in ``x``'s."""
        return self.up(self.down(x.to(self.down.weight.dtype))).to(x.dtype)


class LoRAAttnProcessor(nn.Module):
    """Attention processor of a diffusers UNet whose four projections each have a low-rank addition.

    Args:
        hidden_size: width of the attention block.
        cross_attention_dim: width of the text states, None for self-attention.
        rank: rank of the additions.
    """

    def __init__(self, hidden_size: int, cross_attention_dim: int | None = None, rank: int = 4) -> None:
        super().__init__()
        context = cross_attention_dim or hidden_size
        self.hidden_size, self.cross_attention_dim, self.rank = hidden_size, cross_attention_dim, rank
        self.to_q_lora = LoRALayer(hidden_size, hidden_size, rank)
        self.to_k_lora = LoRALayer(context, hidden_size, rank)
        self.to_v_lora = LoRALayer(context, hidden_size, rank)
        self.to_out_lora = LoRALayer(hidden_size, hidden_size, rank)

    def forward(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attention of Stable Diffusion 1.x: (B, tokens, hidden_size) in and out.

        Raises:
            ValueError: a block that normalises or masks in ways SD 1.x does not.
        """
        if attention_mask is not None or attn.group_norm is not None or attn.spatial_norm is not None:
            raise ValueError(
                "this LoRA processor is for the attention of Stable Diffusion 1.x: no mask, no group norm"
            )
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q = attn.to_q(hidden_states) + self.to_q_lora(hidden_states)
        k = attn.to_k(context) + self.to_k_lora(context)
        v = attn.to_v(context) + self.to_v_lora(context)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, scale=attn.scale).transpose(1, 2).flatten(2)
        out = attn.to_out[0](out) + self.to_out_lora(out)
        return attn.to_out[1](out)


def lora_layers(unet: Any) -> dict[str, LoRAAttnProcessor]:
    """The LoRA processors of a UNet by name; empty where it has none of ours."""
    return {n: p for n, p in unet.attn_processors.items() if isinstance(p, LoRAAttnProcessor)}


def load_lora(unet: Any, state: dict[str, Tensor]) -> None:
    """Give a UNet the LoRA processors of a saved state, keyed ``<processor name>.<parameter>``.

    Raises:
        ValueError: processors in the file that the UNet does not have, or the reverse.
    """
    by_processor: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, value in state.items():
        name, _, parameter = key.partition(".processor.")
        by_processor[f"{name}.processor"][parameter] = value
    if by_processor.keys() != unet.attn_processors.keys():
        odd = sorted(by_processor.keys() ^ unet.attn_processors.keys())
        raise ValueError(
            f"the LoRA file does not fit this UNet; processors in one of them alone: {', '.join(odd[:4])}"
        )
    processors = {}
    for name, parameters in by_processor.items():
        rank, hidden_size = parameters["to_q_lora.down.weight"].shape
        context = parameters["to_k_lora.down.weight"].shape[1]
        cross = None if name.endswith("attn1.processor") else context
        processors[name] = LoRAAttnProcessor(hidden_size, cross, rank)
        processors[name].load_state_dict(parameters)
    unet.set_attn_processor(processors)
