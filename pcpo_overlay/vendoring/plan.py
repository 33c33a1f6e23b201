"""What the patches make of a commit, worked out and compared with the lock before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .atomic import read_regular
from .errors import ExitCode
from .gitio import Entry, Scratch, blob_oid
from .home import PROGRAM
from .lockfile import Lock, Upstream, sha256
from .patchfile import Patch, insert, parse, render


@dataclass(frozen=True)
class FilePlan:
    """An upstream file before and after its patch."""

    base: bytes
    patched: bytes
    patch: Patch


@dataclass(frozen=True)
class Plan:
    """Base and patched content of every touched file of one upstream, by path, and the tree that comes out."""

    files: Mapping[str, FilePlan]
    patched_tree: str


def read_patches(lock: Lock, upstream: Upstream, *, verify: bool = True) -> tuple[Patch, ...]:
    """The patch files of one upstream, in the lock's order; ``verify`` holds each against its sha256 in the lock.

    Raises Fault: PATCH_CHANGED or UNSAFE_PATH; nothing has been written then.
    """
    out: dict[str, Patch] = {}
    for entry in upstream.patches:
        try:
            data = read_regular(lock.root / entry.file)
        except OSError as error:
            raise ExitCode.PATCH_CHANGED.fault(
                f"{entry.file}, listed in {lock.path.name}, cannot be read: {error.strerror or error}"
            ) from None
        patch = parse(data, entry.file)
        if verify and sha256(data) != entry.sha256:
            raise ExitCode.PATCH_CHANGED.fault(
                f"{entry.file} is not the file {lock.path.name} lists (sha256 {sha256(data)}, expected "
                f"{entry.sha256}). Restore it with git, or, if the change is meant, run "
                f"`{PROGRAM} refresh {upstream.name} --from-patches`."
            )
        if patch.path in out:
            raise ExitCode.PATCH_CHANGED.fault(
                f"{entry.file}: {patch.path} has a patch already; one file, one patch"
            )
        out[patch.path] = patch
    return tuple(out.values())


def base_file(repo: Scratch, entries: Mapping[str, Entry], path: str, commit: str) -> bytes:
    """The content of a file of a commit.

    Raises Fault: WRONG_TREE if it is not in the commit or not a regular file, INCOMPLETE if its content is missing.
    """
    if path not in entries or entries[path].mode not in ("100644", "100755"):
        raise ExitCode.WRONG_TREE.fault(f"{path} is not a file of commit {commit}")
    data = repo.objects([entries[path].oid])[entries[path].oid]
    if data is None:
        raise ExitCode.INCOMPLETE.fault(
            f"the content of {path} at {commit} is missing from the clone and from where it was cloned; the "
            "patch needs it. Clone from the network or from a complete mirror."
        )
    return data


def pinned_entries(repo: Scratch, upstream: Upstream) -> dict[str, Entry]:
    """The files of the pin, once commit and tree were found to be what the lock says, down to the last folder.

    Raises Fault: WRONG_TREE.
    """
    tree = repo.tree_of(upstream.commit)
    entries = repo.entries(tree) if tree == upstream.tree else {}
    found = repo.tree_name(entries) if entries else tree
    if found != upstream.tree:
        raise ExitCode.WRONG_TREE.fault(
            f"{upstream.name}: commit {upstream.commit} has tree {found}, but the lock says {upstream.tree}"
        )
    return entries


def make_plan(repo: Scratch, upstream: Upstream, patches: Sequence[Patch], *, verify: bool = True) -> Plan:
    """Insert the patches' lines into the pin's files; git applies them too, and both have to agree.

    Raises Fault: WRONG_TREE when the commit's tree or the patched tree is not the locked one.
    """
    entries = pinned_entries(repo, upstream)
    files: dict[str, FilePlan] = {}
    for patch in patches:
        base = base_file(repo, entries, patch.path, upstream.commit)
        files[patch.path] = FilePlan(base, insert(patch, base), patch)
    tree = repo.tree_name(entries, [render(patch) for patch in patches])
    ours = {path: replace(entries[path], oid=blob_oid(file.patched)) for path, file in files.items()}
    if repo.tree_name({**entries, **ours}) != tree:
        raise ExitCode.FAILED.fault(f"git and the overlay read the patches of {upstream.name} differently")
    if verify and tree != upstream.patched_tree:
        raise ExitCode.WRONG_TREE.fault(
            f"{upstream.name}: the patches give tree {tree}, but the lock says {upstream.patched_tree}"
        )
    return Plan(files, tree)
