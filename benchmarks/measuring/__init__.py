"""What `overhead.py` and `on_policy.py` measure with. Not part of the package: run from a checkout."""
