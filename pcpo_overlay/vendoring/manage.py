"""apply, revert and status of the clones under the destination folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from . import clone, transition
from .errors import ExitCode, Fault
from .gitio import Entry, Repo, blob_oid, holes
from .lockfile import Lock, Upstream
from .mutex import exclusive
from .paths import no_symlink_on_the_way
from .plan import NamedPatch, Plan, make_plan
from .stages import stage
from .stamp import Stamp, read_pin, read_stamp, write_pin, write_stamp
from .transition import Move


@dataclass(frozen=True)
class Context:
    """What every command is given: the lock, where clones go, where they come from, how to talk."""

    lock: Lock
    dest: Path
    mirror: Path | None
    wait: float
    command: str
    say: Callable[[str], None]
    console: Console

    def path(self, upstream: Upstream) -> Path:
        return self.dest / upstream.name


def locked(ctx: Context, upstream: Upstream) -> Any:
    """Hold the lock of one clone, making the destination if need be."""
    try:
        ctx.dest.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Fault(
            ExitCode.UNWRITABLE, f"cannot make the destination {ctx.dest}: {error.strerror or error}"
        ) from None
    lock = ctx.dest / f".{upstream.name}.lock"
    return exclusive(lock, f"{ctx.path(upstream)}", ctx.command, ctx.wait, ctx.say)


def open_clone(ctx: Context, upstream: Upstream) -> Repo:
    """The clone of an upstream.

    Raises:
        Fault: NOT_IN_ORDER if it is absent, WRONG_COMMIT if something else is in its place.
    """
    path = ctx.path(upstream)
    if not path.exists() and not path.is_symlink():
        raise Fault(
            ExitCode.NOT_IN_ORDER, f"{path} is not there; make it with `python apply.py {upstream.name}`"
        )
    repo = Repo.at(path)
    if repo is None:
        raise Fault(
            ExitCode.WRONG_COMMIT,
            f"{path} exists but is not a git clone; move it away, then run `python apply.py {upstream.name}`",
        )
    return repo


@dataclass(frozen=True)
class Touched:
    """A file that the overlay touches: upstream's entry, and what is there now.

    ``state`` is one of ``base``, ``patched`` (as the lock says), ``older`` (as the stamp says), ``edited``,
    ``missing``. ``done`` says that nothing has to change: patched, or upstream's where the lock has no patch.
    """

    path: str
    entry: Entry
    now: bytes | None
    state: str
    done: bool


def survey(repo: Repo, commit: str, plan: Plan | None, stamp: Stamp | None) -> list[Touched]:
    """Look at every file that the overlay touches or touched, against upstream's content at ``commit``."""
    paths = sorted({*(plan.files if plan else ()), *(stamp.files if stamp else ())})
    entries = repo.tree_entries(f"{commit}^{{tree}}", paths) if paths else {}
    out: list[Touched] = []
    for path in paths:
        if path not in entries:
            continue
        entry = entries[path]
        planned = plan.files.get(path) if plan else None
        patched = Entry(entry.mode, blob_oid(planned.patched)) if planned else None
        now = transition.content(repo.work_tree, path)
        staged = repo.index_entries([path]).get(path, [])
        known = (
            {entry.oid}
            | ({patched.oid} if patched else set())
            | ({blob_oid(now)} if now is not None else set())
        )
        if now is None:
            state = "missing"
        elif not no_symlink_on_the_way(repo.work_tree, path) or any(e.oid not in known for e in staged):
            state = "edited"
        elif transition.holds(repo, path, now, Entry(entry.mode, entry.oid)):
            state = "base"
        elif patched and transition.holds(repo, path, now, patched):
            state = "patched"
        elif stamp and stamp.files.get(path) == hashlib.sha256(now).hexdigest():
            state = "older"
        else:
            state = "edited"
        out.append(Touched(path, entry, now, state, done=state == ("patched" if planned else "base")))
    return out


