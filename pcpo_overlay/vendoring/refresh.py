"""Fold hook lines edited in a clone back into the patch files and the lock, or the lock alone from the files."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from . import lint, transition
from .errors import ExitCode, Fault
from .gitio import Entry, Repo
from .lockfile import PatchEntry, Upstream, save
from .manage import Context, locked, open_clone, recover
from .merge import insertions
from .patchfile import Patch, file_name, insert, keep_labels, parse, render, sha256
from .plan import NamedPatch, base_files, make_plan, patched_tree, read_patches
from .stages import stage
from .stamp import write_pin, write_stamp

_UNTIL = "if upstream offers hooks of its own at these places, or the overlay drops this upstream."


def _at_pin(repo: Repo, upstream: Upstream) -> None:
    head = repo.head()
    if head != upstream.commit:
        raise Fault(
            ExitCode.WRONG_COMMIT,
            f"{repo.work_tree} is at {head}, not at the pin {upstream.commit}; refresh works on the pin only. For "
            "another commit see `python apply.py update`.",
        )


def _changed(repo: Repo) -> list[str]:
    listing = repo.run("diff", "--name-only", "-z", "--no-ext-diff", "--no-renames", "HEAD").split(b"\0")
    return sorted(raw.decode("utf-8", "surrogateescape") for raw in listing if raw)


def _new_header(
    path: str, why: Sequence[str], until: str | None, labels: Sequence[str], paths: set[str]
) -> str:
    """A header for a file's first patch; ``why`` items are ``TEXT`` or ``FILE=TEXT``."""
    text = ""
    for item in why:
        file, equals, rest = item.partition("=")
        if equals and file == path:
            text = rest
            break
        if not (equals and file in paths):
            text = text or item
    if not text.strip():
        raise Fault(
            ExitCode.USAGE,
            f"{path} has no patch yet: say why it gets one with --why TEXT (or --why {path}=TEXT)",
        )
    parts = (
        f"Hooks in {path}.",
        f"Why: {text.strip()}",
        f"Hooks: {'; '.join(labels)}.",
        f"When it may go: {(until or _UNTIL).strip()}",
    )
    return "\n\n".join(textwrap.fill(part, width=88) for part in parts)


def refresh(ctx: Context, upstream: Upstream, why: Sequence[str], until: str | None) -> list[str]:
    """Make the patch files say what the clone holds.

    Returns:
        One line per patch file written.

    Raises:
        Fault: NOT_INSERTIONS when the clone holds anything but inserted hook lines; nothing is written then.
    """
    open_clone(ctx, upstream)
    with locked(ctx, upstream):
        stage("locked")
        repo = open_clone(ctx, upstream)
        recover(ctx, repo)
        _at_pin(repo, upstream)
        old = {named.patch.path: named for named in read_patches(ctx.lock, upstream, verify=False)}
        changed = _changed(repo)
        unhooked = sorted(set(old) - set(changed))
        if unhooked:
            raise Fault(
                ExitCode.NOT_IN_ORDER,
                f"{', '.join(unhooked)}: no hooks in the clone, though there is a patch. Put them in with `python "
                f"apply.py {upstream.name}` first; to drop a patch, delete its file and its line in the lock.",
            )
        if not changed:
            raise Fault(ExitCode.NOT_IN_ORDER, f"{repo.work_tree} holds no edits to make a patch of")
        base = base_files(repo, upstream.commit, changed)
        new: dict[str, Patch] = {}
        wrong: list[str] = []
        for path in changed:
            now = transition.content(repo.work_tree, path)
            reason = lint.unpatchable(path) or (f"{path} was deleted" if now is None else None)
            if reason or now is None:
                wrong.append(str(reason))
                continue
            try:
                hunks = insertions(base[path][1], now, path)
            except Fault as fault:
                wrong.append(fault.message)
                continue
            named = old.get(path)
            hunks = keep_labels(named.patch.insertions if named else (), hunks)
            wrong += [f"{path}: {problem}" for hunk in hunks for problem in lint.inserted_code(hunk)]
            if not hunks:
                wrong.append(f"{path}: only its mode was changed")
                continue
            if named and _hand_edited(ctx, upstream, named) and insert(named.patch, base[path][1]) != now:
                raise Fault(
                    ExitCode.PATCH_CHANGED,
                    f"both {named.file} and {path} in the clone were edited. Keep the patch file with `refresh "
                    f"{upstream.name} --from-patches`, or restore it with git and run this again.",
                )
            header = named.patch.header if named else ""
            new[path] = Patch(header, path, hunks)
        if wrong:
            raise Fault(
                ExitCode.NOT_INSERTIONS,
                f"{repo.work_tree} holds more than inserted hook lines; nothing was written. Move these edits away "
                "(`git stash` there keeps them):\n  " + "\n  ".join(wrong),
            )
        for path, patch in new.items():
            if not patch.header:
                new[path] = replace(patch, header=_new_header(path, why, until, patch.labels(), set(new)))
            if insert(new[path], base[path][1]) != transition.content(repo.work_tree, path):
                raise Fault(ExitCode.FAILED, f"{path}: the patch made of it does not give it back")
        order = [path for path in old if path in new] + [path for path in new if path not in old]
        taken = {Path(entry.file).name for entry in upstream.patches}
        named_patches: list[NamedPatch] = []
        for path in order:
            file = old[path].file if path in old else f"patches/{upstream.name}/{file_name(path, taken)}"
            taken.add(Path(file).name)
            named_patches.append(NamedPatch(file, new[path]))
        return _write(ctx, repo, upstream, named_patches)


