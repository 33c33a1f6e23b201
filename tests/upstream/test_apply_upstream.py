"""apply.py on the real upstreams at their pins."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


@pytest.mark.upstream
def test_session_clones_are_at_the_pin(ddpo_pristine: Path, ddpo_patched: Path) -> None:
    for clone in (ddpo_pristine, ddpo_patched):
        head = subprocess.run(
            ["git", "-C", str(clone), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        assert head == "1958463f020112c9a7bc85768d296daacc2e1b4b"
        assert (clone / "scripts" / "train.py").is_file()