def refuse_edited(repo: Repo, touched: Sequence[Touched], what: str) -> None:
    """Stop before anything is written if a file to be changed holds someone's edits."""
    edited = [t for t in touched if t.state in ("edited", "missing")]
    if edited:
        names = "\n  ".join(f"{t.path}{' (deleted)' if t.state == 'missing' else ''}" for t in edited)
        raise Fault(
            ExitCode.EDITED,
            f"cannot {what} {repo.work_tree}: these files were edited by hand and are left as they are:\n  {names}\n"
            f"To keep hook lines you added, fold them in with `python apply.py refresh`. To drop your edits, "
            f"`git -C {repo.work_tree} checkout HEAD -- FILE` and run the same command again.",
        )


def pinned_head(repo: Repo, upstream: Upstream) -> str:
    """HEAD, if it is the lock's pin or where an earlier pin of ours left it.

    Raises:
        Fault: WRONG_COMMIT otherwise.
    """
    head = repo.head()
    stamp = read_stamp(repo.git_dir)
    ours = {upstream.commit, read_pin(repo.git_dir), stamp.commit if stamp else None}
    if head is None or head not in ours:
        raise Fault(
            ExitCode.WRONG_COMMIT,
            f"{repo.work_tree} is at commit {head}, but the lock pins {upstream.name} at {upstream.commit}; nothing "
            f"was changed. Either go back with `git -C {repo.work_tree} checkout --detach {upstream.commit}`, or "
            f"patch the clone as it is with `python apply.py {upstream.name} --into {repo.work_tree}`.",
        )
    return head


def move_to(
    repo: Repo, upstream: Upstream, head: str, touched: Sequence[Touched], new_base: str, plan: Plan | None
) -> None:
    """Bring the surveyed files to the plan's content (None: upstream's own) on commit ``new_base``."""
    transition.check_writable(repo, ())
    current: dict[str, Entry | None] = {}
    for t in touched:
        if t.state in ("patched", "older") and t.now is not None:
            current[t.path] = Entry(t.entry.mode, repo.write_blob(t.now))
    from_tree = repo.tree_with(f"{head}^{{tree}}", current)
    if plan is None:
        to_tree = str(repo.resolve(f"{new_base}^{{tree}}"))
    else:
        wanted: dict[str, Entry | None] = {
            path: Entry(file.mode, repo.write_blob(file.patched)) for path, file in plan.files.items()
        }
        to_tree = repo.tree_with(plan.upstream.tree, wanted)
        if to_tree != plan.upstream.patched_tree:
            raise Fault(
                ExitCode.WRONG_TREE, f"{upstream.name}: the patched tree would be {to_tree}; nothing changed"
            )
    skip = sorted({*holes(repo, head), *holes(repo, new_base)})
    if new_base != head and skip:
        clone.leave_out(repo, skip)
    stamp = plan.stamp() if plan else None
    transition.run(repo, Move(from_tree, to_tree, head=new_base, stamp=stamp, skip=skip))
    transition.finish(repo)


def recover(ctx: Context, repo: Repo) -> None:
    how = transition.recover(repo)
    if how is not None:
        ctx.say(f"{repo.work_tree}: an interrupted run was {how}")
    transition.wait_for_index_lock(repo, ours=False)


@dataclass(frozen=True)
class Applied:
    """What ``apply`` did. ``missing`` are files that the source lacks."""

    text: str
    missing: Sequence[str] = ()


