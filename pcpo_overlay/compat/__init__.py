"""What the upstreams need of their pinned libraries and today's no longer have; active only where it is missing.

One file an upstream. ``python -m pcpo_overlay.compat SCRIPT [ARGS...]`` runs an unpatched upstream script on the same
footing as a patched one, for comparisons.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from pcpo_overlay.compat import dancegrpo, ddpo, flow_grpo, python
from pcpo_overlay.trainers import TRAINERS, of_script

#: By the upstream's name in ``vendor.lock``.
_SUPPLY = {"ddpo-pytorch": ddpo.install, "DanceGRPO": dancegrpo.install, "flow_grpo": flow_grpo.install}


def install(trainer: str = "ddpo") -> None:
    """Supply everything that is missing; calling it again, or where nothing is missing, does nothing.

    Args:
        trainer: its name in :mod:`pcpo_overlay.trainers`.
    """
    install_for(TRAINERS[trainer].upstream)


def install_for(upstream: str) -> None:
    """As :func:`install`, for any script of an upstream by its name in ``vendor.lock``."""
    python.install()
    supply = _SUPPLY.get(upstream)  # an upstream that lacks nothing has no file here
    if supply is not None:
        supply()


def upstream_of(script: Path) -> str:
    """Whose script it is: of a trainer that PCPO knows, or by the way the upstreams name theirs."""
    trainer = of_script(script)
    if trainer is not None:
        return trainer.upstream
    if script.name.startswith("train_grpo_"):
        return "DanceGRPO"
    return "flow_grpo" if script.name.startswith("train_") else "ddpo-pytorch"


def main(argv: list[str]) -> None:
    """Run an unpatched upstream script with the compatibility layer installed."""
    if not argv:
        print("usage: python -m pcpo_overlay.compat SCRIPT [ARGS...]", file=sys.stderr)
        raise SystemExit(2)
    sys.argv = argv
    install_for(upstream_of(Path(argv[0])))
    sys.path[0] = str(Path(argv[0]).resolve().parent)
    runpy.run_path(argv[0], run_name="__main__")
