"""What the checkpoints of a miniature's run draw: reward, accuracy, diversity and distance to the model it began as.

``measures``  the numbers, as pure functions of classifier features
``readers``   whose prompts are drawn, and the classifier that reads them
``rewards``   the rewards that runs of the miniatures were trained on, computed here
``loaders``   one per upstream: what its runs were sampled and rewarded with
``samples``   drawing a policy's images and keeping what is measured of them
``records``   ``evaluation.jsonl``, and what is done already
``run``       one run folder from its checkpoints to its records

Importing this package needs torch alone; the rest is imported where it is used.
"""

from __future__ import annotations

from pcpo_overlay.tools.faults import Fault


class EvaluationError(Fault):
    """A run or a checkpoint cannot be evaluated; the message says which, why, and what to do."""
