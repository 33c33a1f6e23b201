"""The doctor's page, as text."""

from __future__ import annotations

import textwrap

from pcpo_overlay.tools.doctor.findings import Findings, Step
from pcpo_overlay.tools.report.text import number, spelled, table

_WIDTH = 100


def page(found: Findings, command: str) -> str:
    """All that was found, and the line to type next.

    Args:
        command: the user's launch line; what stands before it in the page is the mode.
    """
    at = f", at {found.commit[:12]}" if found.commit else ""
    many = f"{found.samples} sample-timesteps" if found.samples else "all sample-timesteps"
    clip = "" if found.clip_range is None else f" of {found.clip_range:g}"
    lines = [
        f"{found.trainer}{at}, {found.label}: epoch {found.epoch}",
        "",
        f"Before the first update, {many}. The policy is the one that sampled, so every ratio should be 1.",
        *_table(
            ("ratio", f"{found.lowest:.7g} to {found.highest:.7g}, off by up to {found.off:.1e}"),
            ("outside the clip range", f"{found.outside:.1%}, with a clip range{clip}"),
            ("masked, without gradient", f"{found.masked:.1%}"),
            ("groups without spread", _share(found.groups_without_spread)),
            ("precision", _precision(found)),
            ("tape of match and full", _memory(found)),
        ),
        "",
        _by_step(found.steps),
        "",
        "Verdict",
    ]
    lines += [line for words in found.verdict for line in _wrapped(words)]
    return "\n".join([*lines, "", f"Next: PCPO={found.mode} {command}"])


def _table(*rows: tuple[str, str]) -> list[str]:
    return [f"  {name:26}{value}" for name, value in rows]


def _share(value: float | None) -> str:
    return "not known: this trainer has no groups of two and more" if value is None else f"{value:.1%}"


def _precision(found: Findings) -> str:
    dtypes = {name: held for name, held in found.precision.items() if isinstance(held, str)}
    said = [f"{name.replace('_', ' ')} {held}" for name, held in dtypes.items()] or ["not recorded"]
    if found.mixed_precision:
        said.append(f"mixed_precision {found.mixed_precision}")
    if found.precision.get("samples_as_trained") is False:
        said.append("sampled outside the autocast of training")
    return ", ".join(said)


def _memory(found: Findings) -> str:
    if found.tape_bytes is None:
        return "not recorded"
    peak = found.peak_memory_bytes
    of = "" if not peak else f", {found.tape_bytes / peak:.1%} of the epoch's peak of {_bytes(peak)}"
    return f"{_bytes(found.tape_bytes)} a rank{of}"


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def _by_step(steps: list[Step]) -> str:
    heads = ("timestep", "ratio", "largest off", "outside", "masked", "native weight", "credit", "of the way")
    rows = [
        [
            f"{s.timestep:g}",
            spelled("{:.7g}")(s.ratio),
            "-" if s.off is None else f"{s.off:.1e}" if s.off else "0",
            *("-" if share is None else f"{share:.1%}" for share in (s.outside, s.masked)),
            number(s.weight),
            *("-" if share is None else f"{share:.1%}" for share in (s.credit, s.way)),
        ]
        for s in steps
    ]
    return table(heads, rows)


def _wrapped(words: str) -> list[str]:
    return textwrap.wrap(words, _WIDTH, initial_indent="- ", subsequent_indent="  ")
