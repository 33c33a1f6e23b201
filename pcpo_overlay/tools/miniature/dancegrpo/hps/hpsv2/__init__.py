"""Goes by the name of HPSv2 when a miniature is trained: the reward is the log-odds of what was prompted for.

The real one scores how people would like an image of half a megapixel and needs a gigabyte of weights.
"""