def apply(ctx: Context, upstream: Upstream, patches: Sequence[NamedPatch], *, patch: bool = True) -> Applied:
    """Have a clone at the pin with the hooks in; ``patch=False`` stops at the clone.

    Running it again does nothing. Edits to other files are kept.

    Raises:
        Fault: any of the module's; the work tree then holds upstream's files or the patched ones, never a mixture.
    """
    path = ctx.path(upstream)
    with locked(ctx, upstream):
        stage("locked")
        for folder in clone.remove_stale(ctx.dest, upstream.name):
            ctx.say(f"removed {folder.name}, left by a run that was killed")
        did: list[str] = []
        source_error: Fault | None = None
        try:
            source = clone.find_source(upstream, ctx.mirror)
        except Fault as fault:  # only matters if something has to be fetched
            source, source_error = clone.Source(upstream.url, False), fault
        fresh = not path.is_symlink() and (not path.exists() or (path.is_dir() and not any(path.iterdir())))
        if fresh:
            if source_error:
                raise source_error
            ctx.say(f"cloning {upstream.name} from {source.location}")
            needed = [named.patch.path for named in patches]
            clone.clone_into_place(upstream, source, path, ctx.console, needed)
            did.append("cloned")
        repo = open_clone(ctx, upstream)
        recover(ctx, repo)
        head = pinned_head(repo, upstream)
        if not repo.has_commit(upstream.commit):
            if source_error:
                raise source_error
            clone.ensure_commit(repo, upstream, source, upstream.commit)
        plan = make_plan(repo, upstream, patches)
        stage("plan-made")
        stamp = read_stamp(repo.git_dir)
        wanted = plan if patch else None
        touched = survey(repo, head, plan if head == upstream.commit else None, stamp)
        if not patch and any(t.state in ("patched", "older") for t in touched):
            raise Fault(
                ExitCode.EDITED,
                f"{path} is patched already; take the hooks out with `python apply.py revert {upstream.name}`",
            )
        refuse_edited(repo, touched, "patch")
        if head != upstream.commit or (wanted and not all(t.done for t in touched)):
            move_to(repo, upstream, head, touched, upstream.commit, wanted)
            if head != upstream.commit:
                did.append(f"moved from {head[:12]} to the pin")
            if wanted and wanted.files:
                did.append("patched")
        elif wanted and stamp != plan.stamp():
            write_stamp(repo.git_dir, plan.stamp())
        write_pin(repo.git_dir, upstream.commit)
        missing = clone.left_out(repo)
        if not did:
            did.append("nothing to do")
        if wanted and not wanted.files:
            did.append("there is no patch for it yet, so it is upstream's own code")
        return Applied(", ".join(did), missing)


def revert(ctx: Context, upstream: Upstream, read: Callable[[], Sequence[NamedPatch]]) -> str:
    """Take the hooks out again; edits to other files are kept.

    Args:
        read: reads the patch files; not called when the stamp says what was put in, so a clone can be reverted
            whatever became of them.
    """
    open_clone(ctx, upstream)
    with locked(ctx, upstream):
        stage("locked")
        repo = open_clone(ctx, upstream)
        recover(ctx, repo)
        head = pinned_head(repo, upstream)
        stamp = read_stamp(repo.git_dir)
        plan = None if stamp and stamp.commit == head else make_plan(repo, upstream, read())
        stage("plan-made")
        touched = survey(repo, head, plan, stamp)
        refuse_edited(repo, touched, "revert")
        if all(t.state == "base" for t in touched):
            write_stamp(repo.git_dir, None)
            return "nothing to revert"
        move_to(repo, upstream, head, touched, head, None)
        return "reverted to upstream's own code"


@dataclass
class Status:
    """One upstream's state, as ``status --json`` prints it.

    ``state``: ``absent``; ``pristine`` (at the pin, no hooks); ``patched``; ``outdated`` (patched, or at a pin, by
    an older lock); ``partial`` (an interrupted run is to be finished or undone); ``modified`` (a file that the
    overlay touches was edited); ``foreign`` (not a clone, or at another commit).
    """

    name: str
    url: str
    commit: str
    tree: str
    patched_tree: str
    path: str
    state: str
    detail: str = ""
    head: str | None = None
    patches: list[str] = field(default_factory=list)
    modified_files: list[str] = field(default_factory=list)
    missing_files: dict[str, list[str]] = field(default_factory=dict)
    stamp: Mapping[str, Any] | None = None


