"""``vendor.lock``: which commit of each upstream, which patches in which order, and which tree comes out."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .atomic import remove, write_atomically
from .errors import ExitCode, Fault
from .paths import safe_name, safe_relative
from .stages import stage

_HEX40 = re.compile(r"[0-9a-f]{40}")
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
                ExitCode.MISSING_PACKAGE,
                'reading vendor.lock on Python 3.10 needs tomli: pip install -e ".[apply]"',
            ) from None
    return tomllib.loads(text)


def load(path: Path) -> Lock:
    """Read and check a lock file; no path in it is used before all of them were checked.

    Raises:
        Fault: BAD_LOCK for a missing or malformed file, UNSAFE_PATH for a name or path that would escape.
    """

    def bad(why: str) -> Fault:
        return Fault(ExitCode.BAD_LOCK, f"{path}: {why}")

    try:
        raw = _toml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise bad(f"cannot be read: {error.strerror}") from None
    except ValueError as error:  # both TOML and UTF-8 errors
        raise bad(f"not valid TOML: {error}") from None

    if raw.get("format") != 1:
        raise bad(f"format is {raw.get('format')!r}; this version reads format 1")
    entries = raw.get("upstream")
    if not isinstance(entries, list) or not entries:
        raise bad("no [[upstream]]")
    upstreams: list[Upstream] = []
    for n, entry in enumerate(entries):
        where = f"{path.name}, upstream {n + 1}"
        if not isinstance(entry, dict):
            raise bad(f"upstream {n + 1} is not a table")

        def field(key: str, pattern: re.Pattern[str], entry: dict[str, Any] = entry, n: int = n) -> str:
            value = entry.get(key)
            if not isinstance(value, str) or not pattern.fullmatch(value):
                raise bad(f"upstream {n + 1}: {key} is {value!r}, expected {pattern.pattern}")
            return value

        name = entry.get("name")
        if not isinstance(name, str):
            raise bad(f"upstream {n + 1}: no name")
        safe_name(name, where)
        patches: list[PatchEntry] = []
        listed = entry.get("patches")
        if not isinstance(listed, list):
            raise bad(f"{name}: patches is not a list")
        for item in listed:
            if not isinstance(item, dict) or set(item) != {"file", "sha256"}:
                raise bad(f"{name}: a patch needs exactly file and sha256, got {item!r}")
            file, digest = item["file"], item["sha256"]
            if not isinstance(file, str) or not isinstance(digest, str) or not _HEX64.fullmatch(digest):
                raise bad(f"{name}: patch {file!r} has a malformed sha256 {digest!r}")
            safe_relative(file, f"{where} ({name})")
            folder = path.parent.resolve()
            if not file.startswith("patches/") or not (folder / file).resolve().is_relative_to(
                folder / "patches"
            ):
                raise Fault(ExitCode.UNSAFE_PATH, f"{where} ({name}): patch {file!r} is outside patches/")
            patches.append(PatchEntry(file, digest))
        upstreams.append(
            Upstream(
                name=name,
                url=field("url", _URL),
                commit=field("commit", _HEX40),
                tree=field("tree", _HEX40),
                patched_tree=field("patched_tree", _HEX40),
                patches=tuple(patches),
            )
        )
    names = [upstream.name for upstream in upstreams]
    if len({name.lower() for name in names}) != len(names):
        raise bad("an upstream is listed twice")
    files = [patch.file for upstream in upstreams for patch in upstream.patches]
    if len(set(files)) != len(files):
        raise bad("a patch file is listed twice")
    return Lock(path, tuple(upstreams))


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


def _waiting(file: Path) -> Path:
    return file.with_name(f".{file.name}.new")


def save(lock: Lock, changed: Upstream, files: Mapping[str, bytes]) -> None:
    """Replace an upstream's entry together with its patch files, so that dying in between leaves the old or the new.

    The new files wait under other names until the lock is written; from then on :func:`finish` moves them into place,
    here or at the start of the next run.

    Args:
        files: content of each patch file of ``changed``, by its name in the lock.
    """
    for stale in (lock.root / "patches" / changed.name).glob(".*.patch.new"):
        remove(stale)
    for file, data in files.items():
        path = lock.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != data:
            write_atomically(_waiting(path), data)
        stage("patch-written")
    after = load(lock.path).with_upstream(
        changed
    )  # as it is now: another upstream's entry may have changed since
    write_atomically(lock.path, render(after).encode(), shared=True)  # with a run on another upstream
    stage("lock-written")
    finish(after)
    kept = {entry.file for entry in changed.patches}
    for entry in lock.get(changed.name).patches:
        if entry.file not in kept:
            remove(lock.root / entry.file)


def finish(lock: Lock) -> list[str]:
    """Move into place the patch files that the lock lists and that wait beside; returns their names."""
    done: list[str] = []
    for upstream in lock.upstreams:
        for entry in upstream.patches:
            waiting = _waiting(lock.root / entry.file)
            try:
                if hashlib.sha256(waiting.read_bytes()).hexdigest() == entry.sha256:
                    waiting.replace(lock.root / entry.file)
                    done.append(entry.file)
            except FileNotFoundError:  # the usual case, or another run was faster
                continue
    return done
