"""A/B runs: an upstream's own launch path, once per mode and seed.

``arms`` reads the list of modes, ``upstreams`` knows what each upstream's script is called and takes, ``plan`` says
exactly what will be run, ``state`` what an earlier try left behind, ``runner`` runs it.
"""

from __future__ import annotations

from pcpo_overlay.tools.faults import Fault


class ABError(Fault):
    """The A/B comparison cannot be run as asked; the message says why and what to do."""
