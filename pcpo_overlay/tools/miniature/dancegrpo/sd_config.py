"""A ``--config`` file for DanceGRPO's ``fastvideo/train_grpo_sd.py``: its own defaults, shrunk to the miniature.

``python -m pcpo_overlay ab dancegrpo --trainer sd`` launches it so, with ``run.py`` before the script. Every setting
not named here is that of upstream's ``fastvideo/config_sd/base.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.launch import config_file

BASE = Path("config_sd") / "base.py"


def get_config() -> Any:
    """Upstream's config with the miniature's sizes; its script names the paths of model and prompts itself."""
    config = config_file.get_config(  # beside the script that runs
        Path(sys.argv[0]).resolve().parent / BASE,
        run="this file is for --config of DanceGRPO's fastvideo/train_grpo_sd.py",
    )
    config.reward_fn = "hpsv2"
    config.num_epochs = 19  # upstream counts from 0 to this: 20 epochs
    config.save_freq = 1_000_000
    config.allow_tf32 = False

    # With much guidance the miniature has nothing left to learn; at 1, without any, upstream's sampler fails.
    config.sample.num_steps = 10
    config.sample.guidance_scale = 1.01
    config.train.learning_rate = 1e-4

    # 8 prompts with 8 samples each an epoch, 64 / (8 * 4) = 2 optimizer steps
    config.sample.batch_size = 8
    config.num_generations = config.chosen_number = 8
    config.train.batch_size = 8
    config.train.gradient_accumulation_steps = 4
    return config
