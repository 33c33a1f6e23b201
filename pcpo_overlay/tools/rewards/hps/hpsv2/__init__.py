"""Goes by the name of HPSv2 in a folder of ``pcpo reward``: the reward is any of ``pcpo score``'s."""
