"""The subcommands of ``python -m pcpo_overlay``: one module each, with ``add_parser`` and ``run``."""