def _hand_edited(ctx: Context, upstream: Upstream, named: NamedPatch) -> bool:
    digest = next(entry.sha256 for entry in upstream.patches if entry.file == named.file)
    return sha256((ctx.lock.root / named.file).read_bytes()) != digest


def _write(ctx: Context, repo: Repo, upstream: Upstream, patches: Sequence[NamedPatch]) -> list[str]:
    """Patch files, then lock, then the clone's own records; each step alone is complete."""
    plan = make_plan(repo, upstream, patches, verify=False)
    files = {named.file: render(named.patch) for named in patches}
    entries = tuple(PatchEntry(file, sha256(data)) for file, data in files.items())
    said = [
        f"wrote {named.file}: {len(named.patch.insertions)} hunks"
        for named in patches
        if not (ctx.lock.root / named.file).exists()
        or (ctx.lock.root / named.file).read_bytes() != files[named.file]
    ]
    upstream = replace(upstream, patches=entries, patched_tree=patched_tree(repo, plan))
    try:
        save(ctx.lock, upstream, files)
    except OSError as error:
        raise Fault(ExitCode.UNWRITABLE, f"cannot write the patches: {error}") from None
    wanted: dict[str, Entry | None] = {
        path: Entry(file.mode, repo.write_blob(file.patched)) for path, file in plan.files.items()
    }
    repo.set_index(wanted)
    repo.outcome("update-index", "-q", "--refresh")
    write_stamp(repo.git_dir, replace(plan, upstream=upstream).stamp())
    stage("stamp-changed")
    write_pin(repo.git_dir, upstream.commit)
    said.append(f"patched_tree = {upstream.patched_tree}")
    return said


def from_patches(ctx: Context, upstream: Upstream) -> list[str]:
    """Make the lock say what the patch files are: sha256 of each, new files added, and the tree they give.

    The clone is read, never changed; ``apply`` brings it up to date afterwards.
    """
    open_clone(ctx, upstream)
    with locked(ctx, upstream):
        stage("locked")
        repo = open_clone(ctx, upstream)
        if not repo.has_commit(upstream.commit):
            _at_pin(repo, upstream)
        said: list[str] = []
        folder = ctx.lock.root / "patches" / upstream.name
        listed = list(upstream.patches)
        for file in lint.orphans(ctx.lock, folder):
            listed.append(PatchEntry(file, "0" * 64))
            said.append(f"added {file}")
        entries = [PatchEntry(e.file, sha256((ctx.lock.root / e.file).read_bytes())) for e in listed]
        fresh = replace(upstream, patches=tuple(entries))
        patches = read_patches(ctx.lock, fresh)
        problems = [f"{named.file}: {problem}" for named in patches for problem in lint.problems(named.patch)]
        for named in patches:
            data = (ctx.lock.root / named.file).read_bytes()
            if render(parse(data, named.file)) != data:
                problems.append(
                    f"{named.file}: not in the canonical spelling (one empty line before '---', none after)"
                )
        if problems:
            raise Fault(ExitCode.PATCH_CHANGED, "the lock was not changed:\n  " + "\n  ".join(problems))
        plan = make_plan(repo, fresh, patches, verify=False)
        fresh = replace(fresh, patched_tree=patched_tree(repo, plan))
        if fresh == upstream:
            return ["the lock says so already"]
        save(ctx.lock, fresh, {})
        said.append(
            f"patched_tree = {fresh.patched_tree}; run `python apply.py {upstream.name}` to patch the clone"
        )
        return said
