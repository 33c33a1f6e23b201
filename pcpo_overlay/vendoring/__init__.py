"""Clone the upstreams at their pins and carry the overlay's hooks: the logic behind ``apply.py`` and ``pcpo apply``.

One engine (:mod:`.engine`): of every touched file the content before and after is known byte by byte. Nothing here
imports torch; GitPython and filelock are imported where they are used, after the command line looked for them.
"""
