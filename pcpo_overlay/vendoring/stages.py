"""Named points between the steps of a command. They do nothing: the tests kill the process at each of them in turn."""

from __future__ import annotations

STAGES = (
    *(
        "written-beside",
        "locked",
        "clone-begun",
        "cloned",
        "clone-checked-out",
        "clone-complete",
        "clone-renamed",
    ),
    *("plan-made", "record-written", "file-written", "index-written", "head-moved", "settled"),
    *("lock-begun", "patch-written", "lock-written"),
)


def stage(name: str) -> None:
    """A point where the process may die without loss. Raises ValueError: the tests would not know of it."""
    if name not in STAGES:
        raise ValueError(f"unknown stage {name!r}; known: {', '.join(STAGES)}")
