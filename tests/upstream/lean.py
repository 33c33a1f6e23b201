"""A second less for every process: libraries that transformers and diffusers import only because they are installed."""

from __future__ import annotations

import sys

#: For the search of generated texts and for two schedulers, neither of which any of these trainers uses.
UNUSED = ("sklearn", "scipy")


def without_unused() -> None:
    """Let this process be in an environment that lacks them; to be called before the first import of either."""
    for name in UNUSED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
