"""Clone the upstreams at their pins and carry the overlay's hooks: the logic behind ``apply.py``.

Nothing here imports torch. GitPython, filelock and rich are imported by the modules that use them
(:mod:`.gitio`, :mod:`.mutex`, :mod:`.clone`); ``apply.py`` checks for all three before it loads those.
"""
