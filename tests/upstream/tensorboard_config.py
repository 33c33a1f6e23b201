"""A config file for ``--config``: a trainer's config, and tensorboard as the tracker of its Accelerator.

``tensorboard_config.py:FILE[:NAME]`` is what ``FILE[:NAME]`` is. It stands for a user's edit of ``log_with``.
"""

from __future__ import annotations

import os
from typing import Any

import accelerate

from pcpo_overlay.tools.launch.flow_grpo import load


def get_config(inner: str) -> Any:
    made, init_trackers = accelerate.Accelerator.__init__, accelerate.Accelerator.init_trackers

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs["project_config"].logging_dir = os.environ["TENSORBOARD_DIR"]
        made(self, *args, **{**kwargs, "log_with": "tensorboard"})
        if self.is_main_process:
            init_trackers(self, "events")

    accelerate.Accelerator.__init__ = init
    accelerate.Accelerator.init_trackers = lambda *_, **__: None
    return load(inner)
