"""Stand-in for decord, a video reader: imported with upstream's data sets for supervised training, not called."""
