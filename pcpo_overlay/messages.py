"""What a run says to its user while it trains."""

from __future__ import annotations

import sys


def say(message: str) -> None:
    """One line on stderr; where a progress bar of tqdm is being drawn, above it."""
    line = f"[pcpo] {message}"
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)  # not imported: there is no bar
    if tqdm is None:
        print(line, file=sys.stderr, flush=True)
        return
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()
