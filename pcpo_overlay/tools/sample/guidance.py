"""Implicit reward guidance (Appendix F): at every step of the sampler, the base model's prediction mixed with experts'.

    eps = (1 - sum_k lambda_k) * eps_ref + sum_k lambda_k * eps_k

and the same with velocities. ``lambda = 0`` is the base model and ``lambda = 1`` of one expert the expert, bit for bit;
above 1 goes on beyond the expert. The pipeline stays as it is: a hook on its network returns the mix.

    from diffusers import StableDiffusionPipeline
    from pcpo_overlay.tools.checkpoints.found import named
    from pcpo_overlay.tools.sample.guidance import Expert, expert_of, guided

    pipeline = StableDiffusionPipeline.from_pretrained(...)
    aesthetic = expert_of(pipeline, named(Path("logs/run/checkpoints/checkpoint_4")))
    with guided(pipeline, [Expert(aesthetic, 0.7)]):
        image = pipeline("a cat").images[0]
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pcpo_overlay.tools.checkpoints import Checkpoint, policy
from pcpo_overlay.tools.faults import WrongArgument

#: Pipelines that draw the empty prompt and the prompt as the two halves of one batch.
SIDE_BY_SIDE = ("StableDiffusionPipeline", "StableDiffusion3Pipeline")


@dataclass(frozen=True)
class Expert:
    """A tuned network in the mix.

    Attributes:
        network: of the base network's kind; see :func:`expert_of`.
        strength: its lambda.
        scale: its own guidance scale; None is the pipeline's.
    """

    network: Any
    strength: float
    scale: float | None = None


def expert_of(pipeline: Any, checkpoint: Checkpoint) -> Any:
    """A checkpoint's policy beside the base model's network, which stays as it is.

    Of low-rank factors the weights below them are the base network's own, not a copy; a whole network is another one.

    Args:
        pipeline: with the base model's network in it.
        checkpoint: of a policy that began as it.

    Raises:
        CheckpointError: it cannot be read, or does not fit.
    """
    base = getattr(pipeline, policy.trained_part(pipeline))
    first = next(base.parameters())
    shared = [*base.parameters(), *base.buffers()] if checkpoint.lora else []
    trained = [(parameter, parameter.requires_grad) for parameter in base.parameters()]
    twin = policy.policy(copy.deepcopy(base, {id(tensor): tensor for tensor in shared}), checkpoint)
    for parameter, before in trained:  # which adding an adapter to the twin sets to False
        parameter.requires_grad_(before)
    return twin.to(device=first.device, dtype=first.dtype).eval()


@contextmanager
def guided(pipeline: Any, experts: Sequence[Expert], scale: float | None = None) -> Iterator[None]:
    """While this lasts, a pipeline draws from the mix of its network with experts.

    Args:
        pipeline: of diffusers', of Stable Diffusion 1.x, 3, FLUX or Qwen-Image.
        experts: the mix; without any the pipeline is as it was.
        scale: the guidance scale that the pipeline will be called with; needed where an expert has one of its own.

    Raises:
        WrongArgument: an expert has a guidance scale of its own that this pipeline cannot give it.
    """
    network = getattr(pipeline, policy.trained_part(pipeline))
    told = bool(getattr(network.config, "guidance_embeds", False))
    own = any(expert.scale is not None and expert.scale != scale for expert in experts)
    if own and not told:
        if type(pipeline).__name__ not in SIDE_BY_SIDE:
            raise WrongArgument(
                f"{type(pipeline).__name__} draws prompt and empty prompt apart, or has no guidance; its experts share "
                "one guidance scale"
            )
        if scale is None or scale <= 1:
            raise WrongArgument(
                "an expert's own guidance scale needs the empty prompt, which is drawn at a scale above 1 for all"
            )
    if not experts:
        yield
        return
    base_share = 1 - math.fsum(expert.strength for expert in experts)

    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        predictions = []
        for expert in experts:
            asked = kwargs
            if told and expert.scale is not None:
                asked = {**kwargs, "guidance": torch.full_like(kwargs["guidance"], expert.scale)}
            predictions.append(_prediction(expert.network(*args, **asked)))
        reference = _prediction(output)
        if own and not told:
            targets = [_guided(reference, scale)] + [
                _guided(p, scale if e.scale is None else e.scale)
                for p, e in zip(predictions, experts, strict=True)
            ]
            reference, *predictions = (torch.cat([target, target]) for target in targets)
        mixed = base_share * reference.float()
        for expert, prediction in zip(experts, predictions, strict=True):
            mixed = mixed + expert.strength * prediction.float()
        return _like(output, mixed.to(_prediction(output).dtype))

    handle = network.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _guided(prediction: Tensor, scale: float | None) -> Tensor:
    """What a pipeline makes of a network's two halves, without and with the prompt.

    The mix is then the same in both halves, and the pipeline's own guidance leaves it alone:
    ``u + g * (c - u)`` is ``u`` where ``c`` equals ``u``.
    """
    assert scale is not None
    without, with_prompt = prediction.chunk(2)
    return without + scale * (with_prompt - without)


def _prediction(output: Any) -> Tensor:
    tensor: Tensor = output[0] if isinstance(output, tuple) else output.sample
    return tensor


def _like(output: Any, tensor: Tensor) -> Any:
    if isinstance(output, tuple):
        return (tensor, *output[1:])
    return type(output)(sample=tensor)
