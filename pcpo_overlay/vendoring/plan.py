"""What the patches make of a commit, worked out and compared with the lock before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .errors import ExitCode, Fault
from .gitio import Entry, Repo
from .lockfile import Lock, Upstream
from .patchfile import Patch, insert, parse, render, sha256
from .stamp import Stamp


@dataclass(frozen=True)
class NamedPatch:
    """A patch and the file it came from, relative to the lock's folder."""

    file: str
    patch: Patch


@dataclass(frozen=True)
class FilePlan:
    """An upstream file before and after."""

    mode: str
    base: bytes
    patched: bytes


@dataclass(frozen=True)
class Plan:
    """Base and patched content of every touched file of one upstream, by path."""

    upstream: Upstream
    patches: tuple[NamedPatch, ...]
    files: Mapping[str, FilePlan]

    def stamp(self) -> Stamp | None:
        """The stamp of a clone patched like this; None without patches."""
        if not self.files:
            return None
        u = self.upstream
        files = {path: sha256(plan.patched) for path, plan in self.files.items()}
        return Stamp(u.name, u.commit, u.tree, u.patched_tree, files)


def read_patches(lock: Lock, upstream: Upstream, *, verify: bool = True) -> tuple[NamedPatch, ...]:
    """The patch files of one upstream, in the lock's order.

    Args:
        verify: compare each with its sha256 in the lock.

    Raises:
        Fault: PATCH_CHANGED or UNSAFE_PATH; nothing has been written then.
    """
    out: list[NamedPatch] = []
    for entry in upstream.patches:
        path = lock.root / entry.file
        try:
            data = path.read_bytes()
        except OSError as error:
            raise Fault(
                ExitCode.PATCH_CHANGED,
                f"{entry.file}, listed in {lock.path.name}, cannot be read: {error.strerror}",
            ) from None
        patch = parse(data, entry.file)
        if verify and sha256(data) != entry.sha256:
            raise Fault(
                ExitCode.PATCH_CHANGED,
                f"{entry.file} is not the file {lock.path.name} lists (sha256 {sha256(data)}, expected "
                f"{entry.sha256}). Restore it with git, or, if the change is meant, run "
                f"`python apply.py refresh {upstream.name} --from-patches`.",
            )
        if any(other.patch.path == patch.path for other in out):
            raise Fault(
                ExitCode.PATCH_CHANGED, f"{entry.file}: {patch.path} has a patch already; one file, one patch"
            )
        out.append(NamedPatch(entry.file, patch))
    return tuple(out)


def base_files(repo: Repo, commit: str, paths: Sequence[str]) -> dict[str, tuple[Entry, bytes]]:
    """Mode and content of some files of a commit.

    Raises:
        Fault: WRONG_TREE if one is not in the commit or not a regular file, INCOMPLETE if its content is missing.
    """
    out: dict[str, tuple[Entry, bytes]] = {}
    entries = repo.tree_entries(f"{commit}^{{tree}}", paths) if paths else {}
    for path in paths:
        entry = entries.get(path)
        if entry is None or entry.mode not in ("100644", "100755"):
            raise Fault(ExitCode.WRONG_TREE, f"{path} is not a file of commit {commit}")
        result = repo.outcome("cat-file", "blob", entry.oid)
        if result.status != 0:
            raise Fault(
                ExitCode.INCOMPLETE,
                f"the content of {path} at {commit} is missing from {repo.work_tree} and from where it was cloned; "
                "the patch needs it. Clone from the network or from a complete mirror.",
            )
        out[path] = (entry, result.stdout)
    return out


def make_plan(repo: Repo, upstream: Upstream, patches: Sequence[NamedPatch], *, verify: bool = True) -> Plan:
    """Apply the patches in a scratch index on the pinned commit and compare the tree with the lock.

    Nothing of the repository changes: scratch index, scratch object folder.

    Args:
        verify: compare the patched tree with the lock.

    Raises:
        Fault: WRONG_TREE when the commit's tree or the patched tree is not the locked one.
    """
    tree = repo.resolve(f"{upstream.commit}^{{tree}}")
    if tree != upstream.tree:
        raise Fault(
            ExitCode.WRONG_TREE,
            f"{upstream.name}: commit {upstream.commit} has tree {tree}, but the lock says {upstream.tree}",
        )
    base = base_files(repo, upstream.commit, [named.patch.path for named in patches])
    files = {
        named.patch.path: FilePlan(
            base[named.patch.path][0].mode,
            base[named.patch.path][1],
            insert(named.patch, base[named.patch.path][1]),
        )
        for named in patches
    }
    plan = Plan(upstream, tuple(patches), files)
    if verify:
        patched = patched_tree(repo, plan)
        if patched != upstream.patched_tree:
            raise Fault(
                ExitCode.WRONG_TREE,
                f"{upstream.name}: the patches give tree {patched}, but the lock says {upstream.patched_tree}",
            )
    return plan


def patched_tree(repo: Repo, plan: Plan) -> str:
    """The tree that git's own ``apply`` gives, which must agree with this package's reading of the patches."""
    with repo.scratch_objects() as objects, objects.scratch_index() as scratch:
        scratch.run("read-tree", plan.upstream.tree)
        for named in plan.patches:
            result = scratch.outcome("apply", "--cached", "--unidiff-zero", "-", stdin=render(named.patch))
            if result.status != 0:
                raise Fault(ExitCode.WRONG_TREE, f"{named.file} does not apply: {result.stderr.strip()}")
        tree = scratch.text("write-tree", "--missing-ok")
        entries = scratch.tree_entries(tree, list(plan.files)) if plan.files else {}
        for path, file in plan.files.items():
            if scratch.blob(entries[path].oid) != file.patched:
                raise Fault(ExitCode.FAILED, f"git and the overlay read the patch of {path} differently")
        return tree
