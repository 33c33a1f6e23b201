"""The calls that patches insert into upstream's code; word for word alike across upstreams.

With PCPO off every hook returns what it was given and does nothing else, so a patched run equals an unpatched one bit
for bit. The logic is in :mod:`pcpo_overlay.session`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from pcpo_overlay.config import PCPOConfig, PCPOError, resolve
from pcpo_overlay.messages import say
from pcpo_overlay.ranks import TorchRanks, agree
from pcpo_overlay.session import Off, Session

_FLAG = "pcpo"
_FLAG_HELP = "PCPO mode and options, e.g. full,weights=uniform; wins over the PCPO variable."
_flags: Any = None
_session: Session | Off | None = None


def _session_of(config: PCPOConfig) -> Session | Off:
    return Session(config) if config.recording else Off()


def current() -> Session | Off:
    """The session of this process; before ``start`` (inference with a patched sampler) the variable decides."""
    global _session
    if _session is None:
        _session = _session_of(resolve())
    return _session


@contextlib.contextmanager
def using(session: Session | Off) -> Iterator[None]:
    """While this lasts the hooks act on this session: for tests and measurements."""
    global _session
    before, _session = _session, session
    try:
        yield
    finally:
        _session = before


_Hook = TypeVar("_Hook", bound=Callable[..., Any])


def _checks_settings(hook: _Hook) -> _Hook:
    """A hook in which a setting can turn out unusable: one line on stderr and exit code 2, no traceback."""

    @functools.wraps(hook)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            return hook(*args, **kwargs)
        except PCPOError as error:
            say(f"error: {error}")
            raise SystemExit(2) from None

    return checked  # type: ignore[return-value]


# ---------------------------------------------------------------------- run


def compat(upstream: str = "ddpo") -> None:
    """Before upstream's imports: supply what newer libraries no longer have. Nothing where nothing is missing."""
    from pcpo_overlay.compat import install

    install(upstream)


def define_flag(flags: Any) -> None:
    """Define ``--pcpo`` on an absl ``flags`` module or an argparse parser; it wins over the ``PCPO`` variable."""
    global _flags
    if isinstance(flags, argparse.ArgumentParser):
        flags.add_argument(f"--{_FLAG}", metavar="MODE[,OPTION=VALUE...]", help=_FLAG_HELP)
        return
    _flags = flags.FLAGS
    flags.DEFINE_string(_FLAG, None, _FLAG_HELP)


@_checks_settings
def start(upstream: str, accelerator: Any, trainer: Any) -> None:
    """The trainer's configuration is known: resolve PCPO's, and open the run folder in every mode but off.

    Where the configuration cannot be used: one line on stderr, exit code 2.

    Args:
        upstream: short name for the run folder.
        accelerator: accelerate's Accelerator, or the device of a trainer on plain ``torch.distributed``.
        trainer: the trainer's own settings: an ``ml_collections.ConfigDict`` with ``train.clip_range``, ``seed`` and,
            where it can resume, ``resume_from``; or an ``argparse.Namespace`` with ``seed`` and, if it has one,
            ``clip_range``.
    """
    global _session
    plain = isinstance(trainer, argparse.Namespace)
    if plain:  # these trainers have no line for it before their imports, and need nothing that early
        compat(upstream)
    absl_flag = _flags[_FLAG].value if _flags is not None else None
    config = resolve(getattr(trainer, _FLAG, None) if plain else absl_flag)
    agree(str(config) if config.recording else "off", required=config.recording)
    _session = _session_of(config)
    if isinstance(_session, Off):
        return
    ranks = accelerator if hasattr(accelerator, "num_processes") else TorchRanks(accelerator)
    settings = vars(trainer) if plain else trainer.to_dict()
    _session.start(upstream, ranks, {name: value for name, value in settings.items() if name != _FLAG})


@_checks_settings
def prompts(dataloader: Any, dataset: Any) -> Any:
    """The trainer's endless batches of prompts; under ``unique_prompts`` each epoch's are distinct.

    Args:
        dataloader: upstream's, returned as it is where the option is off.
        dataset: upstream's, with ``prompts``, ``__getitem__`` and ``collate_fn``.
    """
    return current().prompts(dataloader, dataset)


def begin_epoch(epoch: int | None = None) -> None:
    """A new round of sampling and training begins; counted here where the trainer does not."""
    current().begin_epoch(epoch)


def end_epoch(epoch: int | None = None) -> None:
    """The round's training is done."""
    current().end_epoch(epoch)


def finish() -> None:
    """The trainer is done."""
    current().finish()


# ------------------------------------------------------------------ rollout


def begin_rollout(accelerator: Any = None, network: torch.nn.Module | None = None) -> None:
    """Sampling for training begins; ``network`` is the module that the sampler calls.

    Trainers whose sampler computes as their training does name neither.
    """
    current().begin_rollout(accelerator, network)


@_checks_settings
def end_rollout(sample: dict[str, Any]) -> None:
    """Sampling for training is done: ``sample`` gains ``pcpo_index`` (B, steps) where prediction matching needs it."""
    current().end_rollout(sample)


