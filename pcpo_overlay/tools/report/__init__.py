"""Comparing runs, by chapters: a chapter is its numbers, its table, its figure and what each number is, in one file.

``reward``      the training's own reward           ``speed``       epochs to reach one, and speed-ups
``quality``     what ``evaluate`` measured           ``mixed_model`` the paper's Tables 3 and 4, on that
``validation``  validation reward and KL             ``clipping``    what is outside the clip range and masked
``gradients``   gradient statistics                  ``ratio``       the policy ratio
``cost``        time and memory                      ``settings``    the runs, and where their settings differ
``overview``    four of them in one picture          ``measures``    what clipping to cost are made with

``compare`` makes the document of all chapters, ``build`` writes it as Markdown, JSON and figures. Below the chapters
lie ``arms`` (what is compared, and how it is told), ``stats``, ``text`` and ``draw``. Runs are read by ``tools.runs``.
pandas is needed throughout; matplotlib (figures) and statsmodels (the mixed model) are imported where they are used.

``report.json`` has format 2. Against format 1 its numbers lie by chapter: what was ``groups[i].clipping`` is
``clipping[i].numbers``, and so with ``gradients``, ``ratio`` (was ``log_ratio``, with the on-policy ratios) and
``cost`` (was ``time``, ``peak_memory_bytes`` and ``tape_bytes``): by name a mean with the extremes over runs;
``curves`` beside ``numbers`` are those of the chapter. ``per_timestep`` is ``timesteps[i]``, ``groups[i].reward`` is
``reward[i]``. ``validation`` and ``kl`` have ``arms``, and hold ``last_common_evaluation`` and what was
``last_common_kl_epoch``. ``groups`` is ``arms``, with label, name, the full configuration and the runs.
``quality.levels`` and ``thresholds`` are where they were.
"""

from __future__ import annotations
