"""What every upstream needs of Python before 3.12."""

from __future__ import annotations

import importlib.util
import sys
import types


def install() -> None:
    """``imp.load_source`` for config files, gone in Python 3.12."""
    if sys.version_info < (3, 12) or "imp" in sys.modules:
        return

    def load_source(name: str, path: str) -> types.ModuleType:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    imp = types.ModuleType("imp", "load_source, as Python had it before 3.12; supplied by pcpo_overlay.")
    vars(imp)["load_source"] = load_source
    sys.modules["imp"] = imp
