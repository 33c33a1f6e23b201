"""Short names of a PCPO configuration: for legends and tables, and for folders."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pcpo_overlay.config import MODES, PCPOConfig, parse


def label(fields: Mapping[str, Any], upstream: str) -> str:
    """The mode and only those options that differ from the mode's defaults on this upstream.

    Args:
        fields: the fields of a :class:`PCPOConfig`, as ``run.json`` keeps them under ``pcpo``: as they act on the
            upstream. A field this version does not know counts as a difference, so that runs of another version never
            share a label by accident.
        upstream: short name; of one this version does not know, the defaults of the mode are taken.

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
    return ",".join([mode, *options])


def _defaults(mode: str, upstream: str) -> dict[str, Any]:
    config = parse(mode)
    with suppress(KeyError):
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


def slug(text: str) -> str:
    """A label as part of a folder's name: ``full,variance=native`` becomes ``full_variance-native``."""
    return text.replace(",", "_").replace("=", "-")
