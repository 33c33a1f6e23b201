"""git through GitPython: one repository at a time, addressed explicitly, deaf to surprising user settings.

``GIT_DIR`` is always given. Otherwise git, run in a folder whose ``.git`` is damaged, walks up and works on
whatever repository is above it, which for ``vendor/`` is the overlay's own.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import git

from .errors import ExitCode, Fault, GitFailed

# What the user's own settings must not change here. url.*.insteadOf is theirs to set and keeps working.
_SETTINGS: tuple[tuple[str, str], ...] = (
    ("core.autocrlf", "false"),
    ("core.safecrlf", "false"),
    ("core.hooksPath", os.devnull),
    ("core.fsmonitor", "false"),
    ("core.quotePath", "false"),
    ("core.splitIndex", "false"),
    ("core.attributesFile", os.devnull),
    ("apply.whitespace", "nowarn"),
    ("apply.ignoreWhitespace", "no"),
    ("commit.gpgSign", "false"),
    ("protocol.file.allow", "always"),
    ("submodule.recurse", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("clone.defaultRemoteName", "origin"),
    ("clone.rejectShallow", "false"),
    ("color.ui", "never"),
    ("diff.noprefix", "false"),
    ("diff.mnemonicPrefix", "false"),
    ("advice.detachedHead", "false"),
    ("maintenance.auto", "false"),
    ("gc.auto", "0"),
)

# Variables that would point git at another repository, index or diff program than the one meant.
_STRIPPED = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
    "GIT_EXTERNAL_DIFF",
    "GIT_DIFF_OPTS",
    "GIT_TEMPLATE_DIR",
    "GIT_CEILING_DIRECTORIES",
)


def sanitize_environment() -> None:
    """Drop variables left over from an enclosing git (a hook, a rebase). Called once, by ``apply.py``."""
    for name in _STRIPPED:
        os.environ.pop(name, None)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables every git command gets, on top of the process's own."""
    # Settings the caller passed in the same way come first and stay.
    taken = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
    out = {
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_CONFIG_COUNT": str(taken + len(_SETTINGS)),
    }
    for n, (key, value) in enumerate(_SETTINGS, start=taken):
        out[f"GIT_CONFIG_KEY_{n}"] = key
        out[f"GIT_CONFIG_VALUE_{n}"] = value
    out.update(extra or {})
    return out


@dataclass(frozen=True)
class Outcome:
    """What a git command said."""

    status: int
    stdout: bytes
    stderr: str


def call(command: Sequence[str], cwd: Path, env: Mapping[str, str], stdin: bytes | None = None) -> Outcome:
    """Run ``git COMMAND`` in ``cwd`` and wait for it; a non-zero exit is reported, not raised."""
    with tempfile.TemporaryFile() as given:
        if stdin is not None:
            given.write(stdin)
            given.seek(0)
        status, stdout, stderr = git.Git(str(cwd)).execute(
            ["git", *command],
            istream=given,
            with_extended_output=True,
            with_exceptions=False,
            stdout_as_string=False,
            strip_newline_in_stdout=False,
            env=env,
        )
    if isinstance(stderr, bytes):
        stderr = stderr.decode("utf-8", "replace")
    return Outcome(int(status), bytes(stdout or b""), str(stderr or ""))


@dataclass(frozen=True)
class Entry:
    """A file in a tree or index: git's mode (``100644``) and the object that holds the content."""

    mode: str
    oid: str


