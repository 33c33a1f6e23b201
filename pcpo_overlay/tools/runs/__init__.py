"""Run folders as they lie on disk: the one reader of ``report``, ``ab``, ``evaluate`` and the benchmarks.

``files`` reads JSON that anybody may have written, within bounds; ``run`` knows what a run folder holds, ``policies``
what was evaluated of it, ``tail`` follows one that grows, ``settings`` asks the trainers what a run was asked for,
``labels`` names its arm, ``arms`` gathers runs by it, ``differences`` tells where they do not match up. Nothing here
writes, and nothing but series of a run or an arm needs more than the standard library: those are pandas'.
"""

from __future__ import annotations
