"""Short names of a PCPO configuration: for legends and tables, and for folders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pcpo_overlay.config import MODES, PCPOConfig, parse


def label(fields: Mapping[str, Any]) -> str:
    """The mode and only those options that differ from the mode's defaults, as :func:`config.parse` reads them.

    Args:
        fields: the fields of a :class:`PCPOConfig`, as ``run.json`` keeps them under ``pcpo``. A field this version
            does not know counts as a difference, so that runs of another version never share a label by accident.

    Returns:
        For example ``observe`` or ``full,variance=native``.
    """
    mode = str(fields.get("mode", "off"))
    defaults: Mapping[str, Any] = parse(mode).as_dict() if mode in MODES else {}
    options = [
        f"{name}={_written(value)}"
        for name, value in fields.items()
        if name != "mode" and value is not None and value != defaults.get(name)
    ]
    return ",".join([mode, *options])


def _written(value: object) -> str:
    """As it is written after ``PCPO=``."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def label_of(config: PCPOConfig) -> str:
    """:func:`label` of a configuration in hand."""
    return label(config.as_dict())


def slug(text: str) -> str:
    """A label as part of a folder's name: ``full,variance=native`` becomes ``full_variance-native``."""
    return text.replace(",", "_").replace("=", "-")
