"""The table of a sampler's weights: ``pcpo weights``."""
