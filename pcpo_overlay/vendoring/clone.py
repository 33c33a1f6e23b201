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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from .context import Context
from .errors import ExitCode, Fault, disk_full
from .gitio import Clone, Outcome, Scratch, decode, encode, outer, scratch
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
_ABSENT = ("not our ref", "no such remote ref", "couldn't find remote")


@dataclass(frozen=True)
class Source:
    """Where an upstream's objects come from: a mirror's folder, or (``objects`` is None) its url."""

    name: str
    location: str
    objects: Path | None = None

    def reached(self, outcome: Outcome) -> bytes:
        """What a command that speaks to the source said. Raises Fault: UNREACHABLE or UNWRITABLE, with git's words."""
        if outcome.status == 0:
            return outcome.stdout
        if disk_full(outcome.words):
            raise ExitCode.UNWRITABLE.fault(f"cannot write the objects of {self.name}:\n  {outcome.words}")
        raise ExitCode.UNREACHABLE.fault(
            f"cannot clone {self.name} from {self.location}:\n  {outcome.words}\n{_NO_NETWORK}"
        )

    def refs(self) -> dict[str, str]:
        """The object name of each ref."""
        listing = decode(self.reached(outer("ls-remote", "--", self.location, cwd=Path("/"))))
        return {ref: oid for oid, ref in (line.split("\t") for line in listing.splitlines())}

    def named(self, revision: str) -> str | None:
        """The commit that a branch or tag is at now, or None."""
        refs = self.refs()
        names = (f"refs/heads/{revision}", f"refs/tags/{revision}^{{}}", f"refs/tags/{revision}")
        return next((refs[name] for name in names if name in refs), None)

    def send(self, git_dir: Path, *revisions: str, objects: Path | None = None) -> Outcome:
        """Fetch into a repository, or into the object folder ``objects``."""
        where = {"GIT_DIR": str(git_dir), **({"GIT_OBJECT_DIRECTORY": str(objects)} if objects else {})}
        command = ("fetch", "--progress", "--no-tags", "--no-auto-gc", "--", self.location, *revisions)
        with _progress(self.name) as watch:
            return outer(*command, cwd=git_dir, watch=watch, env=where)


def find_source(ctx: Context, upstream: Upstream) -> Source:
    """The mirror's copy if a mirror is given, else the url, which the user's ``insteadOf`` may turn into a folder.

    Raises Fault: UNREACHABLE where a mirror has neither ``NAME`` nor ``NAME.git``; FAILED if git refuses it.
    """
    if ctx.mirror is None:
        found = outer("ls-remote", "--get-url", upstream.url, cwd=Path("/")).must()
        folder = Path(os.fsdecode(found.strip()))
        return Source(upstream.name, upstream.url, _objects_of(folder) if folder.is_absolute() else None)
    candidates = [ctx.mirror / upstream.name, ctx.mirror / f"{upstream.name}.git"]
    for folder in candidates:
        if objects := _objects_of(folder):
            return Source(upstream.name, str(folder.resolve()), objects)
    looked = " and ".join(str(folder) for folder in candidates)
    raise ExitCode.UNREACHABLE.fault(
        f"the mirror has no {upstream.name}: looked for {looked}. Put a clone there, or leave --mirror "
        f"(PCPO_MIRROR) out to clone {upstream.url}."
    )


def _objects_of(folder: Path) -> Path | None:
    """The object store of a repository, bare or not; None where git finds none, or the one that ``folder`` lies in."""
    inside = folder / ".git" if (folder / ".git").exists() else folder
    if inside == folder and not (folder / "HEAD").is_file():
        return None
    found = outer("rev-parse", "--absolute-git-dir", "--git-path", "objects", cwd=folder).must()
    git_dir, objects = (os.fsdecode(line) for line in found.splitlines())
    if inside.is_dir() and not Path(git_dir).samefile(inside):
        return None
    return (folder / objects).resolve()


def object_folders(ctx: Context, upstream: Upstream) -> list[Path]:
    """Where the pin's objects may be besides the clone worked on: the clone under ``--dest``, the mirror."""
    vendored = Clone.open(ctx.dest / upstream.name)
    found = [vendored and vendored.objects]
    if ctx.mirror is not None:
        with suppress(Fault):  # only matters if something has to be fetched
            found.append(find_source(ctx, upstream).objects)
    return [folder for folder in found if folder]


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
    outcome = source.send(repo.git_dir, revision, objects=objects)
    if outcome.status != 0 and any(words in outcome.stderr for words in _ABSENT):
        raise ExitCode.WRONG_TREE.fault(
            f"{source.name}: commit {revision} is not in {source.location} ({outcome.words})"
        )
    source.reached(outcome)


