"""Fold hook lines edited in a clone back into the patch files and the lock, or the lock alone from the files."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from . import lint
from .atomic import holds, look_below, read_regular
from .context import Context
from .difference import insertions
from .engine import settle
from .errors import ExitCode, Fault
from .home import INSTALLED, PROGRAM, SHIPPED
from .lockfile import PatchEntry, Upstream, check_patch_file, sha256
from .patchfile import Patch, file_name, keep_labels, parse, render
from .plan import base_file, make_plan, pinned_entries, read_patches
from .publish import save
from .record import Known, Record, write_pin
from .site import Site
from .work import held, opened

_UNTIL = "if upstream offers hooks of its own at these places, or the overlay drops this upstream."


def need_repository(ctx: Context) -> None:
    """Patches are written in the repository, not in an installed package. Raises Fault: USAGE."""
    if INSTALLED and ctx.lock.root == SHIPPED:
        raise ExitCode.USAGE.fault(
            "patches are written in the overlay's repository; run apply.py there, or give --lock"
        )


def entries_of(files: Mapping[str, bytes]) -> tuple[PatchEntry, ...]:
    return tuple(PatchEntry(file, sha256(data)) for file, data in files.items())


def _told(upstream: Upstream, *lines: str) -> str:
    return "\n".join(f"{upstream.name}: {line}" for line in lines)


def _new_header(patch: Patch, why: Sequence[str], until: str | None, paths: Collection[str]) -> str:
    """A header for a file's first patch; ``why`` items are ``TEXT`` or ``FILE=TEXT``."""
    path = patch.path
    split = [item.partition("=") if item.partition("=")[0] in paths else ("", "", item) for item in why]
    texts = [text for file, _, text in split if file == path] or [text for file, _, text in split if not file]
    text = " ".join("".join(texts[:1]).split())
    if not text:
        raise ExitCode.USAGE.fault(
            f"{path} has no patch yet: say why it gets one with --why TEXT (or --why {path}=TEXT)"
        )
    parts = [f"Hooks in {path}.", f"Why: {text}", f"Hooks: {'; '.join(patch.labels)}."]
    parts.append(f"When it may go: {until or _UNTIL}")
    return "\n\n".join(textwrap.fill(part, width=88) for part in parts)


def _patch_of(at: Site, path: str, base: bytes, old: Patch | None) -> tuple[Patch | None, list[str]]:
    """What one edited file asks for as a patch, and what keeps it from being one."""
    seen = look_below(at.root, path)
    reason = lint.unpatchable(path)
    if reason or seen is None or seen.link:
        return None, [reason or f"{path} was deleted, or is a link"]
    likely = old.insertions if old else ()
    try:
        hunks = keep_labels(likely, insertions(base, seen.data, path, likely))
    except Fault as fault:
        return None, [fault.message]
    wrong = [f"{path}: {problem}" for hunk in hunks for problem in lint.inserted_code(hunk)]
    return Patch(old.header if old else "", path, hunks, old.file if old else ""), wrong


