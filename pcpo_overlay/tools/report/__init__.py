"""Reading run folders and comparing them: curves, thresholds with speed-ups, gradients, time.

``runs`` reads what a training run left behind, ``stats`` holds the statistics as pure functions, ``compare`` turns
runs into one JSON-ready document, with ``validation``, ``quality`` and ``mixed_model`` where there is something for
them; ``figures``, ``markdown`` and ``quality_tables`` show that document, ``build`` writes it all. Only ``figures``
(matplotlib) and ``mixed_model`` (statsmodels) need a library, and import it when they are used.
"""

from __future__ import annotations
