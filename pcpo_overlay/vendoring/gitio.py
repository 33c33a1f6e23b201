"""git through GitPython, for objects, hashes and fetching only; it never touches a work tree or index of the user's.

There are two ways to run it. In a :class:`Scratch` repository, which reads the objects of others but shares no
configuration with them or the user: nothing that a clone's ``.git/config`` or a user's settings say can change what
comes out, or run. And :func:`outer`, with the user's own settings, to find a repository, reach an upstream, move HEAD.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import git

from .atomic import Seen, read_regular
from .errors import ExitCode, disk_full, spoken
from .paths import HEX40

OLDEST = (2, 25)
#: File descriptors that git's processes inherit: a lock is held until the last of a killed run's processes is gone.
inherited: set[int] = set()
# What the user's own settings must not change where they are read at all.
_SETTINGS = (
    *(f"core.hooksPath={os.devnull}", "core.fsmonitor=false", "protocol.file.allow=always", "color.ui=false"),
    *("fetch.recurseSubmodules=false", "fetch.writeCommitGraph=false", "maintenance.auto=false", "gc.auto=0"),
)


def require_git() -> None:
    """Raises Fault: MISSING_PACKAGE, in one line, for a git that is too old."""
    found = git.Git().version_info
    if tuple(found[:2]) < OLDEST:
        found, oldest = (".".join(str(part) for part in version) for version in (found, OLDEST))
        raise ExitCode.MISSING_PACKAGE.fault(f"git {found} is too old; git {oldest} or newer is needed")


def decode(data: bytes) -> str:
    """Bytes to text without loss, whatever the encoding."""
    return data.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Outcome:
    """What a git command said."""

    command: str
    status: int
    stdout: bytes
    stderr: str

    @property
    def words(self) -> str:
        return spoken(self.stderr, self.status)

    def must(self) -> bytes:
        """Its output. Raises Fault if it failed: UNWRITABLE for a full disk, else FAILED, with git's words."""
        if self.status != 0:
            code = ExitCode.UNWRITABLE if disk_full(self.words) else ExitCode.FAILED
            raise code.fault(f"git {self.command} failed (exit {self.status}):\n  {self.words}")
        return self.stdout


def _call(
    command: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    *,
    settings: Iterable[str] = (),
    stdin: bytes = b"",
    watch: Callable[[str], None] | None = None,
) -> Outcome:
    """Run git and wait for it; whatever ends this ends git too. ``watch`` is told each line of progress."""
    options = [word for setting in settings for word in ("-c", setting)]
    with tempfile.TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        process = git.Git().execute(  # which is given no folder: it would expand `$NAME` in it
            [git.Git.GIT_PYTHON_GIT_EXECUTABLE or "git", "-C", str(cwd), *options, *command],
            istream=given,
            as_process=True,
            env={"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", **env},
            pass_fds=tuple(inherited),
        )
        said = b""
        try:
            while watch is not None and (piece := os.read(process.stderr.fileno(), 4096)):
                said += piece
                watch(piece.decode("utf-8", "replace").replace("\r", "\n").strip().rpartition("\n")[2])
            stdout, stderr = process.communicate()
        except BaseException:
            process.proc.kill()
            process.proc.wait()
            raise
    return Outcome(command[0], int(process.returncode), stdout, (said + stderr).decode("utf-8", "replace"))


def outer(
    *command: str, cwd: Path, watch: Callable[[str], None] | None = None, env: Mapping[str, str] | None = None
) -> Outcome:
    """Run git with the user's settings, less those that :data:`_SETTINGS` overrules."""
    return _call(command, cwd, env or {}, settings=_SETTINGS, watch=watch)


@dataclass(frozen=True)
class Entry:
    """A file in a tree or index: git's mode (``100644``), the object with its content, and ``ls-files -t``'s letter."""

    mode: str
    oid: str
    tag: str = ""

    @property
    def link(self) -> bool:
        return self.mode == "120000"

    def is_(self, seen: Seen | None) -> bool:
        """Whether this is what stands there, line endings apart. Git is not asked: it would run a clone's filters."""
        if seen is None or seen.link != self.link:
            return False
        return self.oid in (blob_oid(seen.data), blob_oid(seen.data.replace(b"\r\n", b"\n")))


@dataclass(frozen=True)
class Clone:
    """A repository with a work tree, as git itself finds it. ``head`` is None before the first commit."""

    work_tree: Path
    git_dir: Path
    objects: Path
    head: str | None

    @classmethod
    def open(cls, path: Path) -> Clone | None:
        """The repository whose top folder is ``path``, or None if there is none.

        Raises Fault: FAILED, with git's advice, for a repository that belongs to someone else.
        """
        dot = path / ".git"
        files = [file for file in (dot / "HEAD", dot / "config", dot / "index") if os.path.lexists(file)]
        if not os.path.lexists(dot) or not all(file.is_file() for file in files):
            return None
        where = ("--show-toplevel", "--absolute-git-dir", "--git-path", "objects")
        found = outer("rev-parse", *where, "--revs-only", "HEAD", cwd=path)
        if "dubious ownership" in found.stderr or "unsafe repository" in found.stderr:
            raise ExitCode.FAILED.fault(f"git refuses {path}:\n  {found.words}")
        lines = [os.fsdecode(line) for line in found.stdout.splitlines()]
        if found.status != 0 or len(lines) not in (3, 4) or not Path(lines[0]).samefile(path):
            return None
        head = lines[3] if lines[3:] else None
        if head and not HEX40.fullmatch(head):
            return None
        return cls(path.resolve(), Path(lines[1]), (path / lines[2]).resolve(), head)


