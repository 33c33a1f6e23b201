"""A ``--config`` file for flow_grpo's trainers that gives any other config a reward of ``pcpo score``, and an end.

    scripts/train_sd3.py --config <path of this file>:hpsv2.1:config/grpo.py:general_ocr_sd3_1gpu \\
        --config.reward_weights=hpsv2.1=/models/HPS_v2.1_compressed.pt,clip-h=/models/clip-h --config.num_epochs=100

It wraps like :mod:`pcpo_overlay.tools.launch.flow_grpo`, whose ``num_epochs`` it has, with the two settings of
:mod:`pcpo_overlay.tools.rewards.named`. For several rewards at once a config of your own names them, with upstream's
if you like: ``reward_fn = {"pcpo_hpsv2_1": 0.7, "pcpo_pickscore": 0.3}``.
"""

from __future__ import annotations

from typing import Any

from pcpo_overlay.tools.launch import flow_grpo
from pcpo_overlay.tools.rewards import named


def get_config(argument: str = "") -> Any:
    """The config of ``REWARD:FILE[:NAME]`` with that reward alone."""
    from pcpo_overlay import compat

    compat.install("flow_grpo")
    name, config = named.get_config(argument, run=flow_grpo.RUN)
    config.reward_fn = {named.key(name): 1.0}
    return flow_grpo.extend(config)
