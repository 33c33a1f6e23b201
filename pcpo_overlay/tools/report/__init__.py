"""Comparing runs, by chapters: a chapter is its numbers, its table, its figure and what each number is, in one file.

``reward``      the training's own reward           ``speed``       epochs to reach one, and speed-ups
``quality``     what ``evaluate`` measured           ``mixed_model`` the paper's Tables 3 and 4, on that
``validation``  validation reward and KL             ``clipping``    what is outside the clip range and masked
``gradients``   gradient statistics                  ``ratio``       the policy ratio
``cost``        time and memory                      ``settings``    the runs, and what each resolved to
``scored``      the same of scored folders          ``paper_tables`` the paper's, below a user's own
``overview``    four of them in one picture          ``chapter``     what those of a number an epoch are made with
                                                    ``levels``      what ``speed`` and ``quality`` have in common

``compare`` makes the document of all chapters, ``build`` writes it as Markdown, JSON (format 3: numbers by chapter) and
figures. Below the chapters lie ``arms`` (how arms are told), ``stats``, ``text`` and ``draw``. Runs are read by
``tools.runs``. pandas is needed throughout; matplotlib (figures) and statsmodels (the mixed model) where they are used.
"""
