"""Short names of a PCPO configuration: for commands and files, for people, and for folders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from pcpo_overlay.config import MODES, PCPOConfig, PCPOError, parse

#: What a person reads where upstream's own objective ran.
BASELINE = "baseline"
#: The modes that leave upstream's objective as it is.
_UPSTREAMS = ("off", "observe")


def label(fields: Mapping[str, Any], upstream: str, arm: str | None = None) -> str:
    """The mode and only those options that differ from the mode's defaults on this upstream.

    Args:
        fields: the fields of a :class:`PCPOConfig`, as ``run.json`` keeps them under ``pcpo``: as they act on the
            upstream. A field this version does not know counts as a difference, so that runs of another version never
            share a label by accident.
        upstream: short name; of one this version does not know, the defaults of the mode are taken.
        arm: the name of the objective where the trainer has others than its usual one, for example ``GRPO-Guard``;
            stands in place of the mode where PCPO leaves the objective alone.

    Returns:
        For example ``observe`` or ``full,variance=native``, which :func:`config.parse` reads.
    """
    mode = str(fields.get("mode", "off"))
    defaults = _defaults(mode, upstream) if mode in MODES else {}
    options = [
        f"{name}={_written(value)}"
        for name, value in fields.items()
        if name != "mode" and value is not None and value != defaults.get(name)
    ]
    return ",".join([arm if arm and mode in _UPSTREAMS else mode, *options])


def _defaults(mode: str, upstream: str) -> dict[str, Any]:
    config = parse(mode)
    with suppress(KeyError, PCPOError):
        config = config.on(upstream)
    return config.as_dict()


def _written(value: object) -> str:
    """As it is written after ``PCPO=``."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def label_of(config: PCPOConfig, upstream: str) -> str:
    """:func:`label` of a configuration as it acts on an upstream."""
    return label(config.as_dict(), upstream)


def names(labels: Iterable[str]) -> dict[str, str]:
    """What people read for the labels of one comparison: in every table, legend and page.

    ``baseline`` for upstream's objective, and no option that all of several arms have: ``observe,unique_prompts=true``
    and ``full,unique_prompts=true`` are ``baseline`` and ``full``.
    """
    parts = {held: held.split(",") for held in labels}
    common = set.intersection(*(set(words[1:]) for words in parts.values())) if len(parts) > 1 else set()
    named = {
        held: ",".join(
            [
                BASELINE if words[0] in _UPSTREAMS else words[0],
                *(word for word in words[1:] if word not in common),
            ]
        )
        for held, words in parts.items()
    }
    # "off" beside "observe", and whatever else would be told by its label alone
    taken = list(named.values())
    return {held: name if taken.count(name) == 1 else held for held, name in named.items()}


def slug(text: str) -> str:
    """A label as part of a folder's name: ``full,variance=native`` becomes ``full_variance-native``."""
    return text.replace(",", "_").replace("=", "-")
