"""The doctor: what one epoch of a trainer shows, with PCPO or without, and the line to type next.

``findings`` reads a run folder, ``page`` words it, ``launch`` makes a folder from the user's own launch line.
"""

from __future__ import annotations

from pcpo_overlay.tools.faults import Fault


class DoctorError(Fault):
    """There is no epoch to look at; the message says why and what to do."""
