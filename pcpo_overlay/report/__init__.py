"""Reading run folders and comparing them: curves, thresholds with speed-ups, gradients, time.

``runs`` reads what a training run left behind, ``stats`` holds the statistics as pure functions, ``compare`` turns
runs into one JSON-ready document, ``figures`` and ``markdown`` show that document, ``build`` writes all three.
Only ``figures`` needs a library (matplotlib), and imports it when a figure is drawn.
"""

from __future__ import annotations
