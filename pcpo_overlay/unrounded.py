"""What Flow-GRPO's sampler rounds and its training does not, so that on-policy ratios are exactly 1 in half precision.

The sampler keeps guidance and latents in the dtype of the text embeddings. The training computes guidance in float32
from the same network outputs, and takes latents that were never rounded. Two of these are set right here for
prediction matching; the sampler itself is never changed:

- the policy that is trained predicts the float32 guided velocity, so that is what the tape keeps, together with the
  noise that leads to the drawn sample from *its* mean;
- the network saw rounded latents, so those are what the trainer gets to train on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pcpo_overlay import losses


class UnroundedGuidance:
    """Sees the network's outputs during a rollout and redoes the guidance as training does it."""

    def __init__(self, network: torch.nn.Module, guidance_scale: float) -> None:
        self._scale = guidance_scale
        self._output: Tensor | None = None
        self._handle = network.register_forward_hook(self._see)

    def _see(self, network: torch.nn.Module, args: Any, output: Any) -> None:
        self._output = output[0]

    def close(self) -> None:
        """Stop listening; the rollout is over."""
        self._handle.remove()
        self._output = None

    def as_trained(self, pred: Tensor, z: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction and noise of the step just sampled, under the policy in training's precision.

        Args:
            pred: (B, ...) float32, the prediction that the sampler used.
            z: (B, ...) float32, the noise it drew.
            w: (B,) native weights of the step, ``w = c/s``.

        Returns:
            ``pred`` computed in float32, and ``z`` such that mean and noise still add up to the drawn sample. Both as
            they were where the sampler did not guide.
        """
        output, self._output = self._output, None
        if output is None or output.shape[0] != 2 * pred.shape[0]:
            return pred, z
        unconditional, conditional = losses.at_least_float32(output).chunk(2)
        trained = unconditional + self._scale * (conditional - unconditional)
        # mean(pred) = ... - c*pred, so the sample lies w*(trained - pred) stds further from the trained mean.
        return trained, z - losses.expand_to(w, pred) * (pred - trained)


def seen_latents(sample: dict[str, Any]) -> Tensor:
    """(B, steps, ...) latents as the network saw them: in the dtype of the text embeddings."""
    latents: Tensor = sample["latents"]
    return latents.to(sample["prompt_embeds"].dtype)