def _all_objects(source: Source, git_dir: Path) -> None:
    """Every branch and tag of the source, into a new repository."""
    if source.objects is None:
        refspecs = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
        source.reached(source.send(git_dir, *refspecs))
        (git_dir / "FETCH_HEAD").unlink(missing_ok=True)
        return
    # A mirror that lacks objects can be fetched from by no git. Its object store is copied; what counts is checked.
    refs = source.refs()
    shutil.copytree(source.objects, git_dir / "objects", dirs_exist_ok=True)
    shallow = source.objects.parent / "shallow"
    if shallow.is_file():
        shutil.copy(shallow, git_dir / "shallow")
    kept = [ref for ref in refs if ref.startswith(("refs/heads/", "refs/tags/")) and not ref.endswith("^{}")]
    names = {ref.replace("refs/heads/", "refs/remotes/origin/", 1): refs[ref] for ref in kept}
    (git_dir / "packed-refs").write_bytes(encode("".join(f"{names[ref]} {ref}\n" for ref in sorted(names))))


def leave_out(git_dir: Path, repo: Scratch, missing: Sequence[str]) -> None:
    """Keep files without content out of the work tree, and let git take them for ones it could still fetch."""
    file = git_dir / "info" / "sparse-checkout"
    file.parent.mkdir(exist_ok=True)
    escaped = [re.sub(r"([*?\[\\! #])", r"\\\1", path) for path in missing]
    old = file.read_bytes() if file.exists() else b"/*\n"
    file.write_bytes(old + encode("".join(f"!/{path}\n" for path in escaped)))
    sparse = {"core.sparseCheckout": "true", "core.sparseCheckoutCone": "false"}
    for key, value in {**sparse, "remote.origin.promisor": "true"}.items():
        repo.run("config", "--file", str(git_dir / "config"), key, value)


def clone_into_place(ctx: Context, upstream: Upstream, needed: Sequence[str]) -> bool:
    """Clone at the pin where there is nothing, or an empty folder; whether that was so.

    ``needed`` are the files that the patches touch; a source without their content is refused.
    Raises Fault: UNREACHABLE, INCOMPLETE, WRONG_TREE or UNWRITABLE; nothing is there then.
    """
    path = ctx.path(upstream)
    try:
        ctx.dest.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExitCode.UNWRITABLE.fault(f"cannot make the destination {ctx.dest}: {error}") from None
    with ctx.exclusive(ctx.dest / f".{upstream.name}.lock", str(path)):
        for folder in sorted(ctx.dest.glob(f".{upstream.name}.partial-*")):
            shutil.rmtree(folder)
            ctx.say(f"removed {folder.name}, left by a run that was killed")
        if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
            return False
        source = find_source(ctx, upstream)
        ctx.say(f"cloning {upstream.name} from {source.location}")
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
        try:
            partial.chmod(0o755)  # mkdtemp's 0700 is too narrow for a shared clone
            _clone(upstream, source, partial, needed)
            os.rename(partial, path)  # noqa: PTH104
            stage("clone-renamed")
        except OSError as error:
            raise ExitCode.UNWRITABLE.fault(f"cannot write the clone to {path}: {error}") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return True


def _clone(upstream: Upstream, source: Source, partial: Path, needed: Sequence[str]) -> None:
    git_dir = partial / ".git"
    for part in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "info"):
        (git_dir / part).mkdir(parents=True)
    (git_dir / "HEAD").write_text("ref: refs/heads/main\n")
    (git_dir / "config").write_text(_CONFIG.format(url=upstream.url))
    stage("clone-begun")
    with scratch(git_dir / "objects") as repo:
        _all_objects(source, git_dir)
        stage("cloned")
        fetch(repo, source, upstream.commit, git_dir / "objects")
        missing = repo.missing(pinned_entries(repo, upstream))
        lost = sorted(set(missing) & set(needed))
        if lost:
            raise ExitCode.INCOMPLETE.fault(
                f"{source.location} lacks the content of {', '.join(lost)}, which the hooks go into; clone "
                f"{upstream.name} from the network or from a complete mirror"
            )
        if missing:
            leave_out(git_dir, repo, missing)
        at = {"GIT_DIR": str(git_dir), "GIT_WORK_TREE": str(partial)}
        repo.run("checkout", "--quiet", "--detach", upstream.commit, env=at)
    stage("clone-checked-out")
    write_pin(git_dir, upstream.commit)
    stage("clone-complete")
