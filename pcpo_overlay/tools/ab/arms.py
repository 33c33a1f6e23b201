"""The arms of a comparison, from ``--modes`` and ``--mode``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pcpo_overlay.config import PCPOConfig, parse
from pcpo_overlay.tools.runs.labels import label_of, slug

DEFAULT_MODES = "observe,full"
OFF_NOTE = (
    "the baseline runs under observe, not off: the same bits, with the metrics the comparison needs recorded"
)


@dataclass(frozen=True)
class Arm:
    """One mode with its options.

    Attributes:
        config: what the run will resolve ``PCPO`` to on its upstream.
        label: short and parseable, for example ``full,variance=native``; the value of ``PCPO`` too.
    """

    config: PCPOConfig
    label: str

    @property
    def slug(self) -> str:
        """The label as part of a folder's name."""
        return slug(self.label)


def split_modes(text: str) -> list[str]:
    """Split ``--modes`` at its commas; a piece with ``=`` is an option of the mode before it.

    ``observe,full,full,variance=native`` is ``observe``, ``full`` and ``full,variance=native``.
    """
    modes: list[str] = []
    for piece in text.split(","):
        if "=" in piece and modes:
            modes[-1] += f",{piece.strip()}"
        else:
            modes.append(piece.strip())
    return modes


def arms_of(modes: str | None, mode: Sequence[str], upstream: str) -> tuple[list[Arm], list[str]]:
    """The arms in the order given, each once, and notes on what was changed.

    Args:
        modes: the value of ``--modes``, or None.
        mode: the values of each ``--mode``.
        upstream: short name.

    Raises:
        PCPOError: an unknown mode, option or value, where the message lists the choices, or an option that changes
            nothing on this upstream.
    """
    texts = [(text, "--modes") for text in split_modes(modes)] if modes is not None else []
    texts += [(text, "--mode") for text in mode]
    if not texts:
        texts = [(text, "--modes") for text in split_modes(DEFAULT_MODES)]
    arms: list[Arm] = []
    notes: list[str] = []
    for text, source in texts:
        config = parse(text, source)
        if config.mode == "off":
            config = parse("observe", source)
            if OFF_NOTE not in notes:
                notes.append(OFF_NOTE)
        config = config.on(upstream)
        arm = Arm(config, label_of(config, upstream))
        if arm in arms:
            notes.append(f"{arm.label} is asked for more than once and runs once")
        else:
            arms.append(arm)
    return arms, notes