def blob_oid(data: bytes, kind: str = "blob") -> str:
    """git's name for a file's content."""
    return hashlib.sha1(f"{kind} {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()


class Scratch:
    """A throw-away repository. It reads the objects of others and checks each by its name; new ones stay here."""

    def __init__(self, folder: Path, alternates: Iterable[Path]) -> None:
        self.git_dir, self.work_tree = folder / "scratch.git", folder
        for part in ("objects/info", "refs", "info"):
            (self.git_dir / part).mkdir(parents=True)
        (self.git_dir / "HEAD").write_text("ref: refs/heads/none\n")
        (self.git_dir / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tbare = false\n")
        listed = b"".join(os.fsencode(path) + b"\n" for path in alternates)
        (self.git_dir / "objects/info/alternates").write_bytes(listed)

    def outcome(self, *command: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> Outcome:
        """Run git here; no configuration but this repository's own is read."""
        home = str(self.git_dir)
        ours = {"HOME": home, "XDG_CONFIG_HOME": home, "GIT_DIR": home, "GIT_WORK_TREE": str(self.work_tree)}
        none = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        none |= {"GIT_CONFIG_COUNT": "0", "GIT_CONFIG_PARAMETERS": ""}
        return _call(command, self.work_tree, {**ours, **none, **(env or {})}, stdin=stdin)

    def run(self, *command: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> bytes:
        """Standard output of a command that must succeed."""
        return self.outcome(*command, stdin=stdin, env=env).must()

    def objects(self, oids: Iterable[str], kind: str = "blob") -> dict[str, bytes | None]:
        """The content of objects by name; None for those that are nowhere.

        Raises Fault: WRONG_TREE for an object that is not what its name says.
        """
        wanted = sorted(set(oids))
        out: dict[str, bytes | None] = {}
        for start in range(0, len(wanted), 100):
            part = wanted[start : start + 100]
            given = self.run("cat-file", "--batch", stdin="".join(f"{oid}\n" for oid in part).encode())
            at = 0
            for oid in part:
                end = given.index(b"\n", at)
                _, found, *size = given[at:end].decode().split()
                at = end + 1
                if found == "missing":
                    out[oid] = None
                    continue
                data = given[at : at + int(size[0])]
                at += len(data) + 1
                if blob_oid(data, found) != oid or found != kind:
                    raise ExitCode.WRONG_TREE.fault(
                        f"the object {oid} does not hold what its name says; the repository or mirror is damaged"
                    )
                out[oid] = data
        return out

    def tree_of(self, commit: str) -> str | None:
        """The name of a commit's tree, or None if the commit is not here."""
        data = self.objects([commit], "commit")[commit]
        return None if data is None else data.split(b"\n", 1)[0].decode()[5:45]

    def entries(self, tree: str) -> dict[str, Entry]:
        """All files of a tree (or commit) by path."""
        out: dict[str, Entry] = {}
        for record in self.run("ls-tree", "-r", "-z", "--full-tree", tree).split(b"\0")[:-1]:
            meta, name = record.split(b"\t", 1)
            mode, _kind, oid = meta.decode().split(" ")
            out[decode(name)] = Entry(mode, oid)
        return out

    def index_of(self, clone: Clone) -> dict[str, list[Entry]]:
        """The entries of a clone's index, copied here; more than one for a file with a merge conflict."""
        self.work_tree = clone.work_tree
        for file in [clone.git_dir / "index", *clone.git_dir.glob("sharedindex.*")]:
            if file.exists():
                (self.git_dir / file.name).write_bytes(read_regular(file))
        out: dict[str, list[Entry]] = {}
        for record in self.run("ls-files", "-s", "-t", "-z").split(b"\0")[:-1]:
            meta, name = record.split(b"\t", 1)
            tag, mode, oid, _stage = meta.decode().split(" ")
            out.setdefault(decode(name), []).append(Entry(mode, oid, tag))
        return out

    def set_index(self, changes: Mapping[str, Entry | None], index: Path) -> None:
        """Point entries of an index at objects; None takes one out."""
        gone = Entry("0", "0" * 40)
        lines = [f"{(e or gone).mode} {(e or gone).oid}\t{path}\0" for path, e in changes.items()]
        given = encode("".join(lines))
        self.run("update-index", "-z", "--index-info", stdin=given, env={"GIT_INDEX_FILE": str(index)})

    def tree_name(self, entries: Mapping[str, Entry], patches: Sequence[bytes] = ()) -> str:
        """The name git gives to a tree of these entries, with patches applied by git, in an index of its own.

        Raises Fault: WRONG_TREE if git does not take a patch.
        """
        index = self.git_dir / "scratch-index"
        index.unlink(missing_ok=True)
        self.set_index(entries, index)
        alone = {"GIT_INDEX_FILE": str(index)}
        for patch in patches:
            options = ("--cached", "--unidiff-zero", "--whitespace=nowarn")
            done = self.outcome("apply", *options, "-", stdin=patch, env=alone)
            if done.status != 0:
                raise ExitCode.WRONG_TREE.fault(f"a patch does not apply: {done.words}")
        return self.run("write-tree", "--missing-ok", env=alone).decode().strip()

    def missing(self, entries: Mapping[str, Entry]) -> list[str]:
        """Paths whose content is nowhere, sorted; the content of all others is checked against its name."""
        files = {path: entry for path, entry in entries.items() if entry.mode != "160000"}
        there = self.objects(entry.oid for entry in files.values())
        return sorted(path for path, entry in files.items() if there[entry.oid] is None)


@contextmanager
def scratch(*alternates: Path) -> Iterator[Scratch]:
    """A :class:`Scratch` repository over these object folders, deleted afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="pcpo-"))
    try:
        yield Scratch(folder, alternates)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
