#!/usr/bin/env python3
"""Clone the upstreams at their pins and put the overlay's hooks in: ``python apply.py --help``.

Works from a clone of this repository without installing it. It needs GitPython, filelock and rich
(``pip install -e ".[apply]"``), and no torch. The logic is in ``pcpo_overlay/vendoring``.
"""

from __future__ import annotations

import sys

from pcpo_overlay.vendoring.cli import main

if __name__ == "__main__":
    sys.exit(main())
