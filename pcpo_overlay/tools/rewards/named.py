"""A reward by name through a config file of the trainers with absl flags.

The file stands before upstream's own, ``--config FILE:REWARD:THEIRS[:NAME]``, and the config gains two settings:

- ``reward_weights``: ``NAME=PATH,...``, as ``--weights`` of ``pcpo score``;
- ``reward_batch``: pictures at a time.

Where weights are missing the trainer ends before it loads anything, with the line that ``pcpo score`` has.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pcpo_overlay.tools.faults import Fault, WrongArgument, complain
from pcpo_overlay.tools.launch import config_file

if TYPE_CHECKING:
    from pcpo_overlay.tools.rewards.scored import Reward

BATCH = 32


def key(name: str) -> str:
    """What a config calls a reward: ``hpsv2.1`` is ``pcpo_hpsv2_1``. Some names without it are upstream's."""
    return "pcpo_" + name.replace(".", "_")


def offered() -> dict[str, Callable[[], Reward]]:
    """By :func:`key`, what loads each reward with the running trainer's settings."""
    from pcpo_overlay.tools.rewards.scored import REWARDS

    return {key(name): functools.partial(load, name) for name in REWARDS}


def get_config(argument: str, run: str) -> tuple[str, Any]:
    """The name of the reward in ``REWARD:FILE[:NAME]``, and the config of the file with the two settings.

    Args:
        argument: what stands behind the config file's own name and a colon.
        run: what to run where, for the message where there is no such file.
    """
    from absl import app

    name, _, rest = argument.partition(":")
    file, _, inner = rest.partition(":")
    with one_line():
        from pcpo_overlay.tools.rewards.scored import REWARDS

        if name not in REWARDS or not file:
            raise WrongArgument(
                f"--config FILE:{argument:.80} names no reward or no config; write FILE:REWARD:CONFIG with one of "
                f"{', '.join(REWARDS)}"
            )
        config = config_file.get_config(Path(file).expanduser(), *filter(None, [inner]), run=run)
    config.reward_weights = ""
    config.reward_batch = BATCH
    app.call_after_init(functools.partial(_find, name))
    return name, config


def _find(name: str) -> None:
    """Before the trainer's main(), when its flags are known."""
    with one_line():
        from pcpo_overlay.tools.rewards.scored import check

        check(name, _given(_config()))


def load(name: str) -> Reward:
    """A reward with the running trainer's settings, on this process's GPU if there is one; made once."""
    config = _config()
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else "cpu"
    with one_line():
        return _loaded(
            name,
            tuple(_given(config).items()),
            torch.device(device),
            int(config.get("reward_batch", BATCH)),
        )


@functools.lru_cache
def _loaded(name: str, given: tuple[tuple[str, str], ...], device: torch.device, batch: int) -> Reward:
    from pcpo_overlay.tools.rewards.scored import Reward, check

    return Reward(name, check(name, dict(given)), device, batch)


def _config() -> Any:
    from absl import flags

    return flags.FLAGS.config


def _given(config: Any) -> dict[str, str]:
    given = {}
    for item in filter(None, config.get("reward_weights", "").split(",")):
        name, equals, path = item.partition("=")
        if not equals or not path:
            raise WrongArgument(f"reward_weights are NAME=PATH with commas between them, got {item!r:.80}")
        given[name] = path
    return given


@contextmanager
def one_line() -> Iterator[None]:
    """End the trainer's process with a line on stderr and exit code 1 or 2, where a reward cannot be given."""
    try:
        yield
    except (Fault, FileNotFoundError, ImportError) as error:
        complain("pcpo reward", str(error).replace("with --weights ", "with --config.reward_weights="))
        raise SystemExit(getattr(error, "code", 1)) from None
