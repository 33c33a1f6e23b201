"""The Inception network of FID and IS: Inception v3 as TensorFlow's release of 2015-12-05 has it.

It differs from torchvision's: average pools leave padding out of the mean, the last block pools by the maximum,
pictures are resized as TensorFlow 1 did, and there are 1,008 classes. Parameters have the names of the file of weights
that pytorch-fid and torch-fidelity publish. It stands here because both libraries need torchvision, which this project
does without.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE, FEATURES, CLASSES = 299, 2048, 1008


class Conv(nn.Module):
    """Convolution, batch normalisation, ReLU; where ``same``, of the size of the input."""

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int], stride: int = 1, same: bool = True
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if same else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Fork(nn.Module):
    """A row and a column of three weights side by side, of the same input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.a, self.b = Conv(inputs, outputs, (1, 3)), Conv(inputs, outputs, (3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.a(x), self.b(x)], 1)


#: A stage of a branch: channels and kernel (0 is a fork), and whether it halves the size.
Stage = tuple[int, int, int] | tuple[int, int, int, bool]


class Block(nn.Module):
    """Branches side by side, the last of them of the pooled input; outputs are one after the other in the channels."""

    def __init__(self, inputs: int, branches: dict[str, Sequence[Stage]], pool: str) -> None:
        super().__init__()
        self.pool = pool
        self.stages: list[list[str]] = []
        for branch, stages in branches.items():
            names: list[str] = []
            channels = inputs
            for number, (outputs, height, width, *halves) in enumerate(stages, 1):
                name = branch if len(stages) == 1 else f"{branch}_{number}"
                stage: nn.Module = Fork(channels, outputs)
                if height:
                    stage = Conv(channels, outputs, (height, width), *((2, False) if halves else ()))
                self.add_module(name, stage)
                names.append(name)
                channels = outputs * (1 if height else 2)
            self.stages.append(names)

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for names in self.stages:
            y = self._pooled(x) if names == ["branch_pool"] else x
            for name in names:
                y = getattr(self, name)(y)
            outputs.append(y)
        return torch.cat(outputs if ["branch_pool"] in self.stages else [*outputs, self._pooled(x)], 1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "halve":
            return F.max_pool2d(x, 3, 2)
        if self.pool == "max":
            return F.max_pool2d(x, 3, 1, 1)
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _a(inputs: int, pool: int) -> Block:
    branches: dict[str, Sequence[Stage]] = {
        "branch1x1": [(64, 1, 1)],
        "branch5x5": [(48, 1, 1), (64, 5, 5)],
        "branch3x3dbl": [(64, 1, 1), (96, 3, 3), (96, 3, 3)],
        "branch_pool": [(pool, 1, 1)],
    }
    return Block(inputs, branches, "average")


def _b() -> Block:
    return Block(
        288,
        {"branch3x3": [(384, 3, 3, True)], "branch3x3dbl": [(64, 1, 1), (96, 3, 3), (96, 3, 3, True)]},
        "halve",
    )


def _c(width: int) -> Block:
    branches: dict[str, Sequence[Stage]] = {
        "branch1x1": [(192, 1, 1)],
        "branch7x7": [(width, 1, 1), (width, 1, 7), (192, 7, 1)],
        "branch7x7dbl": [(width, 1, 1), (width, 7, 1), (width, 1, 7), (width, 7, 1), (192, 1, 7)],
        "branch_pool": [(192, 1, 1)],
    }
    return Block(768, branches, "average")


def _d() -> Block:
    branches: dict[str, Sequence[Stage]] = {
        "branch3x3": [(192, 1, 1), (320, 3, 3, True)],
        "branch7x7x3": [(192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3, True)],
    }
    return Block(768, branches, "halve")


def _e(inputs: int, pool: str) -> Block:
    branches: dict[str, Sequence[Stage]] = {
        "branch1x1": [(320, 1, 1)],
        "branch3x3": [(384, 1, 1), (384, 0, 0)],
        "branch3x3dbl": [(448, 1, 1), (384, 3, 3), (384, 0, 0)],
        "branch_pool": [(192, 1, 1)],
    }
    return Block(inputs, branches, pool)


class Inception(nn.Module):
    """Pictures (N, 3, H, W) uint8 to features (N, 2048) and logits (N, 1008), these without their bias."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, (3, 3), 2, False)
        self.Conv2d_2a_3x3 = Conv(32, 32, (3, 3), 1, False)
        self.Conv2d_2b_3x3 = Conv(32, 64, (3, 3))
        self.Conv2d_3b_1x1 = Conv(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = Conv(80, 192, (3, 3), 1, False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _a(192, 32), _a(256, 64), _a(288, 64)
        self.Mixed_6a = _b()
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = _c(128), _c(160), _c(160), _c(192)
        self.Mixed_7a = _d()
        self.Mixed_7b, self.Mixed_7c = _e(1280, "average"), _e(2048, "max")
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        x = (resized(pictures.to(self.fc.weight.dtype), SIDE) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        features = x.mean((2, 3))
        return features, features @ self.fc.weight.T

    def load(self, state: dict[str, Tensor]) -> None:
        """Take the published weights, which name the halves of a fork ``..._2a`` and ``..._2b``."""
        fork = re.compile(r"(branch3x3(?:dbl)?_\d)([ab])\.")
        self.load_state_dict({fork.sub(r"\1.\2.", name): value for name, value in state.items()})


def resized(x: Tensor, side: int) -> Tensor:
    """Bilinear resize as TensorFlow 1 has it: pixel ``i`` of the new picture lies at ``i * old / new`` of the old."""
    for dim in (2, 3):
        old = x.shape[dim]
        place = torch.arange(side, device=x.device, dtype=torch.float32) * (old / side)
        low = place.floor().long().clamp(max=old - 1)
        part = (place - low).to(x.dtype)
        part = part[:, None] if dim == 2 else part
        here, there = x.index_select(dim, low), x.index_select(dim, (low + 1).clamp(max=old - 1))
        x = here + (there - here) * part
    return x
