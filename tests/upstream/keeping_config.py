"""Keeps what the trainer gives a reward and what it gets: ``--config <this file>:UPSTREAM:REWARD:FILE[:NAME]``.

UPSTREAM is ddpo or flow_grpo, whose config file of rewards makes the config. ``KEPT`` names the file.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import torch

#: By upstream, the module in which its main() looks up what makes the reward, and under which name.
PLACES = {
    "ddpo": ("ddpo_pytorch.rewards", "pcpo_pickscore"),
    "flow_grpo": ("flow_grpo.rewards", "multi_score"),
}


def get_config(argument: str) -> Any:
    upstream, _, rest = argument.partition(":")
    config = importlib.import_module(f"pcpo_overlay.tools.rewards.{upstream}_config").get_config(rest)
    place, name = PLACES[upstream]
    module, calls = importlib.import_module(place), []
    make = getattr(module, name)

    def keeping(*settings: Any) -> Any:
        reward = make(*settings)

        def keep(images: Any, prompts: Any, *more: Any, **options: Any) -> Any:
            found = reward(images, prompts, *more, **options)
            values = found[0]["avg"] if isinstance(found[0], dict) else found[0]
            calls.append((images.detach().clone(), list(prompts), [float(v) for v in values]))
            torch.save(calls, os.environ["KEPT"])
            return found

        return keep

    setattr(module, name, keeping)
    return config
