"""A preference study: people see two pictures of the same prompt and seed, and say which they prefer.

``pairs``   the study's folder: which pairs are shown, and their pictures under names that say nothing
``answers`` who was asked what, and what they answered, in SQLite
``app``     the pages, an ASGI application; ``page/`` has their HTML, style and script
``serve``   the application behind a socket
``tally``   wins, ties and losses, with intervals clustered by participant
``report``  them as tables and stacked bars

Importing this package needs torch alone; the rest is imported where it is used.
"""

from __future__ import annotations

from pcpo_overlay.tools.faults import Fault


class StudyError(Fault):
    """A study cannot be made, served or read; the message says which, why, and what to do."""
