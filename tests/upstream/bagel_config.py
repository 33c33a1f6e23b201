"""The miniature's config for flow_grpo's ``train_bagel.py``: ``pickscore_bagel`` but for sizes, reward and KL term."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import bagel_model

from pcpo_overlay.tools.miniature import flow_grpo_config

_folder = tempfile.TemporaryDirectory()  # gone when the process ends


def get_config() -> Any:
    config = flow_grpo_config.get_config("jpeg_compressibility")
    bagel_model.build(Path(_folder.name))
    config.pretrained.model = _folder.name
    config.use_lora = False
    config.train.clip_range_lt = config.train.clip_range_gt = 1e-5
    config.sample.guidance_scale = config.sample.eval_guidance_scale = 4.0
    config.sample.global_std = False
    config.sample.noise_level = 1.3
    config.sample.sde_window_size = 2
    config.sample.sde_window_range = (0, 3)  # where two ranks draw different windows
    config.activation_checkpointing = True
    config.fsdp_optimizer_offload = True
    return config
