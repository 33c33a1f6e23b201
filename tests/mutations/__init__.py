"""Faults put into what runs in a trainer, one at a time, to see that a fast test fails for each.

``python -m tests.mutations`` runs them all and prints what survived; ``listed`` holds them.
"""