@dataclass(frozen=True)
class Repo:
    """A repository with a work tree. ``extra`` holds variables such as ``GIT_INDEX_FILE``."""

    work_tree: Path
    git_dir: Path
    extra: tuple[tuple[str, str], ...] = ()

    @classmethod
    def at(cls, path: Path) -> Repo | None:
        """The repository whose top folder is ``path``, or None if there is none."""
        dot = path / ".git"
        if dot.is_file():  # a linked work tree or a submodule
            text = dot.read_text(encoding="utf-8", errors="replace").strip()
            if not text.startswith("gitdir:"):
                return None
            git_dir = (path / text[len("gitdir:") :].strip()).resolve()
        else:
            git_dir = dot
        if not (git_dir / "HEAD").is_file():
            return None
        return cls(path.resolve(), git_dir.resolve())

    def with_extra(self, **variables: str) -> Repo:
        return Repo(self.work_tree, self.git_dir, (*self.extra, *variables.items()))

    def outcome(self, *command: str, stdin: bytes | None = None) -> Outcome:
        located = {"GIT_DIR": str(self.git_dir), "GIT_WORK_TREE": str(self.work_tree), **dict(self.extra)}
        return call(command, self.work_tree, environment(located), stdin)

    def run(self, *command: str, stdin: bytes | None = None) -> bytes:
        """Standard output of a command that must succeed."""
        result = self.outcome(*command, stdin=stdin)
        if result.status != 0:
            raise GitFailed(list(command), result.status, result.stderr)
        return result.stdout

    def text(self, *command: str, stdin: bytes | None = None) -> str:
        return self.run(*command, stdin=stdin).decode("utf-8", "surrogateescape").strip()

    def resolve(self, revision: str) -> str | None:
        """The 40 digits of a revision, or None if it is not there."""
        result = self.outcome("rev-parse", "--verify", "--quiet", "--end-of-options", revision)
        return result.stdout.decode().strip() if result.status == 0 else None

    def head(self) -> str | None:
        return self.resolve("HEAD^{commit}")

    def has_commit(self, commit: str) -> bool:
        return self.outcome("cat-file", "-e", f"{commit}^{{commit}}").status == 0

    def blob(self, oid: str) -> bytes:
        return self.run("cat-file", "blob", oid)

    def tree_entries(self, tree: str, paths: Sequence[str] = ()) -> dict[str, Entry]:
        """Files of a tree by path; with ``paths``, only those."""
        selection = ["--", *paths] if paths else []
        listing = self.run("ls-tree", "-r", "-z", "--full-tree", tree, *selection)
        out: dict[str, Entry] = {}
        for record in listing.split(b"\0"):
            if record:
                meta, name = record.split(b"\t", 1)
                mode, _kind, oid = meta.decode().split(" ")
                out[name.decode("utf-8", "surrogateescape")] = Entry(mode, oid)
        return out

    def index_entries(self, paths: Sequence[str]) -> dict[str, list[Entry]]:
        """Index entries of some files; more than one for a file with a merge conflict."""
        out: dict[str, list[Entry]] = {}
        if not paths:
            return out
        listing = self.run("ls-files", "-s", "-z", "--", *(f":(top,literal){path}" for path in paths))
        for record in listing.split(b"\0"):
            if record:
                meta, name = record.split(b"\t", 1)
                mode, oid, _stage = meta.decode().split(" ")
                out.setdefault(name.decode("utf-8", "surrogateescape"), []).append(Entry(mode, oid))
        return out

    def write_blob(self, data: bytes) -> str:
        return self.text("hash-object", "-w", "--stdin", "--no-filters", stdin=data)

    def tree_with(self, tree: str, changes: Mapping[str, Entry | None]) -> str:
        """The name of ``tree`` with some files replaced, added, or (None) removed, written in a scratch index."""
        with self.scratch_index() as scratch:
            scratch.run("read-tree", tree)
            scratch.set_index(changes)
            return scratch.text("write-tree", "--missing-ok")

    def set_index(self, changes: Mapping[str, Entry | None]) -> None:
        """Point index entries at objects without looking at the work tree."""
        zero = "0" * 40
        lines = [
            f"0 {zero}\t{path}" if entry is None else f"{entry.mode} {entry.oid} 0\t{path}"
            for path, entry in changes.items()
        ]
        if lines:
            given = "\0".join([*lines, ""]).encode("utf-8", "surrogateescape")
            self.run("update-index", "-z", "--index-info", stdin=given)

    @contextmanager
    def scratch_index(self) -> Iterator[Repo]:
        """The same repository with an empty index of its own, thrown away afterwards."""
        with tempfile.TemporaryDirectory(prefix="pcpo-index-") as folder:
            yield self.with_extra(GIT_INDEX_FILE=str(Path(folder) / "index"))

    @contextmanager
    def scratch_objects(self) -> Iterator[Repo]:
        """The same repository, reading its objects but writing new ones to a folder thrown away afterwards."""
        with tempfile.TemporaryDirectory(prefix="pcpo-objects-") as folder:
            common = self.text("rev-parse", "--git-common-dir")
            objects = (self.work_tree / common / "objects").resolve()
            yield self.with_extra(GIT_OBJECT_DIRECTORY=folder, GIT_ALTERNATE_OBJECT_DIRECTORIES=str(objects))


def blob_oid(data: bytes) -> str:
    """git's name for a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def holes(repo: Repo, commit: str) -> list[str]:
    """Paths of a commit whose content the repository does not have, sorted."""
    listing = repo.text("rev-list", "--objects", "--missing=print", "--no-walk", commit)
    missing = {line[1:] for line in listing.splitlines() if line.startswith("?")}
    if not missing:
        return []
    entries = repo.tree_entries(commit)
    found = sorted(path for path, entry in entries.items() if entry.oid in missing)
    if not missing <= {entry.oid for entry in entries.values()}:
        raise Fault(
            ExitCode.WRONG_TREE, f"{repo.work_tree}: whole folders of {commit} are missing, not only files"
        )
    return found
