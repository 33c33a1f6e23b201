"""``vendor.lock``: which commit of each upstream, which patches in which order, and which tree comes out."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .atomic import read_regular
from .errors import ExitCode, Fault
from .home import INSTALL
from .paths import HEX40, safe_name, safe_relative

_HEX64 = re.compile(r"[0-9a-f]{64}")
_URL = re.compile(r"https://[A-Za-z0-9.-]+/[A-Za-z0-9._/-]+")

_INTRO = """\
# The upstreams this overlay works on, and exactly what it makes of them. Written by `python apply.py refresh`
# and `update --write`; read by every command. Per upstream:
#   commit        the pin
#   tree          git's name of the files at that commit
#   patched_tree  git's name of the files after the patches, in the order listed
#   patches       patch files with the sha256 of each
"""


@dataclass(frozen=True)
class PatchEntry:
    """A patch file, relative to the folder that holds ``vendor.lock``, and the sha256 of its bytes."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Upstream:
    """One upstream's pin. ``commit``, ``tree``, ``patched_tree`` are 40 hexadecimal digits."""

    name: str
    url: str
    commit: str
    tree: str
    patched_tree: str
    patches: tuple[PatchEntry, ...]


@dataclass(frozen=True)
class Lock:
    """The parsed lock file. ``root`` is the folder that patch paths are relative to."""

    path: Path
    upstreams: tuple[Upstream, ...]

    @property
    def root(self) -> Path:
        return self.path.parent

    def get(self, name: str) -> Upstream:
        for upstream in self.upstreams:
            if upstream.name == name:
                return upstream
        known = ", ".join(upstream.name for upstream in self.upstreams)
        raise Fault(ExitCode.USAGE, f"no upstream {name!r} in {self.path.name}; it has: {known}")

    def with_upstream(self, changed: Upstream) -> Lock:
        return replace(
            self, upstreams=tuple(changed if u.name == changed.name else u for u in self.upstreams)
        )


def _toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError:
            raise Fault(
                ExitCode.MISSING_PACKAGE, f"reading vendor.lock on Python 3.10 needs tomli: {INSTALL}"
            ) from None
    return tomllib.loads(text)


def load(path: Path) -> Lock:
    """Read and check a lock file; no path in it is used before all of them were checked.

    Raises Fault: BAD_LOCK for a missing or malformed file, UNSAFE_PATH for a name or path that would escape.
    """

    def need(good: object, why: str) -> None:
        if not good:
            raise Fault(ExitCode.BAD_LOCK, f"{path}: {why}")

    try:
        raw = _toml(read_regular(path).decode("utf-8"))
    except OSError as error:
        raise Fault(ExitCode.BAD_LOCK, f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, of tables within tables without end
        raise Fault(ExitCode.BAD_LOCK, f"{path}: not valid TOML: {error}") from None
    found = raw.get("format")
    need(found == 1 and not isinstance(found, bool), f"format is {found!r}; this version reads format 1")
    entries = raw.get("upstream")
    need(isinstance(entries, list) and entries, "no [[upstream]]")
    upstreams: list[Upstream] = []
    for n, entry in enumerate(entries or (), start=1):
        need(isinstance(entry, dict), f"upstream {n} is not a table")
        name, listed = entry.get("name"), entry.get("patches")
        where = f"{path.name}, upstream {n} ({name})"
        need(isinstance(name, str), f"upstream {n}: no name")
        safe_name(name, where)
        for key, pattern in (("url", _URL), ("commit", HEX40), ("tree", HEX40), ("patched_tree", HEX40)):
            value = entry.get(key)
            good: object = isinstance(value, str) and pattern.fullmatch(value)
            need(good, f"upstream {n}: {key} is {value!r}, expected {pattern.pattern}")
        need(isinstance(listed, list), f"{name}: patches is not a list")
        for item in listed:
            good = (
                isinstance(item, dict) and set(item) == {"file", "sha256"} and isinstance(item["file"], str)
            )
            need(good, f"{name}: a patch needs exactly file and sha256, got {item!r}")
            digest = item["sha256"]
            good = isinstance(digest, str) and _HEX64.fullmatch(digest)
            need(good, f"{name}: patch {item['file']!r} has a malformed sha256 {digest!r}")
            check_patch_file(path.parent, item["file"], where)
        patches = tuple(PatchEntry(item["file"], item["sha256"]) for item in listed)
        keys = ("name", "url", "commit", "tree", "patched_tree")
        upstreams.append(Upstream(**{key: entry[key] for key in keys}, patches=patches))
    names = [upstream.name.lower() for upstream in upstreams]
    need(len(set(names)) == len(names), "an upstream is listed twice")
    files = [patch.file for upstream in upstreams for patch in upstream.patches]
    need(len(set(files)) == len(files), "a patch file is listed twice")
    return Lock(path, tuple(upstreams))


def check_patch_file(root: Path, file: str, where: str) -> None:
    """Refuse a patch file's name that leaves ``patches/``, or that a lock could not hold.

    Raises Fault: UNSAFE_PATH.
    """
    for part in safe_relative(file, where).split("/"):
        safe_name(part, where)
    root = root.resolve()
    if not file.startswith("patches/") or not (root / file).resolve().is_relative_to(root / "patches"):
        raise Fault(ExitCode.UNSAFE_PATH, f"{where}: patch {file!r} is outside patches/")


def render_entry(upstream: Upstream) -> str:
    """One ``[[upstream]]`` table as it stands in the lock file."""
    lines = ["[[upstream]]"]
    for key in ("name", "url", "commit", "tree", "patched_tree"):
        lines.append(f'{key} = "{getattr(upstream, key)}"')
    if upstream.patches:
        lines.append("patches = [")
        lines += [f'  {{ file = "{p.file}", sha256 = "{p.sha256}" }},' for p in upstream.patches]
        lines.append("]")
    else:
        lines.append("patches = []")
    return "\n".join(lines) + "\n"


def render(lock: Lock) -> str:
    """The whole lock file. All strings were checked on reading, so none needs escaping."""
    return "\n".join([_INTRO, "format = 1\n", *(render_entry(upstream) for upstream in lock.upstreams)])
