"""LPIPS with AlexNet (Zhang et al., 2018), version 0.1: how different two pictures look.

``d(x, y) = sum_l mean_hw( w_l . (f_l(x) - f_l(y))^2 )`` over five layers, with each place's features of unit length.
The heads ``w_l`` are those that the `lpips` and `torchmetrics` packages ship; the layers are torchvision's AlexNet.
It stands here because `lpips` needs torchvision, which this project does without.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Of each layer: its number in torchvision's ``features``, channels in and out, kernel, stride, padding.
LAYERS = (
    (0, 3, 64, 11, 4, 2),
    (3, 64, 192, 5, 1, 2),
    (6, 192, 384, 3, 1, 1),
    (8, 384, 256, 3, 1, 1),
    (10, 256, 256, 3, 1, 1),
)
#: Layers before which the size is halved.
POOLED = (3, 6)
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class Lpips(nn.Module):
    """Features of pictures, and the distance of two pictures' features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({str(n): nn.Conv2d(i, o, k, s, p) for n, i, o, k, s, p in LAYERS})
        self.heads = nn.ParameterList([torch.zeros(o) for _, _, o, *_ in LAYERS])

    def load(self, network: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> None:
        """Take torchvision's AlexNet and the published heads, ``lin0.model.1.weight`` (1, C, 1, 1) and so on.

        Raises:
            KeyError, RuntimeError: they are others.
        """
        of_layers = {
            f"{n}.{kind}": network[f"features.{n}.{kind}"] for n, *_ in LAYERS for kind in ("weight", "bias")
        }
        self.layers.load_state_dict(of_layers)
        with torch.no_grad():
            for number, head in enumerate(self.heads):
                head.copy_(heads[f"lin{number}.model.1.weight"].flatten())

    def features(self, pictures: Tensor) -> list[Tensor]:
        """Of (N, 3, H, W) uint8, of each layer (N, C, h, w) with unit length over C."""
        like = self.heads[0]
        x = pictures.to(like.dtype) / 127.5 - 1
        x = (x - like.new_tensor(SHIFT)[:, None, None]) / like.new_tensor(SCALE)[:, None, None]
        found = []
        for number, layer in self.layers.items():
            x = F.relu(layer(F.max_pool2d(x, 3, 2) if int(number) in POOLED else x))
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    def distance(self, one: list[Tensor], other: list[Tensor]) -> Tensor:
        """(N,) of N pairs, from :meth:`features`."""
        total = one[0].new_zeros(len(one[0]))
        for a, b, head in zip(one, other, self.heads, strict=True):
            total = total + torch.einsum("nchw,c->nhw", (a - b).square(), head).mean((1, 2))
        return total
