"""A ``--config`` file for ddpo-pytorch's ``scripts/train.py``: its own defaults, shrunk to the animals.

absl executes this file by its path, after the script's imports and before its main(), with the clone as the working
directory. It loads the clone's own ``config/base.py``, so every setting not named here is upstream's, the prompts
among them: ``simple_animals``. It registers in upstream's modules, by name, the rewards of
:mod:`pcpo_overlay.tools.miniature.animals.rewards`.

    accelerate launch scripts/train.py --config <path of this file> [--config.reward_fn colourfulness ...]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pcpo_overlay.tools.miniature.animals import animals_path
from pcpo_overlay.tools.miniature.animals.rewards import REWARDS
from pcpo_overlay.tools.miniature.ddpo_config import shrunk


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
    config = shrunk()
    config.pretrained.model = str(animals_path())
    config.sample.num_steps = 20
    config.sample.guidance_scale = 3.0
    config.prompt_fn = "simple_animals"
    config.reward_fn = "animal_logodds"
    return config
