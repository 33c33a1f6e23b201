"""Named points between the steps of a command.

They do nothing. The tests replace :func:`stage` to kill the process at each of them in turn, and
:data:`STAGES` is how they know all of them; naming a point that is not listed is an error at once.
"""

from __future__ import annotations

STAGES = (
    "written-beside",
    "locked",
    "clone-begun",
    "cloned",
    "clone-checked-out",
    "clone-complete",
    "clone-renamed",
    "plan-made",
    "record-written",
    "file-written",
    "index-written",
    "head-moved",
    "settled",
    "patch-written",
    "lock-written",
)


def stage(name: str) -> None:
    """A point where the process may die without loss."""
    if name not in STAGES:
        raise ValueError(f"unknown stage {name!r}; known: {', '.join(STAGES)}")
