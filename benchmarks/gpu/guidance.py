"""Guidance with experts at SD 1.5's size: images a second against the base pipeline, and how often a network is run."""

from __future__ import annotations

import copy
import random
import statistics
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.networks import LORA, networks
from benchmarks.gpu.part import Part, watched
from benchmarks.gpu.sizes import clocked
from benchmarks.measuring.loss_step import sd_scheduler
from benchmarks.measuring.machine import device
from benchmarks.measuring.pairs import alternate, ratio_of
from pcpo_overlay.tools.sample.guidance import Expert, guided

STEPS, BATCH, ROUNDS = 20, 4, 3
#: The strengths of two experts.
STRENGTHS = (0.7, 0.5)
NEEDED = 45


def run(part: Part) -> None:
    """The base pipeline, one expert and two, in turn."""
    if part.has(1 if part.tiny else NEEDED, what="guidance"):
        with watched(part, what="guidance"), torch.no_grad():
            _measure(part)


def _measure(part: Part) -> None:
    on = device()
    pipeline = _pipeline(part.tiny, on)
    experts = [Expert(_expert(pipeline.unet, seed), strength) for seed, strength in enumerate(STRENGTHS)]
    runs = {"base": 0, "expert": 0}
    pipeline.unet.register_forward_hook(lambda *_: runs.update(base=runs["base"] + 1))
    for expert in experts:
        expert.network.register_forward_hook(lambda *_: runs.update(expert=runs["expert"] + 1))
    steps, side = (2, 128) if part.tiny else (STEPS, 512)
    told = torch.full(
        (BATCH, 77, pipeline.unet.config.cross_attention_dim), 0.1, device=on, dtype=pipeline.unet.dtype
    )

    def draw(count: int) -> dict[str, int]:
        runs.update(base=0, expert=0)
        with guided(pipeline, experts[:count], scale=5.0):
            pipeline(
                prompt_embeds=told, negative_prompt_embeds=torch.zeros_like(told), num_inference_steps=steps,
                height=side, width=side, guidance_scale=5.0, output_type="latent",
                generator=torch.Generator(on).manual_seed(0),
            )  # fmt: skip
        return dict(runs)

    forwards = {f"{count} experts": draw(count) for count in (0, 1, 2)}
    arms = {f"{count} experts": clocked(partial(draw, count), on) for count in (0, 1, 2)}
    times = alternate(arms, 1 if part.tiny else ROUNDS, random.Random(0))
    base = times["0 experts"]
    part.keep(
        what="guidance",
        images_a_second={name: BATCH / statistics.median(taken) for name, taken in times.items()},
        ratios={name: str(ratio_of(taken, base)) for name, taken in times.items() if taken is not base},
        forwards=forwards,
        steps=steps,
        wrong=any(f != {"base": steps, "expert": steps * n} for n, f in enumerate(forwards.values())),
        tiny=part.tiny,
    )


def _expert(base: Any, seed: int) -> Any:
    """Low-rank factors with random weights, over the base network's own."""
    from peft import LoraConfig

    twin = copy.deepcopy(base, {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())})
    torch.manual_seed(seed)
    twin.add_adapter(LoraConfig(**LORA, init_lora_weights=False))
    return twin.to(base.device, base.dtype).eval()


def _pipeline(tiny: bool, on: torch.device) -> Any:
    """Stable Diffusion's, with SD 1.5's network and scheduler; prompts come as embeddings, and latents are the end."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline

    torch.manual_seed(0)
    unet = networks(tiny)[0].make(tiny).to(on, torch.float32 if on.type == "cpu" else torch.float16).eval()
    pipeline = StableDiffusionPipeline(
        AutoencoderKL(block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
                      up_block_types=("UpDecoderBlock2D",) * 4),
        None, None, unet, sd_scheduler(), None, None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
