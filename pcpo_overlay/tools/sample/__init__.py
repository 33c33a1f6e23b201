"""Pictures of a model, of a trained policy or of a mix of both, for every prompt and seed; one folder an arm.

``families``  the pipelines that are drawn from, and how each is asked for a picture
``prompts``   prompts by name or from a file
``folder``    the folder: ``sample.json``, ``manifest.jsonl`` and the PNGs; the one reader and writer of it
``draw``      drawing what a folder lacks
``guidance``  implicit reward guidance: the base model mixed with experts, step by step
``sheet``     a contact sheet of one folder or of several arms

Importing this package needs torch alone; the rest is imported where it is used.
"""

from __future__ import annotations

from pcpo_overlay.tools.faults import Fault


class SampleError(Fault):
    """Pictures cannot be drawn or read; the message says which, why, and what to do."""
