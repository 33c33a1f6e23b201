"""A ``--config`` file for ddpo-pytorch's ``scripts/train.py`` that gives any other config a reward of ``pcpo score``.

    scripts/train.py --config <path of this file>:pickscore:config/dgx.py:aesthetic \\
        --config.reward_weights=pickscore=/models/PickScore_v1

absl executes this file by its path, after the script's imports and before its main(), with the clone as the working
directory. The config is as it was, but for its reward and the two settings of
:mod:`pcpo_overlay.tools.rewards.named`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pcpo_overlay.tools.rewards import named


def _factory(load: Callable[[], Any]) -> Callable[[], Any]:
    """What upstream looks up by a reward's name: a function that makes it."""

    def factory() -> Callable[[Any, Sequence[str], Any], tuple[Any, dict[str, Any]]]:
        reward = load()
        return lambda images, prompts, metadata: (reward(images, prompts), {})

    return factory


def get_config(argument: str = "") -> Any:
    """The config of ``REWARD:FILE[:NAME]`` with that reward, which upstream's main() then finds by its name."""
    import ddpo_pytorch.rewards

    from pcpo_overlay import compat

    compat.install()  # on newer Pythons the wrapped config needs `imp`
    name, config = named.get_config(
        argument, run="run scripts/train.py with the clone of ddpo-pytorch as working directory"
    )
    for key, load in named.offered().items():
        setattr(ddpo_pytorch.rewards, key, _factory(load))
    config.reward_fn = named.key(name)
    return config
