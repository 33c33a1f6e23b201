"""A ``--config`` file for DanceGRPO's ``fastvideo/train_grpo_sd.py``: its own defaults, shrunk to the animals.

``pcpo ab dancegrpo --trainer sd --config animals`` launches it so. What is not named here is as for the digits, in
``pcpo_overlay/tools/miniature/dancegrpo/sd_config.py``.
"""

from __future__ import annotations

from typing import Any

from pcpo_overlay.tools.miniature.dancegrpo import sd_config


def get_config() -> Any:
    """Upstream's config with the animals' sizes; its script names the paths of model and prompts itself."""
    config = sd_config.get_config()
    config.sample.num_steps = 20
    return config
