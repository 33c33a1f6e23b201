"""A ``--config`` file for flow_grpo's trainers of SD3 and FLUX: its own defaults, shrunk to the digits miniature.

    scripts/train_sd3.py --config <path of this file>[:REWARD] [--config.num_epochs=20 ...]

What a trainer other than ``train_sd3.py`` asks for besides is as in upstream's configurations of it.

REWARD is one of two:

- ``digit_probability`` (default, ours): the probability of the prompted digit under a classifier of real digits.
  Sampled without guidance, with which the miniature has nothing left to learn; the whole network is trained, and so
  without a KL term, for which upstream needs an adapter.
- ``jpeg_compressibility`` (upstream's): with LoRA, guidance and KL term, as upstream's own SD3 configurations. Low-rank
  factors of a network this narrow need a learning rate of about 1e-2.

Every setting not named here is that of the clone's ``config/base.py``. FLUX's trainers ask for 128 of T5's tokens of
any model, which is no setting; the miniature is given the 16 that it was shown, since with 128 it draws no digits.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.launch import flow_grpo
from pcpo_overlay.tools.miniature import IMAGE_SIZE, flux_path, prompts_path, sd3_path
from pcpo_overlay.tools.miniature.flux import T5_LENGTH
from pcpo_overlay.trainers import of_script

BASE = "config/base.py"
REWARDS = ("digit_probability", "jpeg_compressibility")


def _fast(config: Any) -> None:
    """As ``pickscore_sd3_fast_nocfg``."""
    config.train.clip_range = 1e-5
    config.sample.noise_level = 0.8
    config.sample.sde_window_size = 3
    config.sample.sde_window_range = (0, config.sample.num_steps // 2)
    config.sample.sde_type = "cps"


def _guard(config: Any) -> None:
    """As ``general_ocr_sd3_rationorm``."""
    config.rationorm = True
    config.run_project = "flow_grpo"
    config.train.clip_range = 2e-6


def _flux(config: Any) -> None:
    """As ``pickscore_flux_8gpu``; guidance is one of the network's inputs, and there is no second pass."""
    config.pretrained.model = str(flux_path())
    config.sample.num_steps = 6
    config.sample.eval_num_steps = 28
    config.sample.guidance_scale = 3.5
    config.sample.noise_level = 0.9
    _embed_as_shown()


def _embed_as_shown() -> None:
    """Wrap what the running script embeds its prompts with, as :mod:`flow_grpo` wraps its sampler."""
    script = sys.modules["__main__"]
    embed = getattr(script, "encode_prompt", None)
    if embed is None or hasattr(embed, "pcpo_t5_length"):
        return

    @functools.wraps(embed)
    def shown(encoders: Any, tokenizers: Any, prompts: Any, length: int) -> Any:
        return embed(encoders, tokenizers, prompts, min(length, T5_LENGTH))

    shown.pcpo_t5_length = T5_LENGTH  # type: ignore[attr-defined]
    script.encode_prompt = shown  # type: ignore[attr-defined]


def _flux_fast(config: Any) -> None:
    """As ``pickscore_flux_fast``."""
    _flux(config)
    _fast(config)


def _kontext(config: Any) -> None:
    """As ``counting_flux_kontext``, on FLUX. What it edits is for ``--config.dataset`` to say, images with prompts."""
    _flux(config)
    config.sample.guidance_scale = 2.5


#: What a trainer asks for that ``train_sd3.py`` does not, by its name.
_DIFFERS: dict[str, Callable[[Any], None]] = {
    "flow_grpo_sd3_fast": _fast,
    "flow_grpo_sd3_guard": _guard,
    "flow_grpo_flux": _flux,
    "flow_grpo_flux_fast": _flux_fast,
    "flow_grpo_flux_kontext": _kontext,
}


def get_config(reward: str = REWARDS[0]) -> Any:
    """Upstream's config with the miniature's model, sizes and prompts, and ``num_epochs``.

    Raises:
        ValueError: an unknown reward.
    """
    if reward not in REWARDS:
        raise ValueError(f"reward {reward!r} is not one of {', '.join(REWARDS)}")
    config = flow_grpo.extend(flow_grpo.load(BASE))
    config.num_epochs = 25

    config.pretrained.model = str(sd3_path())
    config.resolution = IMAGE_SIZE
    config.mixed_precision = "no"
    config.allow_tf32 = False
    config.dataset = str(prompts_path())
    config.prompt_fn = "general_ocr"
    config.reward_fn = {reward: 1.0}
    config.save_dir = str(Path("logs") / "digits")
    config.save_freq = config.eval_freq = 5
    config.train.lora_path = ""  # upstream's None, of which --config.train.lora_path=... cannot make a text

    # as in upstream's SD3 configurations
    config.sample.num_steps = 10
    config.sample.eval_num_steps = 40
    config.train.timestep_fraction = 0.99
    if reward == "jpeg_compressibility":
        config.sample.guidance_scale = 4.5
        config.train.beta = 0.04
    else:
        config.sample.guidance_scale = 1.0
        config.train.cfg = False
        config.use_lora = False

    # 40 * 2 = 80 samples of 10 prompts an epoch, and two optimizer steps, as upstream asks for
    config.sample.train_batch_size = 40
    config.sample.num_image_per_prompt = 8
    config.sample.num_batches_per_epoch = 2
    config.sample.test_batch_size = 80
    config.train.batch_size = config.sample.train_batch_size
    config.train.gradient_accumulation_steps = config.sample.num_batches_per_epoch // 2

    trainer = of_script(sys.argv[0])
    if trainer and trainer.name in _DIFFERS:
        _DIFFERS[trainer.name](config)
    return config
