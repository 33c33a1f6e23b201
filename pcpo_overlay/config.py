"""What PCPO does in a run: one parser for the ``PCPO`` variable and the ``--pcpo`` flag, one frozen dataclass."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from pcpo_overlay.trainers import TRAINERS

#: The ablation ladder of the paper (Figure 6), with ``observe``: the baseline with its metrics recorded.
MODES = ("off", "observe", "log", "match", "full")
WEIGHTS = ("proportional", "uniform", "native", "power")
VARIANCES = ("auto", "paper", "native")
ZETAS = ("schedule", "trained")
PRECISIONS = ("upstream", "match")
TAPES = ("device", "cpu", "off")

#: Name of the environment variable; the only way through an untouched launch script.
VARIABLE = "PCPO"

_CHOICES = {
    "weights": WEIGHTS,
    "variance": VARIANCES,
    "zeta": ZETAS,
    "precision": PRECISIONS,
    "unique_prompts": ("true", "false"),
    "tape": TAPES,
    "track": ("true", "false"),
    "alarms": ("true", "false"),
}
# Which modes an option changes anything in: elsewhere it would be a silent no-op, so it is refused.
_ACTS_IN = {
    "weights": ("full",),
    "power": ("full",),
    "variance": ("full",),
    "w_star": ("full",),
    "zeta": ("full",),
    "precision": ("log", "match", "full"),
    "unique_prompts": ("observe", "log", "match", "full"),
    "tape": ("observe", "log", "match", "full"),
    "track": ("observe", "log", "match", "full"),
    "alarms": ("observe", "log", "match", "full"),
}
#: Fields that decide what is told of a run, and nothing of what it computes.
TELLING = ("track", "alarms")


class PCPOError(ValueError):
    """A setting PCPO cannot work with; the message says what is wrong and what to do."""


class HookError(RuntimeError):
    """The hooks were not called as the patches call them, so PCPO would not do what the mode says."""


@dataclass(frozen=True)
class PCPOConfig:
    """A mode of the ablation ladder and its options.

    Attributes:
        mode: one of :data:`MODES`.
        weights: timestep weights of the log ratio: ``native`` (Eq. 4, 8), ``proportional`` to the interval
            (Prop. 2), ``uniform`` (their mean at every step), or a ``power`` of the native ones with their mean.
            ``match`` is native, ``full`` proportional.
        variance: DDIM step std: ``paper`` (the reshaped schedule), ``native`` (upstream's), or ``auto``: the paper's
            where the schedule leaves enough of DDIM's noise, else native. Flow samplers are never changed.
        w_star: target weight of the paper's variance schedule; None takes ``max(4.5, max_t w_native)``.
        zeta: whether Proposition 2 sums over the whole ``schedule`` or over the ``trained`` steps.
        precision: ``upstream`` samples as upstream does, ``match`` samples under the training's autocast.
        unique_prompts: whether an epoch's prompts are drawn without repetition, as in the paper (Flow-GRPO only).
        tape: where the rollout's predictions, and the noise that matching needs, are kept until they are trained: on
            the ``device`` they were drawn on, or in the ``cpu``'s memory. ``off``, for ``observe`` and ``log``, keeps
            none, and there is no exact KL divergence then.
        track: whether the metrics go to the trainer's own tracker too, where it has one open.
        alarms: whether what looks wrong in the metrics is said, once each.
        power: that of ``weights=power``: 1 is native, 0 uniform; None with other weights.
        given: names of the options that were spelled out.
    """

    mode: str = "off"
    weights: str = "native"
    variance: str = "native"
    w_star: float | None = None
    zeta: str = "schedule"
    precision: str = "upstream"
    unique_prompts: bool = False
    tape: str = "device"
    track: bool = True
    alarms: bool = True
    power: float | None = None
    given: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    @property
    def active(self) -> bool:
        """Whether the objective differs from upstream's."""
        return self.mode in ("log", "match", "full")

    @property
    def matching(self) -> bool:
        """Whether the log ratio comes from prediction matching (Eq. 4)."""
        return self.mode in ("match", "full")

    @property
    def recording(self) -> bool:
        """Whether a run folder is written."""
        return self.mode != "off"

    @property
    def reshapes_variance(self) -> bool:
        """Whether a DDIM sampler may draw with the paper's standard deviation: under ``auto`` its schedule decides."""
        return self.variance != "native"

    def on(self, trainer: str) -> PCPOConfig:
        """The configuration as it acts on one trainer, by its name.

        Raises:
            KeyError: no such trainer.
            PCPOError: an option that was spelled out and changes nothing there.
        """
        entry = TRAINERS[trainer]
        if self.unique_prompts and not entry.draws_prompts:
            there = ", ".join(t.name for t in TRAINERS.values() if t.draws_prompts)
            raise PCPOError(
                f"unique_prompts changes nothing on {trainer}, whose prompts of an epoch are drawn once; it is for "
                f"{there}"
            )
        if self.zeta == "trained" and entry.trains == "all":
            raise PCPOError(
                f"zeta=trained changes nothing on {trainer}: every step of its schedule is trained; it is for the "
                "trainers that leave steps out"
            )
        config = self
        if entry.trains == "window" and "zeta" not in self.given:
            # Beyond the window's range no step is ever drawn with noise: the paper's sum has no meaning there.
            config = replace(self, zeta="trained")
        if entry.sampler == "ddim":
            return config
        if self.w_star is not None or (self.variance != "native" and "variance" in self.given):
            name = "w_star" if self.w_star is not None else f"variance={self.variance}"
            raise PCPOError(
                f"{name} changes nothing on {trainer}: PCPO never changes a flow sampler; it is for DDIM"
            )
        return replace(config, variance="native")

    def as_dict(self) -> dict[str, str | float | bool | None]:
        """The fields as plain values, for ``run.json``."""
        fields = asdict(self)
        del fields["given"]
        if self.power is None:
            del fields["power"]  # so that a run of before there was this option is the same run
        return fields

    def __str__(self) -> str:
        defaults = PCPOConfig()
        told = [
            f"{k}={str(v).lower() if isinstance(v, bool) else v}"
            for k, v in self.as_dict().items()
            if k != "mode" and v is not None and not (isinstance(v, bool) and v is getattr(defaults, k))
        ]
        return ",".join([self.mode, *told])


def parse(text: str, source: str = VARIABLE) -> PCPOConfig:
    """Parse ``MODE[,option=value...]``.

    Args:
        text: for example ``full,variance=native,w_star=5``; the empty string is ``off``.
        source: where the text came from, for error messages.

    Raises:
        PCPOError: an unknown mode, option or value, or an option that changes nothing in that mode; the message
            lists the choices.
    """
    mode, *pairs = (part.strip() for part in (text.strip() or "off").split(","))
    mode = mode.lower()
    if mode not in MODES:
        raise PCPOError(f"{source}={text!r}: unknown mode {mode!r}; choose one of {', '.join(MODES)}")

    options: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = (s.strip().lower() for s in pair.partition("="))
        if name not in _ACTS_IN or not equals:
            raise PCPOError(
                f"{source}={text!r}: unknown option {pair!r}; options are written name=value, "
                f"with name one of {', '.join(_ACTS_IN)}"
            )
        if name in options:
            raise PCPOError(f"{source}={text!r}: option {name!r} is given twice")
        if name in _CHOICES and value not in _CHOICES[name]:
            raise PCPOError(
                f"{source}={text!r}: {name}={value} is not a choice; choose one of {', '.join(_CHOICES[name])}"
            )
        if mode not in _ACTS_IN[name]:
            raise PCPOError(
                f"{source}={text!r}: option {name!r} changes nothing in mode {mode!r}; "
                f"it acts in {', '.join(_ACTS_IN[name])}"
            )
        options[name] = value

    if options.get("tape") == "off" and mode in ("match", "full"):
        raise PCPOError(
            f"{source}={text!r}: tape=off leaves mode {mode!r} nothing to match; it is for observe and log"
        )
    if ("power" in options) != (options.get("weights") == "power"):
        raise PCPOError(
            f"{source}={text!r}: weights=power and power=P go together: native weights to the power P, of which 1 is "
            "native and 0 uniform"
        )
    power = _number(options["power"]) if "power" in options else None
    if power is not None and not math.isfinite(power):
        raise PCPOError(f"{source}={text!r}: power must be a number, got {options['power']!r}")
    w_star = None
    if "w_star" in options:
        w_star = _number(options["w_star"])
        if not (math.isfinite(w_star) and w_star > 0):
            raise PCPOError(f"{source}={text!r}: w_star must be a positive number, got {options['w_star']!r}")
        if options.setdefault("variance", "paper") != "paper":
            raise PCPOError(
                f"{source}={text!r}: w_star shapes the paper's variance schedule, which "
                f"variance={options['variance']} does not ask for; drop one of the two"
            )

    if options.get("weights") == "native" and "zeta" in options:
        raise PCPOError(
            f"{source}={text!r}: zeta sets the mean of other weights, weights=native has none to set; "
            "drop one of the two"
        )

    full = mode == "full"
    return PCPOConfig(
        mode=mode,
        weights=options.get("weights", "proportional" if full else "native"),
        variance=options.get("variance", "auto" if full else "native"),
        w_star=w_star,
        power=power,
        zeta=options.get("zeta", "schedule"),
        precision=options.get("precision", "upstream"),
        unique_prompts=options.get("unique_prompts") == "true",
        tape=options.get("tape", "device"),
        track=options.get("track") != "false",
        alarms=options.get("alarms") != "false",
        given=frozenset(options),
    )


def _number(text: str) -> float:
    """A number, or NaN for what is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def resolve(flag: str | None = None, environ: Mapping[str, str] | None = None) -> PCPOConfig:
    """The configuration of this process: the ``--pcpo`` flag if given, else the ``PCPO`` variable, else off."""
    if flag is not None:
        return parse(flag, "--pcpo")
    return parse((os.environ if environ is None else environ).get(VARIABLE, ""), VARIABLE)
