"""``python -m pcpo_overlay.compat SCRIPT [ARGS...]``: see :mod:`pcpo_overlay.compat`."""

from __future__ import annotations

import sys

from pcpo_overlay.compat import main

if __name__ == "__main__":
    main(sys.argv[1:])
