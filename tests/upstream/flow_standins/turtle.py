"""Stands in for Python's turtle, of which Bagel's model imports a name that it never uses, and which needs tkinter."""

position = None
