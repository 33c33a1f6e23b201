"""Comparing runs, by chapters: a chapter is its numbers, its table, its figure and what each number is, in one file.

``reward``      the training's own reward           ``speed``       epochs to reach one, and speed-ups
``quality``     what ``evaluate`` measured           ``mixed_model`` the paper's Tables 3 and 4, on that
``validation``  validation reward and KL             ``clipping``    what is outside the clip range and masked
``gradients``   gradient statistics                  ``ratio``       the policy ratio
``cost``        time and memory                      ``settings``    the runs, and where their settings differ
``overview``    four of them in one picture

``compare`` makes the document of all chapters, ``build`` writes it as Markdown, JSON and figures. Below the chapters
lie ``arms`` (what is compared, and how it is told), ``stats``, ``text`` and ``draw``. Runs are read by ``tools.runs``.
pandas is needed throughout; matplotlib (figures) and statsmodels (the mixed model) are imported where they are used.

``report.json`` has format 2. Against format 1 its numbers lie by chapter: what was ``groups[i].clipping`` is
``clipping[i]``, and so with ``reward``, ``gradients`` (``grad_norm_early`` is ``grad_norm.early``),
``validation`` and ``kl``; ``log_ratio`` and the on-policy ratios are in ``ratio``, ``time``, ``peak_memory_bytes`` and
``tape_bytes`` in ``cost``, ``per_timestep`` in ``clipping`` (``early``, ``late``), and a curve in the chapter of its
number. ``groups`` is ``arms``, with label, name, the full configuration and the runs. ``last_common_evaluation`` and
``last_common_kl_epoch`` are in ``validation`` and ``kl``. ``quality.levels`` and ``thresholds`` are where they were.
"""

from __future__ import annotations
