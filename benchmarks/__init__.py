"""What PCPO costs and what it brings, measured; run from a checkout, and no part of the package.

``overhead``     what it costs: a loss step, training, memory, start
``tape_memory``  what a rollout's tape takes, by hand and by the tape itself
``score_size``   what the distances of `pcpo score` take at the paper's size
``on_policy``    the policy ratio before the first update
``learning``     the studies: several seeds of every mode on a miniature
``study_page``   photographs the pages of a preference study
``figures``      redraws every figure from benchmarks/data
``miniatures``   trains the models of digits and of animals
``measuring``    what the commands measure with

Each is a command: ``python -m benchmarks.overhead --help``.
"""

from __future__ import annotations

from pathlib import Path

#: The checkout.
ROOT = Path(__file__).resolve().parents[1]
