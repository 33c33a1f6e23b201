"""Rewards that a trainer asks over HTTP: a vision-language model's answers, compared by BERTScore.

- ``protocol``: what the client sends and gets, read so that nothing in it is run
- ``vlm``, ``bertscore``: the two models
- ``worker``: one thread that answers, a bounded queue before it, a cache behind it
- ``app``: the server
"""
