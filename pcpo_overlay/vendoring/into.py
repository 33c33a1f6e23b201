"""Put the hooks into a clone the user already has, whatever its commit and edits, and take them out again.

Only the touched files change; index, branch and commits are the user's. Where a touched file differs from the pin,
the hooks are carried over by three-way merge, and only if that comes out clean with every hook in one piece. What
each file was before and after is kept in the git directory, so reverting gives the user's bytes back.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .atomic import remove, write_atomically
from .check import show_plan
from .errors import ExitCode, Fault
from .gitio import Entry, Repo
from .lockfile import Upstream
from .manage import Context, Status, first_look
from .merge import conflict_markers, three_way, to_crlf, to_lf
from .mutex import exclusive
from .patchfile import decode, sha256, strip
from .paths import no_symlink_on_the_way
from .plan import FilePlan, NamedPatch, Plan, make_plan
from .stages import stage
from .stamp import Stamp, read_stamp, write_stamp
from .transition import JOURNAL, content
from .update import objects_of

UNDO = "pcpo-overlay.undo.json"


@dataclass(frozen=True)
class Undo:
    """One file's content before and after the hooks went in."""

    before: bytes
    after: bytes


def read_undo(git_dir: Path) -> dict[str, Undo]:
    """What was put into a clone; empty if nothing was."""
    path = git_dir / UNDO
    try:
        raw = json.loads(path.read_text(encoding="ascii"))
        return {
            name: Undo(base64.b64decode(item["before"]), base64.b64decode(item["after"]))
            for name, item in raw["files"].items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Fault(ExitCode.FAILED, f"{path} cannot be read ({error}); remove it to go on") from None


def _write_undo(git_dir: Path, files: Mapping[str, Undo]) -> None:
    packed = {
        name: {"before": base64.b64encode(u.before).decode(), "after": base64.b64encode(u.after).decode()}
        for name, u in files.items()
    }
    write_atomically(git_dir / UNDO, json.dumps({"files": packed}).encode())


def _open(path: Path, upstream: Upstream) -> Repo:
    repo = Repo.at(path)
    if repo is None:
        raise Fault(ExitCode.WRONG_COMMIT, f"{path} is not the top folder of a git clone of {upstream.name}")
    if (repo.git_dir / JOURNAL).exists() or (read_stamp(repo.git_dir) and not (repo.git_dir / UNDO).exists()):
        raise Fault(
            ExitCode.WRONG_COMMIT,
            f"{path} was patched by `apply.py {upstream.name}` without --into; use that form on it",
        )
    return repo


@contextmanager
def _held(ctx: Context, path: Path, upstream: Upstream) -> Iterator[Repo]:
    repo = _open(path, upstream)
    with exclusive(repo.git_dir / "pcpo-overlay.lock", str(path), ctx.command, ctx.wait, ctx.say):
        stage("locked")
        yield _open(path, upstream)


def _plan(ctx: Context, upstream: Upstream, patches: Sequence[NamedPatch], repo: Repo) -> Plan:
    """The plan at the pin, from the user's clone if it has the pin, else from the destination's or a scratch clone."""
    if repo.has_commit(upstream.commit):
        return make_plan(repo, upstream, patches)
    with objects_of(ctx, upstream, [upstream.commit]) as other:
        return make_plan(other, upstream, patches)


def _without_hooks(repo: Repo, path: str, undo: Undo | None) -> bytes:
    """The file as the user has it, with what an earlier run put in taken out.

    Raises:
        Fault: CONFLICT when the user edited so close to a hook that the two cannot be told apart.
    """
    if not no_symlink_on_the_way(repo.work_tree, path):
        raise Fault(ExitCode.EDITED, f"{path} in {repo.work_tree} is a symbolic link; it is not followed")
    now = content(repo.work_tree, path)
    if now is None:
        raise Fault(ExitCode.CONFLICT, f"{path} is not in {repo.work_tree}, so its hooks have no place there")
    if undo is None or now == undo.before:
        return now
    if now == undo.after:
        return undo.before
    merged = three_way(now, undo.after, undo.before, ("yours", "with hooks", "before the hooks"))
    if merged.conflicts:
        raise Fault(
            ExitCode.CONFLICT, f"{path}: your edits and the hooks meet; move yours a line away from them"
        )
    return merged.text


def _with_hooks(path: str, clean: bytes, file: FilePlan, named: NamedPatch) -> bytes:
    """The user's file with the hooks in."""
    if clean == file.base:
        return file.patched
    crlf = b"\r\n" in clean and clean.count(b"\r\n") == clean.count(b"\n") and b"\r\n" not in file.base
    text = to_lf(clean) if crlf else clean
    merged = three_way(text, file.base, file.patched, ("yours", "the pin", "the pin with hooks"))
    if merged.conflicts:
        raise Fault(
            ExitCode.CONFLICT,
            f"{path} differs from the pin where a hook goes, so the hooks do not merge cleanly; nothing was written:\n"
            + conflict_markers(decode(merged.text)),
        )
    if strip(named.patch, merged.text) != text:
        raise Fault(
            ExitCode.CONFLICT, f"{path}: the merge did not keep every hook in one piece; nothing was written"
        )
    return to_crlf(merged.text) if crlf else merged.text


def _stamp(repo: Repo, upstream: Upstream, files: Mapping[str, Undo]) -> Stamp:
    """The stamp of a clone of the user's: their commit, and the tree it would be with the hooks in."""
    head = repo.head() or ""
    base_tree = str(repo.resolve("HEAD^{tree}"))
    with repo.scratch_objects() as scratch:
        modes = scratch.tree_entries(base_tree, list(files))
        changed: dict[str, Entry | None] = {
            path: Entry(modes[path].mode if path in modes else "100644", scratch.write_blob(u.after))
            for path, u in files.items()
        }
        tree = scratch.tree_with(base_tree, changed)
    return Stamp(upstream.name, head, base_tree, tree, {path: sha256(u.after) for path, u in files.items()})


def _write_files(repo: Repo, texts: Mapping[str, bytes]) -> None:
    for path, text in texts.items():
        if content(repo.work_tree, path) != text:
            write_atomically(repo.work_tree / path, text)
        stage("file-written")


def apply_into(ctx: Context, upstream: Upstream, patches: Sequence[NamedPatch], path: Path) -> str:
    """Put the hooks into the clone at ``path``; everything is worked out before the first file is written.

    Raises:
        Fault: CONFLICT, EDITED, WRONG_COMMIT or UNWRITABLE; a run that dies between files is completed by the next.
    """
    with _held(ctx, path, upstream) as repo:
        if not patches:
            return "there is no patch for it yet; nothing was changed"
        plan = _plan(ctx, upstream, patches, repo)
        stage("plan-made")
        undo = read_undo(repo.git_dir)
        files: dict[str, Undo] = {}
        merged: list[str] = []
        for named in patches:
            name = named.patch.path
            clean = _without_hooks(repo, name, undo.get(name))
            files[name] = Undo(clean, _with_hooks(name, clean, plan.files[name], named))
            if clean != plan.files[name].base:
                merged.append(name)
        dropped = {name: _without_hooks(repo, name, undo[name]) for name in undo if name not in files}
        texts = {name: u.after for name, u in files.items()} | dropped
        done = undo == files and all(content(repo.work_tree, name) == text for name, text in texts.items())
        try:
            if not done:
                keep = {name: Undo(text, undo[name].after) for name, text in dropped.items()}
                _write_undo(repo.git_dir, files | keep)
                stage("undo-written")
                _write_files(repo, texts)
                if dropped:
                    _write_undo(repo.git_dir, files)
            write_stamp(repo.git_dir, _stamp(repo, upstream, files))
            stage("stamp-changed")
        except OSError as error:
            raise Fault(ExitCode.UNWRITABLE, f"cannot write to {path}: {error}") from None
        if done:
            return "nothing to do"
        how = f", by three-way merge in {', '.join(merged)}" if merged else ""
        return f"patched{how}"


def revert_into(
    ctx: Context, upstream: Upstream, read: Callable[[], Sequence[NamedPatch]], path: Path
) -> str:
    """Take the hooks out of the clone at ``path``; the user's own edits stay."""
    with _held(ctx, path, upstream) as repo:
        undo = read_undo(repo.git_dir)
        texts = {name: _without_hooks(repo, name, u) for name, u in undo.items()}
        if not undo:  # the note is lost, but the lock's own hooks can still be recognised
            for named in read():
                now = content(repo.work_tree, named.patch.path)
                bare = strip(named.patch, now) if now is not None else None
                if bare is not None:
                    texts[named.patch.path] = bare
        if not texts:
            return "nothing to revert"
        try:
            _write_files(repo, texts)
            write_stamp(repo.git_dir, None)
            stage("stamp-changed")
            remove(repo.git_dir / UNDO)
        except OSError as error:
            raise Fault(ExitCode.UNWRITABLE, f"cannot write to {path}: {error}") from None
        return "reverted"


def status_into(ctx: Context, upstream: Upstream, patches: Sequence[NamedPatch], path: Path) -> Status:
    """Look at the clone at ``path``, change nothing."""
    out, repo, _ = first_look(upstream, path, [named.file for named in patches], present=path.exists())
    if repo is None:
        return out
    undo = read_undo(repo.git_dir)
    now = {name: content(repo.work_tree, name) for name in undo}
    listing = repo.run("diff", "--name-only", "-z", "--no-ext-diff", "--no-renames", "HEAD").split(b"\0")
    names = {raw.decode("utf-8", "surrogateescape") for raw in listing if raw}
    out.modified_files = sorted(name for name in names if name not in undo or now[name] != undo[name].after)
    if not undo:
        out.state, out.detail = "pristine", "hooks not in"
    elif all(now[name] == u.after for name, u in undo.items()):
        out.state = "patched"
        if any(_hooks_differ(named, undo.get(named.patch.path)) for named in patches):
            out.state, out.detail = "outdated", "the patches changed since"
    elif all(now[name] in (u.before, u.after) for name, u in undo.items()):
        out.state, out.detail = "partial", "an interrupted run; run apply.py or revert with the same --into"
    else:
        out.state, out.detail = "modified", "a patched file was edited since"
    return out


def _hooks_differ(named: NamedPatch, undo: Undo | None) -> bool:
    """Whether a file was patched with other hooks than these."""
    return undo is None or strip(named.patch, to_lf(undo.after)) != to_lf(undo.before)


def show_into(ctx: Context, upstream: Upstream, patches: Sequence[NamedPatch], path: Path) -> str:
    """The hooks as they stand, or would stand, in the clone at ``path``."""
    repo = _open(path, upstream)
    plan = _plan(ctx, upstream, patches, repo)
    undo = read_undo(repo.git_dir)
    files: dict[str, FilePlan] = {}
    for named in patches:
        name = named.patch.path
        clean = _without_hooks(repo, name, undo.get(name))
        files[name] = FilePlan("100644", clean, _with_hooks(name, clean, plan.files[name], named))
    return show_plan(repo, Plan(upstream, tuple(patches), files))
