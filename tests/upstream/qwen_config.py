"""The miniature's config for flow_grpo's Qwen-Image trainers, as ``pickscore_qwenimage_8gpu`` and
``counting_qwenimage_edit_fast`` but for sizes.
"""

from __future__ import annotations

import sys
from typing import Any

from pcpo_overlay.tools.miniature import flow_grpo_config


def get_config() -> Any:
    config = flow_grpo_config.get_config("jpeg_compressibility")
    config.resolution = 32
    config.sample.guidance_scale = 4.0
    config.sample.noise_level = 1.5 if "edit" in sys.argv[0] else 1.2
    config.sample.sde_window_size = 2
    config.sample.sde_window_range = (0, 4)
    config.activation_checkpointing = True
    config.fsdp_optimizer_offload = True
    return config