def refresh(ctx: Context, upstream: Upstream, why: Sequence[str], until: str | None) -> str:
    """Make the patch files say what the clone holds; returns what was done, a line each.

    Raises Fault: NOT_INSERTIONS when the clone holds anything but inserted hook lines; nothing is written then.
    """
    need_repository(ctx)
    with held(ctx, upstream) as at:
        if not at.at_pin:
            raise ExitCode.WRONG_COMMIT.fault(
                f"{at.root} is at {at.head}, not at the pin {upstream.commit}; refresh works there only. For another "
                f"commit see `{PROGRAM} update`."
            )
        old = {patch.path: patch for patch in read_patches(ctx.lock, upstream, verify=False)}
        changed = at.changed_files()
        unhooked = sorted(old.keys() - set(changed))
        if unhooked:
            raise ExitCode.NOT_IN_ORDER.fault(
                f"{', '.join(unhooked)}: no hooks in the clone, though there is a patch. Put them in with "
                f"`{PROGRAM} {upstream.name}` first; to drop a patch, delete its file and its line in the lock."
            )
        if not changed:
            raise ExitCode.NOT_IN_ORDER.fault(f"{at.root} holds no edits to make a patch of")
        wrong = [f"{path} is not in the pin" for path in changed if path not in at.entries]
        pinned = pinned_entries(at.repo, upstream)
        base = {p: base_file(at.repo, pinned, p, upstream.commit) for p in changed if p in at.entries}
        new: dict[str, Patch] = {}
        for path in sorted(base, key=lambda path: list(old).index(path) if path in old else len(old)):
            patch, problems = _patch_of(at, path, base[path], old.get(path))
            wrong += problems
            if patch is not None:
                new[path] = patch
        if wrong:
            raise ExitCode.NOT_INSERTIONS.fault(
                f"{at.root} holds more than inserted hook lines; nothing was written. Move these edits away "
                "(`git stash` there keeps them):\n  " + "\n  ".join(wrong)
            )
        listed = {entry.file: entry.sha256 for entry in upstream.patches}
        taken = {Path(file).name for file in listed}
        for path, patch in new.items():
            if path not in old:
                header = _new_header(patch, why, until, new)
                name = file_name(path, taken)
                taken.add(name)
                new[path] = replace(patch, header=header, file=f"patches/{upstream.name}/{name}")
            elif patch != old[path] and sha256(render(old[path])) != listed[patch.file]:
                raise ExitCode.PATCH_CHANGED.fault(
                    f"both {patch.file} and {path} in the clone were edited. Keep the patch file with `refresh "
                    f"{upstream.name} --from-patches`, or restore it with git and run this again."
                )
            _reads_back(new[path])
        return _write(at, list(new.values()))


def _reads_back(patch: Patch) -> None:
    """Refuse what no command could read afterwards. Raises Fault: USAGE."""
    try:
        parse(render(patch), patch.file)
    except Fault:
        raise ExitCode.USAGE.fault(
            f"{patch.file} could not be read again: --why and --until must not hold lines that look like a diff"
        ) from None


def _write(at: Site, patches: Sequence[Patch]) -> str:
    """Patch files and lock, then the clone's record; each step alone is complete."""
    root, upstream = at.ctx.lock.root, at.upstream
    plan = make_plan(at.repo, upstream, patches, verify=False)
    files = {patch.file: render(patch) for patch in patches}
    written = [patch for patch in patches if not holds(root / patch.file, files[patch.file])]
    entries, tree = entries_of(files), plan.patched_tree
    save(at.ctx, replace(upstream, patches=entries, patched_tree=tree), files)
    known = {path: Known(file.base, file.patched) for path, file in plan.files.items()}
    settle(at, Record(upstream.name, upstream.commit, upstream.tree, tree, known))
    write_pin(at.git_dir, upstream.commit)
    said = [f"wrote {patch.file}: {len(patch.insertions)} hunks" for patch in written]
    return _told(upstream, *said, f"patched_tree = {tree}")


def from_patches(ctx: Context, upstream: Upstream) -> str:
    """Make the lock say what the patch files are: sha256 of each, new files added, and the tree they give.

    The clone is read, never changed; ``apply`` brings it up to date afterwards.

    Raises Fault: PATCH_CHANGED, UNSAFE_PATH for a name that the lock could not hold.
    """
    need_repository(ctx)
    added = lint.orphans(ctx.lock, ctx.lock.root / "patches" / upstream.name)
    for file in added:
        check_patch_file(ctx.lock.root, file, f"patches/{upstream.name}")
    files = [*(entry.file for entry in upstream.patches), *added]
    entries = entries_of({file: read_regular(ctx.lock.root / file) for file in files})
    fresh = replace(upstream, patches=entries)
    patches = read_patches(ctx.lock, fresh)
    problems = [f"{patch.file}: {problem}" for patch in patches for problem in lint.problems(patch)]
    if problems:
        raise ExitCode.PATCH_CHANGED.fault("the lock was not changed:\n  " + "\n  ".join(problems))
    with opened(ctx, upstream) as at:
        fresh = replace(fresh, patched_tree=make_plan(at.repo, fresh, patches, verify=False).patched_tree)
    if fresh == upstream:
        return _told(upstream, "the lock says so already")
    save(ctx, fresh, {})
    hint = f"patched_tree = {fresh.patched_tree}; run `{PROGRAM} {upstream.name}` to patch the clone"
    return _told(upstream, *(f"added {file}" for file in added), hint)
