"""A ``--config`` file for flow_grpo's ``scripts/train_sd3.py``: its own defaults, shrunk to the digits miniature.

    scripts/train_sd3.py --config <path of this file>[:REWARD] [--config.num_epochs=20 ...]

REWARD is one of two:

- ``digit_probability`` (default, ours): the probability of the prompted digit under a classifier of real digits.
  Sampled without guidance, with which the miniature has nothing left to learn; the whole network is trained, and so
  without a KL term, for which upstream needs an adapter.
- ``jpeg_compressibility`` (upstream's): with LoRA, guidance and KL term, as upstream's own SD3 configurations. Low-rank
  factors of a network this narrow need a learning rate of about 1e-2.

Every setting not named here is that of the clone's ``config/base.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pcpo_overlay.tools.launch import flow_grpo
from pcpo_overlay.tools.miniature import IMAGE_SIZE, prompts_path, sd3_path

BASE = "config/base.py"
REWARDS = ("digit_probability", "jpeg_compressibility")


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
    return config