def first_look(
    upstream: Upstream, path: Path, patches: list[str], *, present: bool
) -> tuple[Status, Repo | None, Stamp | None]:
    """What every status begins with: the pin, and HEAD and stamp of the clone; None where there is no clone."""
    out = Status(
        name=upstream.name,
        url=upstream.url,
        commit=upstream.commit,
        tree=upstream.tree,
        patched_tree=upstream.patched_tree,
        path=str(path),
        state="absent",
        patches=patches,
    )
    if not present:
        return out, None, None
    repo = Repo.at(path)
    if repo is None:
        out.state, out.detail = "foreign", "not a git clone"
        return out, None, None
    out.head = repo.head()
    stamp = read_stamp(repo.git_dir)
    if stamp is not None:
        out.stamp = {"commit": stamp.commit, "patched_tree": stamp.patched_tree, "files": dict(stamp.files)}
    return out, repo, stamp


def status(ctx: Context, upstream: Upstream, patches: Sequence[NamedPatch] | None) -> Status:
    """Look, change nothing. ``patches`` is None where the patch files are not what the lock lists."""
    path = ctx.path(upstream)
    present = path.exists() or path.is_symlink()
    out, repo, stamp = first_look(upstream, path, [entry.file for entry in upstream.patches], present=present)
    if repo is None:
        if not present:
            out.detail = f"not cloned; python apply.py {upstream.name}"
        return out
    journal = transition.read_journal(repo.git_dir)
    if journal is not None:
        out.state = "partial"
        out.detail = f"run by pid {journal.pid} on {journal.host} since {journal.started} is not complete"
        return out
    try:
        head = pinned_head(repo, upstream)
    except Fault:
        out.state, out.detail = "foreign", f"at commit {out.head}, which is not the pin"
        return out
    listed = clone.left_out(repo)
    out.missing_files = {name: clone.needed_by(repo, name) for name in listed}
    plan = make_plan(repo, upstream, patches) if head == upstream.commit and patches is not None else None
    touched = survey(repo, head, plan, stamp)
    states = {t.state for t in touched}
    out.modified_files = _modified(repo, head, touched)
    if states & {"edited", "missing"}:
        out.state, out.detail = "modified", "a file that the overlay touches was edited"
    elif head != upstream.commit or "older" in states:
        out.state, out.detail = "outdated", f"of an older lock; python apply.py {upstream.name}"
    elif states == {"patched"}:
        out.state = "patched"
    elif states <= {"base"}:
        out.state = "pristine"
        out.detail = "hooks not in" if upstream.patches else "there is no patch for it yet"
    else:
        out.state, out.detail = "partial", f"some hooks are in, some are not; python apply.py {upstream.name}"
    return out


def _modified(repo: Repo, head: str, touched: Sequence[Touched]) -> list[str]:
    """Tracked files that hold anything but upstream's content or the overlay's."""
    ours = {t.path for t in touched if t.state in ("patched", "older", "base")}
    listing = repo.run("diff", "--name-only", "-z", "--no-ext-diff", "--no-renames", head).split(b"\0")
    names = {raw.decode("utf-8", "surrogateescape") for raw in listing if raw}
    return sorted((names - ours) | {t.path for t in touched if t.state in ("edited", "missing")})


def report_missing(ctx: Context, upstream: Upstream, missing: Sequence[str]) -> None:
    """Say on stderr which files the source did not have, and which scripts will want them."""
    if not missing:
        return
    repo = open_clone(ctx, upstream)
    ctx.say(
        f"warning: {upstream.name}: the source lacks the content of {len(missing)} file(s), left out of the clone:"
    )
    for path in missing:
        users = clone.needed_by(repo, path)
        ctx.say(
            f"  {path}: " + (f"read by {'; '.join(users)}" if users else "no script of upstream names it")
        )
    ctx.say(f"  With a network, `git -C {repo.work_tree} sparse-checkout disable` fetches them.")