@_checks_settings
def ddim_std(std: Tensor, scheduler: Any, timestep: Tensor, eta: float) -> Tensor:
    """The std a DDIM step is sampled with: the paper's under ``variance=paper``, else the one given.

    Args:
        std: (B, ...) upstream's std, broadcast to the sample's shape.
        scheduler: diffusers' DDIMScheduler with its timesteps set.
        timestep: () or (B,) int64.
        eta: upstream's eta.
    """
    return current().ddim_std(std, scheduler, timestep, eta)


@_checks_settings
def record_step(
    pred: Tensor, z: Tensor, scheduler: Any, timestep: Tensor, scale: float, sde_type: str = "sde"
) -> None:
    """A step of a rollout was drawn. Nothing outside a training rollout (an evaluation, say).

    Args:
        pred: (B, ...) the network's output the step used, guided if the sampler guides.
        z: (B, ...) the noise it drew.
        scheduler: diffusers' DDIMScheduler, FlowMatchEulerDiscreteScheduler, or, under ``linear``,
            UniPCMultistepScheduler, with its timesteps set; None where the trainer's settings have the schedule.
        timestep: () or (1,) or (B,).
        scale: of the noise: DDIM's eta, Flow-GRPO's noise level, Wan's largest.
        sde_type: of Flow-GRPO's steps: ``sde``; ``cps``, coefficients-preserving; or ``linear``, Wan's, whose noise
            scale is linear in the schedule value.
    """
    current().record_step(pred, z, scheduler, timestep, scale, sde_type)


def record_drawn_step(
    pred: Tensor, sample: Tensor, mean: Tensor, std: float, sigmas: Tensor, index: int, eta: float
) -> None:
    """A step of a flow rollout was drawn by a sampler that does not keep the noise.

    Args:
        pred: (B, ...) the network's output the step used, guided if the sampler guides; any float dtype.
        sample, mean: (B, ...) float32, what was drawn and the mean it was drawn around.
        std: of the step.
        sigmas: (steps + 1,) the schedule.
        index: of the step.
        eta: noise scale of the SDE.
    """
    current().record_drawn_step(pred, sample, mean, std, sigmas, index, eta)


# ----------------------------------------------------------------- training


def permute(samples: dict[str, Any], perms: Tensor) -> None:
    """The trainer shuffles each sample's steps: PCPO's index goes along.

    Args:
        samples: the trainer's samples, (B, steps, ...) each; changed in place.
        perms: (B, steps) int64, the permutation of each sample's steps.
    """
    for key in [k for k in samples if k.startswith("pcpo_")]:
        samples[key] = torch.gather(samples[key], 1, perms)


def begin_step(sample: dict[str, Any], step: int, timestep: Tensor) -> None:
    """Column ``step`` of a batch is about to be trained; ``timestep`` (B,) is what the metrics file it under."""
    current().begin_step(sample, step, timestep)


def match_step(pred: Tensor, prev_sample: Tensor | None, *rest: Tensor) -> tuple[Tensor, ...] | None:
    """In the step function, in training: ``(prev_sample, log rho, *rest)`` by prediction matching.

    What the step function would still compute is then not needed. None where it is to run as it is: a rollout (no
    ``prev_sample``), a mode whose log ratio is upstream's, or a pass without gradient, which is not the policy that
    is trained but a reference.

    Args:
        pred: (B, ...) the live prediction, guided as the trainer guides.
        prev_sample: (B, ...) the sample that the rollout drew.
        rest: what the step function returns beyond these two.
    """
    return current().match_step(pred, prev_sample, *rest)


def loss(
    loss: Tensor,
    log_prob: Tensor,
    log_prob_old: Tensor,
    advantage: Tensor,
    clip_range: float | None = None,
    divisor: float = 1,
    ratio: Tensor | None = None,
) -> Tensor:
    """The objective: upstream's in ``off`` and ``observe``, else the log hinge (Eq. 3) averaged over the batch.

    Args:
        loss: () upstream's.
        log_prob, log_prob_old: (B,) under the live and the rollout's policy.
        advantage: (B,), clamped by the trainer.
        clip_range: where the trainer has it here and not in its settings.
        divisor: what the trainer divides its loss by, to accumulate gradients.
        ratio: (B,) what the trainer clips, where that is not the exponential of the difference of the two.
    """
    return current().loss(loss, log_prob, log_prob_old, advantage, clip_range, divisor, ratio)


def gradients(accelerator: Any, model: torch.nn.Module) -> None:
    """Between backward and clipping: gradient statistics, where an optimizer step follows."""
    current().gradients(accelerator, model)


def log_kl(kl_loss: Tensor) -> None:
    """The () KL term of this backward pass, which stays as upstream computed it."""
    current().log_kl(kl_loss)


def log_eval(rewards: dict[str, Any], step: int) -> None:
    """The trainer evaluated: arrays (n,) of rewards by name, of all ranks, after ``step`` optimizer steps."""
    current().log_eval(rewards, step)


def log_rewards(rewards: Any) -> None:
    """The epoch's rewards of all ranks, any array of shape (n,)."""
    current().log_rewards(rewards)


def log_step(epoch: int | None = None, inner_epoch: int = 0, step: int | None = None) -> None:
    """An optimizer step was taken; called on every rank. What the trainer does not count is counted here."""
    current().log_step(epoch, inner_epoch, step)
