"""Scores of sampled folders: of each picture, and of each set against the base model's.

``pixels``      pictures as each network was made to see them
``clip``        CLIPScore, PickScore, HPSv2 and v2.1, and the aesthetic score
``blip``        ImageReward
``ocr``         whether the words that a prompt asks for are written
``inception``, ``lpips``  networks that no library has without torchvision
``statistics``  Fréchet distance and Inception Score, without holding all features at once
``scorers``     by name: what each needs, where that comes from, and how it is loaded
``run``         scoring folders: in pieces that a stop does not lose, to ``scores.jsonl`` and ``sets.jsonl``

Importing this package needs torch alone; the rest is imported where it is used.
"""

from __future__ import annotations

from pcpo_overlay.tools.faults import Fault


class ScoreError(Fault):
    """Something cannot be scored; the message says what, why, and what to do."""
