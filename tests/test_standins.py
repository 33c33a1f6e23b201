"""Stand-ins for packages: which of several modules of a name a script is given."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from pcpo_overlay.tools.launch import standins


@pytest.fixture(autouse=True)
def own_import_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


def module(folder: Path, name: str, says: str) -> None:
    file = folder.joinpath(*name.split(".")).with_suffix(".py")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"said = {says!r}\n")


def test_instead_of_what_is_installed_and_where_nothing_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed, instead, missing = (tmp_path / name for name in ("installed", "instead", "missing"))
    monkeypatch.syspath_prepend(str(installed))
    for folder, names in (
        (installed, ("standing_a", "standing_b")), (instead, ("standing_a",)),
        (missing, ("standing_b", "standing_c")),
    ):  # fmt: skip
        for name in names:
            module(folder, name, folder.name)
    standins.install(instead=[instead], where_missing=[missing], uncalled=["standing_c", "standing_d"])
    said = {name: importlib.import_module(f"standing_{name}").said for name in "abc"}
    assert said == {"a": "instead", "b": "installed", "c": "missing"}
    with pytest.raises(ImportError, match=r"standing_d\.called is needed after all: install standing_d"):
        importlib.import_module("standing_d").called()


def test_one_module_deep_in_a_real_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's folder among the stand-ins has no __init__.py, so the package stays itself."""
    real, instead = tmp_path / "real", tmp_path / "instead"
    monkeypatch.syspath_prepend(str(real))
    for name in ("standing.__init__", "standing.deep.__init__", "standing.deep.one", "standing.deep.two"):
        module(real, name, "real")
    module(instead, "standing.deep.two", "stand-in")
    standins.install(instead=[instead])
    names = ("standing", "standing.deep", "standing.deep.one", "standing.deep.two")
    assert [importlib.import_module(name).said for name in names] == ["real", "real", "real", "stand-in"]


def test_a_package_with_modules_of_its_own(tmp_path: Path) -> None:
    for name in ("standing.__init__", "standing.deep.__init__", "standing.deep.one"):
        module(tmp_path, name, name)
    standins.install(instead=[tmp_path])
    assert importlib.import_module("standing.deep.one").said == "standing.deep.one"
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("standing.two")
