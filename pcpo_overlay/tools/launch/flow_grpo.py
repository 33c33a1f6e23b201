"""A ``--config`` file for flow_grpo's trainers that wraps any other: it gains an end and rewards.

    scripts/train_sd3.py --config <path of this file>:config/grpo.py:general_ocr_sd3_1gpu --config.num_epochs=100

absl executes this file by its path, after the script's imports and before its main(), with the clone as the working
directory. The wrapped config is as it was, but for one setting:

- ``num_epochs``: upstream's loop is endless, whatever its own number says. With a number here every rank leaves it
  after that many epochs, when upstream has evaluated and saved the last one, whatever ``eval_freq`` and ``save_freq``
  are. 0 is upstream's way. A script whose loop has an end keeps its own number.

``train_sd3_GRPO_Guard.py`` logs to wandb without ever beginning a run of it, and fails on that; one is begun here.

The rewards of this project, :data:`REWARDS` and those of :mod:`pcpo_overlay.tools.rewards`, can be named in
``reward_fn`` beside upstream's.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.launch import config_file
from pcpo_overlay.tools.rewards import named
from pcpo_overlay.trainers import of_script


def _digit_probability() -> Callable[[Any, Any], Any]:
    from pcpo_overlay.tools.miniature.rewards import digit_probability

    return digit_probability


#: Rewards beside upstream's, by name: each entry loads its reward, a function of (images, prompts) to (N,) values.
REWARDS: dict[str, Callable[[], Callable[[Any, Any], Any]]] = {"digit_probability": _digit_probability}
#: What to run where, for the message where a wrapped config is not found.
RUN = (
    "run scripts/train_sd3.py with the clone of flow_grpo as working directory, and give the config file's path from "
    "there, or an absolute one"
)


def load(argument: str) -> Any:
    """The config of ``FILE[:NAME]``, as ``--config`` itself would load it.

    Raises:
        FileNotFoundError: no such file, from the clone's folder.
    """
    name, _, rest = argument.partition(":")
    return config_file.get_config(
        Path(name).expanduser(),
        *filter(None, [rest]),
        run=RUN,
    )


def extend(config: Any) -> Any:
    """Give a flow_grpo config its end and the running script the code that keeps it."""
    trainer = of_script(sys.argv[0])
    if trainer is None or trainer.endless:
        config.num_epochs = 0
    if trainer and not trainer.begins_wandb and os.environ.get("RANK", "0") == "0":
        import wandb

        if wandb.run is None:  # not by a config that this one wraps
            wandb.init(project=trainer.upstream)
    _offer_rewards()
    _end_after_num_epochs()
    return config


def get_config(argument: str) -> Any:
    """The config of ``FILE[:NAME]``, extended."""
    from pcpo_overlay import compat

    compat.install("flow_grpo")  # an unpatched clone's config/grpo.py needs `imp` too
    return extend(load(argument))


# ------------------------------------------------------------------ the end


def _end_after_num_epochs() -> None:
    """Wrap the sampler that the running script calls. Outside that script there is nothing to end."""
    script = sys.modules["__main__"]
    sample = getattr(script, "pipeline_with_logprob", None)
    if sample is None or hasattr(sample, "pcpo_rollouts"):
        return

    @functools.wraps(sample)
    def ending(*args: Any, **kwargs: Any) -> Any:
        from absl import flags

        config = flags.FLAGS.config
        if not config.num_epochs or kwargs.get("noise_level") == 0:  # endless, or an evaluation
            return sample(*args, **kwargs)
        epoch = ending.pcpo_rollouts // config.sample.num_batches_per_epoch  # type: ignore[attr-defined]
        if epoch >= config.num_epochs:
            _leave()
        if epoch == config.num_epochs - 1:
            # This epoch's own evaluation and checkpoint lie behind; what the loop does before the next are the last.
            config.eval_freq = config.save_freq = config.num_epochs
        ending.pcpo_rollouts += 1  # type: ignore[attr-defined]
        return sample(*args, **kwargs)

    ending.pcpo_rollouts = 0  # type: ignore[attr-defined]
    script.pipeline_with_logprob = ending  # type: ignore[attr-defined]


def _leave() -> None:
    """End this rank's process as a finished one, once all ranks are here."""
    import torch.distributed

    from pcpo_overlay import hooks

    hooks.finish()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()  # rank 0 may still have been saving
        torch.distributed.destroy_process_group()
    raise SystemExit(0)


# -------------------------------------------------------------- the rewards


def _offer_rewards() -> None:
    """Let ``reward_fn`` name rewards of ours: upstream's ``multi_score`` knows a fixed list."""
    import flow_grpo.rewards

    theirs = flow_grpo.rewards.multi_score
    if hasattr(theirs, "pcpo_rewards"):
        return

    @functools.wraps(theirs)
    def multi_score(device: Any, score_dict: Any) -> Any:
        known: dict[str, Callable[[], Callable[[Any, Any], Any]]] = {**named.offered(), **REWARDS}
        weights = {name: score_dict[name] for name in score_dict if name in known}
        if not weights:
            return theirs(device, score_dict)
        ours = {name: known[name]() for name in weights}
        rest = {name: score_dict[name] for name in score_dict if name not in known}
        score_rest = theirs(device, rest) if rest else None

        def score(
            images: Any, prompts: Any, metadata: Any, *edited: Any, only_strict: bool = True
        ) -> tuple[Any, Any]:
            details: dict[str, Any] = {}
            if score_rest is not None:
                details, _ = score_rest(images, prompts, metadata, *edited, only_strict=only_strict)
            total = details.pop("avg", [0.0] * len(prompts))
            for name, reward in ours.items():
                details[name] = reward(images, prompts)
                total = [t + weights[name] * float(v) for t, v in zip(total, details[name], strict=True)]
            details["avg"] = total  # the last key, as upstream has it
            return details, {}

        return score

    multi_score.pcpo_rewards = True  # type: ignore[attr-defined]
    flow_grpo.rewards.multi_score = multi_score
