"""Packages that a script imports and, on the way it is run, never calls: placeholders where they are not installed.

A name taken from a placeholder can be imported and inherited from. What is called says which package is missing.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Iterable, Sequence
from typing import Any


class _Placeholder(type):
    """The class of a name taken from a package that is not there; calling the name is an error that says so."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise ImportError(
            f"{cls.__module__}.{cls.__name__} is needed after all: install {cls.__module__.split('.')[0]}"
        )


class _Module(types.ModuleType):
    """A module that has every name asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Placeholder(name, (), {"__module__": self.__name__})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, packages: Iterable[str]) -> None:
        self._packages = frozenset(packages)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".")[0] not in self._packages:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


def install(packages: Iterable[str]) -> None:
    """Offer placeholders for these top-level packages, behind everything that is installed."""
    sys.meta_path.append(_Finder(packages))
