"""The variables that steer git, of which an enclosing git may have left some."""

from __future__ import annotations

import os
import re

# Of the variables that steer git, those about the network and the user's configuration are the user's to set.
_KEPT = (
    *(
        "GIT_SSH",
        "GIT_SSL",
        "GIT_HTTP",
        "GIT_PROXY",
        "GIT_CURL",
        "GIT_ASKPASS",
        "GIT_EXEC_PATH",
        "GIT_CONFIG_",
    ),
    *("GIT_ALLOW_PROTOCOL", "GIT_PROTOCOL", "GIT_PYTHON_"),
)


def sanitize_environment() -> None:
    """Drop variables left over from an enclosing git (a hook, ``git -c``, a rebase). Called once."""
    env = os.environ
    for name in [name for name in env if name.startswith("GIT_") and not name.startswith(_KEPT)]:
        del env[name]
    count = env.get("GIT_CONFIG_COUNT", "0")
    pairs = range(int(count)) if re.fullmatch(r"[0-9]{1,4}", count) else None
    if pairs is None or any(f"GIT_CONFIG_{part}_{n}" not in env for n in pairs for part in ("KEY", "VALUE")):
        env.pop("GIT_CONFIG_COUNT", None)  # git itself would refuse to run
