"""``vendor.lock``: which commit of each upstream, which patches in which order, and which tree comes out."""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from .atomic import read_regular
from .errors import ExitCode
from .paths import HEX40, safe_name, safe_relative

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_HEX64 = re.compile(r"[0-9a-f]{64}")
_URL = re.compile(r"https://[A-Za-z0-9.-]+/[A-Za-z0-9._/-]+")
_FIELDS = {"url": _URL, "commit": HEX40, "tree": HEX40, "patched_tree": HEX40}

_INTRO = """\
# The upstreams this overlay works on, and exactly what it makes of them. Written by `python apply.py refresh`
# and `update --write`; read by every command. Per upstream:
#   commit        the pin
#   tree          git's name of the files at that commit
#   patched_tree  git's name of the files after the patches, in the order listed
#   patches       patch files with the sha256 of each
"""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


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
        raise ExitCode.USAGE.fault(f"no upstream {name!r} in {self.path.name}; it has: {known}")


def load(path: Path) -> Lock:
    """Read and check a lock file; no path in it is used before all of them were checked.

    Raises Fault: BAD_LOCK for a missing or malformed file, UNSAFE_PATH for a name or path that would escape.
    """

    def need(good: object, why: str) -> None:
        if not good:
            raise ExitCode.BAD_LOCK.fault(f"{path}: {why}")

    def matches(pattern: re.Pattern[str], value: object) -> bool:
        return isinstance(value, str) and pattern.fullmatch(value) is not None

    try:
        raw = tomllib.loads(read_regular(path).decode("utf-8"))
    except OSError as error:
        raise ExitCode.BAD_LOCK.fault(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, of tables within tables without end
        raise ExitCode.BAD_LOCK.fault(f"{path}: not valid TOML: {error}") from None
    found, entries = raw.get("format"), raw.get("upstream")
    need(found == 1 and found is not True, f"format is {found!r}; this version reads format 1")
    need(isinstance(entries, list) and entries, "no [[upstream]]")
    upstreams: list[Upstream] = []
    for n, entry in enumerate(entries or (), start=1):
        need(isinstance(entry, dict), f"upstream {n} is not a table")
        name, listed = entry.get("name"), entry.get("patches")
        need(isinstance(name, str), f"upstream {n}: no name")
        where = f"{path.name}, upstream {n} ({name})"
        safe_name(name, where)
        for key, pattern in _FIELDS.items():
            value = entry.get(key)
            need(matches(pattern, value), f"upstream {n}: {key} is {value!r}, expected {pattern.pattern}")
        need(isinstance(listed, list), f"{name}: patches is not a list")
        for item in listed:
            good = isinstance(item, dict) and item.keys() == {"file", "sha256"}
            good = good and isinstance(item["file"], str)
            need(good, f"{name}: a patch needs exactly file and sha256, got {item!r}")
            digest = item["sha256"]
            need(matches(_HEX64, digest), f"{name}: patch {item['file']!r} has a malformed sha256 {digest!r}")
            check_patch_file(path.parent, item["file"], where)
        patches = tuple(PatchEntry(**item) for item in listed)
        upstreams.append(Upstream(name, **{key: entry[key] for key in _FIELDS}, patches=patches))
    names = {upstream.name.lower() for upstream in upstreams}
    need(len(names) == len(upstreams), "an upstream is listed twice")
    files = [patch.file for upstream in upstreams for patch in upstream.patches]
    need(len(set(files)) == len(files), "a patch file is listed twice")
    return Lock(path, tuple(upstreams))


def check_patch_file(root: Path, file: str, where: str) -> None:
    """Refuse a patch file's name that leaves ``patches/``, or that a lock could not hold. Raises Fault: UNSAFE_PATH."""
    for part in safe_relative(file, where).split("/"):
        safe_name(part, where)
    root = root.resolve()
    if not file.startswith("patches/") or not (root / file).resolve().is_relative_to(root / "patches"):
        raise ExitCode.UNSAFE_PATH.fault(f"{where}: patch {file!r} is outside patches/")


def render_entry(upstream: Upstream) -> str:
    """One ``[[upstream]]`` table as it stands in the lock file."""
    lines = ["[[upstream]]", *(f'{key} = "{getattr(upstream, key)}"' for key in ("name", *_FIELDS))]
    patches = [f'  {{ file = "{p.file}", sha256 = "{p.sha256}" }},' for p in upstream.patches]
    lines += ["patches = [", *patches, "]"] if patches else ["patches = []"]
    return "\n".join(lines) + "\n"


def render(lock: Lock) -> str:
    """The whole lock file. All strings were checked on reading, so none needs escaping."""
    return "\n".join([_INTRO, "format = 1\n", *(render_entry(upstream) for upstream in lock.upstreams)])
