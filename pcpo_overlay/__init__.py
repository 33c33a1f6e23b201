"""PCPO as a patch layer: losses, weights and schedules of Proportionate Credit Policy Optimization.

What runs in a trainer, and is what a reviewer audits (``tests/test_walls.py`` holds the list; torch alone is needed):

- ``hooks``: the calls that patches insert into upstream's scripts
- ``config``: modes and options; ``trainers``: one entry per training script
- ``losses``, ``weights``, ``variance``, ``schedules``: the formulas, in the paper's symbols
- ``steps``: a sampler's schedule in use, resolved once
- ``tape``, ``rollout``, ``objective``, ``session``: what a rollout records, what a step is trained on, what ties them
- ``flow_grpo``: what that upstream alone needs; ``ranks``, ``files``, ``messages``: processes, files, words
- ``record/``: metrics, alarms, gradients, the run folder, and the trainer's own tracker
- ``compat/``: what an upstream's pinned libraries had and today's no longer have, one file an upstream

What never does:

- ``tools/``: ``runs`` (the reader of run folders), ``checkpoints`` (and the policies in them), ``ab``, ``doctor``,
  ``report``, ``evaluate``, ``sample`` (pictures, and guidance), ``score`` (of pictures), ``rewards`` (such
  scores in a trainer), ``serve`` (a reward over HTTP), ``study`` (what is preferred), ``paper``, ``weights``,
  ``miniature``, ``launch``, ``cli``
- ``vendoring/``: ``apply.py``

Importing this package needs torch alone. See ``python -m pcpo_overlay --help`` for the commands.
"""

from __future__ import annotations

__version__ = "0.1.0"
