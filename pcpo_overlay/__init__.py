"""PCPO as a patch layer: losses, weights and schedules of Proportionate Credit Policy Optimization.

Importing this package needs torch alone. See ``python -m pcpo_overlay --help`` for the commands.
"""

from __future__ import annotations

__version__ = "0.1.0"
