"""Where lock and patches are: this repository, or the copies that an installed wheel carries."""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).with_name("shipped")
INSTALLED = (SHIPPED / "vendor.lock").is_file()
ROOT = SHIPPED if INSTALLED else Path(__file__).resolve().parents[2]
LOCK = ROOT / "vendor.lock"
DEST = Path("vendor") if INSTALLED else ROOT / "vendor"
PROGRAM = "pcpo apply" if INSTALLED else "python apply.py"
INSTALL = "pip install GitPython filelock rich" if INSTALLED else 'pip install -e ".[apply]"'
