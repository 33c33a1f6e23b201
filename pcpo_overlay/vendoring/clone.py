"""Clone an upstream at its pin: built aside, every object of the pin checked, renamed into place when complete.

A mirror may lack the content of large data files. Those are left out with a sparse checkout and named, with the
launch scripts that read them; everything else of the clone works as usual.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from .errors import ExitCode, Fault, disk_full, spoken
from .gitio import Outcome, Scratch, outer, scratch
from .lockfile import Upstream
from .plan import pinned_entries
from .record import write_pin
from .stages import stage

_CONFIG = """\
[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
\tlogallrefupdates = true
\tautocrlf = false
[remote "origin"]
\turl = {url}
\tfetch = +refs/heads/*:refs/remotes/origin/*
"""
_NO_NETWORK = "Without a network, give a folder of clones with --mirror DIR or PCPO_MIRROR."


@dataclass(frozen=True)
class Source:
    """Where an upstream's objects come from: a mirror's folder, or (``objects`` is None) its url."""

    name: str
    location: str
    objects: Path | None = None


def find_source(upstream: Upstream, mirror: Path | None) -> Source:
    """The mirror's copy if a mirror is given, else the url, which the user's ``insteadOf`` may turn into a folder.

    Raises:
        Fault: UNREACHABLE when a mirror is given and has neither ``NAME`` nor ``NAME.git``; FAILED if git refuses it.
    """
    if mirror is None:
        command = ["ls-remote", "--get-url", upstream.url]
        folder = Path(os.fsdecode(outer(command, Path("/")).must(command).strip()))
        return Source(upstream.name, upstream.url, _objects_of(folder) if folder.is_absolute() else None)
    candidates = [mirror / upstream.name, mirror / f"{upstream.name}.git"]
    for folder in candidates:
        objects = _objects_of(folder)
        if objects is not None:
            return Source(upstream.name, str(folder.resolve()), objects)
    looked = " and ".join(str(folder) for folder in candidates)
    raise Fault(
        ExitCode.UNREACHABLE,
        f"the mirror has no {upstream.name}: looked for {looked}. Put a clone there, or leave --mirror "
        f"(PCPO_MIRROR) out to clone {upstream.url}.",
    )


def _objects_of(folder: Path) -> Path | None:
    """The object store of a repository, bare or not; None where git finds none, or the one that ``folder`` lies in."""
    if not ((folder / "HEAD").is_file() or (folder / ".git").exists()):
        return None
    command = ["rev-parse", "--absolute-git-dir", "--git-path", "objects"]
    lines = outer(command, folder).must(command).split(b"\n")
    inside = folder / ".git" if (folder / ".git").exists() else folder
    if inside.is_dir() and not Path(os.fsdecode(lines[0])).samefile(inside):
        return None
    return (folder / os.fsdecode(lines[1])).resolve()


def _reached(outcome: Outcome, source: Source) -> bytes:
    """What a command said that speaks to the source. Raises Fault: UNREACHABLE or UNWRITABLE, with git's words."""
    if outcome.status == 0:
        return outcome.stdout
    words = spoken(outcome.stderr, outcome.status)
    if disk_full(words):
        raise Fault(ExitCode.UNWRITABLE, f"cannot write the objects of {source.name}:\n  {words}")
    raise Fault(
        ExitCode.UNREACHABLE, f"cannot clone {source.name} from {source.location}:\n  {words}\n{_NO_NETWORK}"
    )


@contextmanager
def _progress(name: str) -> Iterator[Callable[[str], None]]:
    """git's own progress lines, on a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda line: None
        return
    with console.status(f"cloning {name}") as status:
        yield lambda line: status.update(f"{name}: {line}" if line else f"cloning {name}")


def fetch(repo: Scratch, source: Source, revision: str, objects: Path | None = None) -> None:
    """Have a commit's objects in the scratch repository, or in the object folder ``objects``.

    Raises Fault: WRONG_TREE when the source does not have it, UNREACHABLE, UNWRITABLE.
    """
    if repo.tree_of(revision) is not None:
        return
    where = {"GIT_DIR": str(repo.git_dir), **({"GIT_OBJECT_DIRECTORY": str(objects)} if objects else {})}
    command = ["fetch", "--progress", "--no-tags", "--no-auto-gc", "--", source.location, revision]
    with _progress(source.name) as watch:
        outcome = outer(command, repo.git_dir, watch, where)
    if outcome.status != 0 and any(
        w in outcome.stderr for w in ("not our ref", "no such remote ref", "couldn't find remote")
    ):
        raise Fault(
            ExitCode.WRONG_TREE,
            f"{source.name}: commit {revision} is not in {source.location} ({spoken(outcome.stderr)})",
        )
    _reached(outcome, source)


def name_of(source: Source, revision: str) -> str | None:
    """The commit that a branch or tag of the source is at now, or None."""
    listing = _reached(outer(["ls-remote", "--", source.location], Path("/")), source).decode(
        "utf-8", "replace"
    )
    refs = {ref: oid for oid, ref in (line.split("\t") for line in listing.splitlines())}
    names = (f"refs/heads/{revision}", f"refs/tags/{revision}^{{}}", f"refs/tags/{revision}")
    return next((refs[name] for name in names if name in refs), None)


def _all_objects(repo: Scratch, source: Source, git_dir: Path) -> None:
    """Every branch and tag of the source, into a new repository."""
    if source.objects is None:
        refspecs = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"]
        command = ["fetch", "--progress", "--no-tags", "--no-auto-gc", "--", source.location, *refspecs]
        with _progress(source.name) as watch:
            _reached(outer(command, git_dir, watch, {"GIT_DIR": str(git_dir)}), source)
        (git_dir / "FETCH_HEAD").unlink(missing_ok=True)
        return
    # A mirror that lacks objects can be fetched from by no git. Its object store is copied; what counts is checked.
    listing = _reached(outer(["ls-remote", "--", source.location], Path("/")), source).decode(
        "utf-8", "surrogateescape"
    )
    shutil.copytree(source.objects, git_dir / "objects", dirs_exist_ok=True)
    shallow = source.objects.parent / "shallow"
    if shallow.is_file():
        shutil.copy(shallow, git_dir / "shallow")
    kept: list[str] = []
    for oid, ref in sorted(line.split("\t") for line in listing.splitlines()):
        if ref.startswith(("refs/heads/", "refs/tags/")) and not ref.endswith("^{}"):
            kept.append(f"{oid} {ref.replace('refs/heads/', 'refs/remotes/origin/', 1)}\n")
    kept.sort(key=lambda line: line.split(" ")[1])
    (git_dir / "packed-refs").write_text("".join(kept), encoding="utf-8", errors="surrogateescape")


def leave_out(git_dir: Path, repo: Scratch, missing: Sequence[str]) -> None:
    """Keep files without content out of the work tree, and let git take them for ones it could still fetch."""
    file = git_dir / "info" / "sparse-checkout"
    file.parent.mkdir(exist_ok=True)
    escaped = [re.sub(r"([*?\[\\! #])", r"\\\1", path) for path in missing]
    old = file.read_text(encoding="utf-8", errors="surrogateescape") if file.exists() else "/*\n"
    text = old + "".join(f"!/{path}\n" for path in escaped)
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    settings = {
        "core.sparseCheckout": "true",
        "core.sparseCheckoutCone": "false",
        "remote.origin.promisor": "true",
    }
    for key, value in settings.items():
        repo.run("config", "--file", str(git_dir / "config"), key, value)


def remove_stale(dest: Path, name: str) -> list[Path]:
    """Delete what killed runs left of this upstream. Call with its lock held."""
    gone = sorted(dest.glob(f".{name}.partial-*"))
    for folder in gone:
        shutil.rmtree(folder)
    return gone


def clone_into_place(upstream: Upstream, source: Source, path: Path, needed: Sequence[str]) -> None:
    """Clone at the pin and rename to ``path``, which must not exist or be empty.

    Args:
        needed: files that the patches touch; a source without their content is refused.

    Raises:
        Fault: UNREACHABLE, INCOMPLETE, WRONG_TREE or UNWRITABLE; nothing is at ``path`` then.
    """
    partial: Path | None = None
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
        partial.chmod(0o755)  # mkdtemp's 0700 is too narrow for a shared clone
        git_dir = partial / ".git"
        for part in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "info"):
            (git_dir / part).mkdir(parents=True)
        (git_dir / "HEAD").write_text("ref: refs/heads/main\n")
        (git_dir / "config").write_text(_CONFIG.format(url=upstream.url))
        stage("clone-begun")
        with scratch(git_dir / "objects") as repo:
            _all_objects(repo, source, git_dir)
            stage("cloned")
            fetch(repo, source, upstream.commit, git_dir / "objects")
            entries = pinned_entries(repo, upstream)
            missing = repo.missing(entries)
            lost = sorted(set(missing) & set(needed))
            if lost:
                raise Fault(
                    ExitCode.INCOMPLETE,
                    f"{source.location} lacks the content of {', '.join(lost)}, which the hooks go into; clone "
                    f"{upstream.name} from the network or from a complete mirror",
                )
            if missing:
                leave_out(git_dir, repo, missing)
            at = {"GIT_DIR": str(git_dir), "GIT_WORK_TREE": str(partial)}
            repo.run("checkout", "--quiet", "--detach", upstream.commit, env=at)
        stage("clone-checked-out")
        write_pin(git_dir, upstream.commit)
        stage("clone-complete")
        os.rename(partial, path)  # noqa: PTH104
        stage("clone-renamed")
    except OSError as error:
        raise Fault(ExitCode.UNWRITABLE, f"cannot write the clone to {path}: {error}") from None
    finally:
        if partial is not None and partial.exists():
            shutil.rmtree(partial, ignore_errors=True)
