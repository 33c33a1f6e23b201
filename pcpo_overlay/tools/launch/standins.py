"""Packages that a script is to find otherwise than they are installed, or without being installed.

What stands in for a package is a file of a folder, under the package's own name: in front of what is installed, or
behind it where something is missing. What is imported and, on the way the script is run, never called needs no file: a
name taken from a placeholder can be imported and inherited from, and says which package is missing when it is called.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def install(
    *, instead: Sequence[Path] = (), where_missing: Sequence[Path] = (), uncalled: Iterable[str] = ()
) -> None:
    """Put stand-ins in this process, before what they stand in for is imported.

    Args:
        instead: folders whose modules are taken in place of any others of their name. A folder in them without
            ``__init__.py`` stands in for nothing itself: ``a/b.py`` alone replaces ``a.b`` within the real ``a``.
        where_missing: folders whose modules are taken where there are no others.
        uncalled: top-level packages that become placeholders where there are no others.
    """
    sys.meta_path[:0] = [_Folder(folder) for folder in instead]
    sys.meta_path += [*map(_Folder, where_missing), _Placeholders(uncalled)]


class _Folder(importlib.abc.MetaPathFinder):
    """The modules of a folder, by their full names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        *parents, name = fullname.split(".")
        place = self._folder.joinpath(*parents)
        for file in (place / name / "__init__.py", place / f"{name}.py"):
            if file.is_file():  # a spec of an __init__.py is a package's
                return importlib.util.spec_from_file_location(fullname, file)
        return None


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


class _Placeholders(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules that have every name, in packages that have every module."""

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
