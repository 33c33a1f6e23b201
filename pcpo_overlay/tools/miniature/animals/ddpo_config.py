"""A ``--config`` file for ddpo-pytorch's ``scripts/train.py``: its own defaults, shrunk to the animals.

absl executes this file by its path, after the script's imports and before its main(), with the clone as the working
directory. It loads the clone's own ``config/base.py``, so every setting not named here is upstream's, the prompts
among them: ``simple_animals``. It registers in upstream's modules, by name, the rewards of
:mod:`pcpo_overlay.tools.miniature.animals.rewards`.

    accelerate launch scripts/train.py --config <path of this file> [--config.reward_fn colourfulness ...]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.launch import config_file
from pcpo_overlay.tools.miniature.animals import animals_path
from pcpo_overlay.tools.miniature.animals.rewards import REWARDS

BASE = Path("config") / "base.py"


def _factory(name: str) -> Callable[[], Callable[[Any, Sequence[str], Any], tuple[Any, dict[str, Any]]]]:
    """What upstream looks up by a reward's name: a function that makes it."""

    def reward(images: Any, prompts: Sequence[str], metadata: Any) -> tuple[Any, dict[str, Any]]:
        return REWARDS[name](images, prompts).astype("float32"), {}

    return lambda: reward


def _register() -> None:
    """Put the rewards where upstream's main() looks them up."""
    import ddpo_pytorch.rewards

    for name in REWARDS:
        setattr(ddpo_pytorch.rewards, name, _factory(name))


def get_config() -> Any:
    """Upstream's config with the animals' model, sizes, prompts and reward."""
    _register()
    config = config_file.get_config(
        BASE, run="run scripts/train.py with the clone of ddpo-pytorch as working directory"
    )
    config.pretrained.model = str(animals_path())
    config.mixed_precision = "no"
    config.allow_tf32 = False
    # a network this small leaves low-rank factors little to move
    config.use_lora = False
    config.train.learning_rate = 3e-4
    config.num_epochs = 20
    config.save_freq = 10
    config.num_checkpoint_limit = 2

    config.sample.num_steps = 20
    config.sample.guidance_scale = 3.0
    # 16 * 4 = 64 samples an epoch, 64 / (16 * 2) = 2 optimizer steps
    config.sample.batch_size = 16
    config.sample.num_batches_per_epoch = 4
    config.train.batch_size = 16
    config.train.gradient_accumulation_steps = 2

    config.prompt_fn = "simple_animals"
    config.prompt_fn_kwargs = {}
    config.reward_fn = "animal_logodds"

    # 45 prompts, 64 samples: one or two of each an epoch
    config.per_prompt_stat_tracking.buffer_size = 32
    config.per_prompt_stat_tracking.min_count = 16
    return config
