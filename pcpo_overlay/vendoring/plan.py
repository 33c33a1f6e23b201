"""What the patches make of a commit, worked out and compared with the lock before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .atomic import read_regular
from .errors import ExitCode, Fault
from .gitio import Entry, Scratch, blob_oid
from .home import PROGRAM
from .lockfile import Lock, Upstream
from .patchfile import Patch, insert, parse, render, sha256


@dataclass(frozen=True)
class NamedPatch:
    """A patch and the file it came from, relative to the lock's folder."""

    file: str
    patch: Patch


@dataclass(frozen=True)
class FilePlan:
    """An upstream file before and after its patch."""

    base: bytes
    patched: bytes
    named: NamedPatch


@dataclass(frozen=True)
class Plan:
    """Base and patched content of every touched file of one upstream, by path, and the tree that comes out."""

    upstream: Upstream
    files: Mapping[str, FilePlan]
    patched_tree: str


def read_patches(lock: Lock, upstream: Upstream, *, verify: bool = True) -> tuple[NamedPatch, ...]:
    """The patch files of one upstream, in the lock's order.

    Args:
        verify: compare each with its sha256 in the lock.

    Raises:
        Fault: PATCH_CHANGED or UNSAFE_PATH; nothing has been written then.
    """
    out: list[NamedPatch] = []
    for entry in upstream.patches:
        try:
            data = read_regular(lock.root / entry.file)
        except OSError as error:
            raise Fault(
                ExitCode.PATCH_CHANGED,
                f"{entry.file}, listed in {lock.path.name}, cannot be read: {error.strerror or error}",
            ) from None
        patch = parse(data, entry.file)
        if verify and sha256(data) != entry.sha256:
            raise Fault(
                ExitCode.PATCH_CHANGED,
                f"{entry.file} is not the file {lock.path.name} lists (sha256 {sha256(data)}, expected "
                f"{entry.sha256}). Restore it with git, or, if the change is meant, run "
                f"`{PROGRAM} refresh {upstream.name} --from-patches`.",
            )
        if any(other.patch.path == patch.path for other in out):
            raise Fault(
                ExitCode.PATCH_CHANGED, f"{entry.file}: {patch.path} has a patch already; one file, one patch"
            )
        out.append(NamedPatch(entry.file, patch))
    return tuple(out)


def base_files(
    entries: Mapping[str, Entry], repo: Scratch, paths: Sequence[str], commit: str
) -> dict[str, bytes]:
    """The content of some files of a commit.

    Raises Fault: WRONG_TREE if one is not in the commit or not a regular file, INCOMPLETE if its content is missing.
    """
    for path in paths:
        if path not in entries or entries[path].mode not in ("100644", "100755"):
            raise Fault(ExitCode.WRONG_TREE, f"{path} is not a file of commit {commit}")
    blobs = repo.objects(entries[path].oid for path in paths)
    out: dict[str, bytes] = {}
    for path in paths:
        data = blobs[entries[path].oid]
        if data is None:
            raise Fault(
                ExitCode.INCOMPLETE,
                f"the content of {path} at {commit} is missing from the clone and from where it was cloned; the "
                "patch needs it. Clone from the network or from a complete mirror.",
            )
        out[path] = data
    return out


def pinned_entries(repo: Scratch, upstream: Upstream) -> dict[str, Entry]:
    """The files of the pin, once commit and tree were found to be what the lock says, down to the last folder.

    Raises Fault: WRONG_TREE.
    """
    tree = repo.tree_of(upstream.commit)
    entries = repo.entries(tree) if tree == upstream.tree else {}
    found = repo.tree_name(entries) if entries else tree
    if found != upstream.tree:
        raise Fault(
            ExitCode.WRONG_TREE,
            f"{upstream.name}: commit {upstream.commit} has tree {found}, but the lock says {upstream.tree}",
        )
    return entries


def make_plan(
    repo: Scratch, upstream: Upstream, patches: Sequence[NamedPatch], *, verify: bool = True
) -> Plan:
    """Insert the patches' lines into the pin's files; git applies them too, and both have to agree.

    Args:
        verify: compare the patched tree with the lock.

    Raises:
        Fault: WRONG_TREE when the commit's tree or the patched tree is not the locked one.
    """
    entries = pinned_entries(repo, upstream)
    base = base_files(entries, repo, [named.patch.path for named in patches], upstream.commit)
    files = {
        named.patch.path: FilePlan(base[named.patch.path], insert(named.patch, base[named.patch.path]), named)
        for named in patches
    }
    tree = repo.tree_name(entries, [render(named.patch) for named in patches])
    ours = {path: replace(entries[path], oid=blob_oid(file.patched)) for path, file in files.items()}
    if repo.tree_name({**entries, **ours}) != tree:
        raise Fault(ExitCode.FAILED, f"git and the overlay read the patches of {upstream.name} differently")
    if verify and tree != upstream.patched_tree:
        raise Fault(
            ExitCode.WRONG_TREE,
            f"{upstream.name}: the patches give tree {tree}, but the lock says {upstream.patched_tree}",
        )
    return Plan(upstream, files, tree)
