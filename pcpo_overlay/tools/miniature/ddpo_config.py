"""A ``--config`` file for ddpo-pytorch's ``scripts/train.py``: its own defaults, shrunk to the digits miniature.

absl executes this file by its path, after the script's imports and before its main(), with the clone as the
working directory. It loads the clone's own ``config/base.py``, so every setting not named here is upstream's,
and registers by name, in upstream's modules:

- the prompt function ``digits``: "a handwritten zero" ... "a handwritten nine", drawn uniformly, with the digit
  as metadata ``{"label": d}``;
- the reward function ``digit_probability``: the probability of the prompted digit under our classifier.

    accelerate launch scripts/train.py --config <path of this file> [--config.num_epochs 20 ...]
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.launch import config_file
from pcpo_overlay.tools.miniature import DIGIT_NAMES, PROMPTS, sd_path

BASE = Path("config") / "base.py"


def digits() -> tuple[str, dict[str, int]]:
    """One prompt and its digit. Draws from Python's `random`, which upstream's prompt functions draw from too."""
    label = random.randrange(len(DIGIT_NAMES))
    return PROMPTS[label], {"label": label}


def digit_probability() -> Callable[
    [Any, Sequence[str], Sequence[dict[str, int]]], tuple[Any, dict[str, Any]]
]:
    """A reward function: images in, probability (N,) of the prompted digit and what was read instead."""
    from pcpo_overlay.tools.miniature import rewards

    def reward(
        images: Any, prompts: Sequence[str], metadata: Sequence[dict[str, int]]
    ) -> tuple[Any, dict[str, Any]]:
        values = rewards.digit_probability(images, prompts).astype("float32")
        return values, {"read": rewards.read_digits(images)}

    return reward


def _register() -> None:
    """Put both functions where upstream's main() looks them up. Without upstream's package there is no one to ask."""
    import ddpo_pytorch.prompts
    import ddpo_pytorch.rewards

    ddpo_pytorch.prompts.digits = digits
    ddpo_pytorch.rewards.digit_probability = digit_probability


def shrunk() -> Any:
    """Upstream's config at the size of a miniature; its model, prompts and reward are still to be named."""
    config = config_file.get_config(
        BASE, run="run scripts/train.py with the clone of ddpo-pytorch as working directory"
    )
    config.mixed_precision = "no"
    config.allow_tf32 = False
    # a network this small leaves low-rank factors little to move
    config.use_lora = False
    config.train.learning_rate = 3e-4
    config.num_epochs = 20
    config.save_freq = 10
    config.num_checkpoint_limit = 2

    # 16 * 4 = 64 samples an epoch, 64 / (16 * 2) = 2 optimizer steps
    config.sample.batch_size = 16
    config.sample.num_batches_per_epoch = 4
    config.train.batch_size = 16
    config.train.gradient_accumulation_steps = 2

    # 64 samples an epoch: six of each of ten prompts, one or two of each of 45
    config.per_prompt_stat_tracking.buffer_size = 32
    config.per_prompt_stat_tracking.min_count = 16
    config.prompt_fn_kwargs = {}
    return config


def get_config() -> Any:
    """Upstream's config with the miniature's model, sizes, prompts and reward."""
    _register()
    config = shrunk()
    config.pretrained.model = str(sd_path())
    config.prompt_fn = "digits"
    config.reward_fn = "jpeg_compressibility"
    return config
