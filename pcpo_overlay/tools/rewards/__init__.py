"""The scorers of ``pcpo score`` as rewards in the trainers of all three upstreams, without a patch.

``scored``            a scorer, of the pictures as trainers give them
``named``             by name through a config file: what the files of ddpo-pytorch and flow_grpo have in common
``ddpo_config``, ``flow_grpo_config``  files for ``--config`` of those upstreams' trainers
``dancegrpo``         a folder in which DanceGRPO's trainers train on one
``hps``               a package in that folder, which goes by the name of HPSv2 and gives the reward

What a reward is, which weights it needs and how it sees a picture stands in :mod:`pcpo_overlay.tools.score.scorers`
alone. Importing this package needs torch alone; the rest is imported where it is used.
"""
