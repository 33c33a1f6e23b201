"""Fold hook lines edited in a clone back into the patch files and the lock, or the lock alone from the files."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from . import lint
from .atomic import look, read_regular
from .context import Context, Opened, find, looked_at
from .difference import insertions
from .errors import ExitCode, Fault
from .home import INSTALLED, PROGRAM
from .lockfile import PatchEntry, Upstream, check_patch_file
from .patchfile import Patch, file_name, insert, keep_labels, parse, render, sha256
from .paths import link_on_the_way
from .plan import NamedPatch, base_files, make_plan, pinned_entries, read_patches
from .publish import save
from .record import Known, Record, write_pin, write_record, write_stamp
from .stages import stage
from .status import changed_files
from .work import held

_UNTIL = "if upstream offers hooks of its own at these places, or the overlay drops this upstream."


def need_repository(ctx: Context) -> None:
    """Patches are written in the repository, not in an installed package. Raises Fault: USAGE."""
    if INSTALLED and ctx.lock.root == Path(__file__).with_name("shipped"):
        raise Fault(
            ExitCode.USAGE,
            "patches are written in the overlay's repository; run apply.py there, or give --lock",
        )


def _new_header(
    path: str, why: Sequence[str], until: str | None, labels: Sequence[str], paths: set[str]
) -> str:
    """A header for a file's first patch; ``why`` items are ``TEXT`` or ``FILE=TEXT``."""
    named = dict(item.split("=", 1) for item in why if "=" in item and item.split("=", 1)[0] in paths)
    texts = [named[path]] if path in named else [item for item in why if item.partition("=")[0] not in named]
    text = " ".join((texts or [""])[0].split())
    if not text:
        raise Fault(
            ExitCode.USAGE,
            f"{path} has no patch yet: say why it gets one with --why TEXT (or --why {path}=TEXT)",
        )
    parts = (
        f"Hooks in {path}.",
        f"Why: {text}",
        f"Hooks: {'; '.join(labels)}.",
        f"When it may go: {until or _UNTIL}",
    )
    return "\n\n".join(textwrap.fill(part, width=88) for part in parts)


def _patch_of(at: Opened, path: str, base: bytes, old: NamedPatch | None, wrong: list[str]) -> Patch | None:
    """What one edited file asks for as a patch; ``wrong`` gets what keeps it from being one."""
    link = link_on_the_way(at.clone.work_tree, path)
    seen = None if link else look(at.clone.work_tree / path)
    reason = lint.unpatchable(path) or (f"{path} was deleted, or is a link" if seen is None else None)
    if reason or seen is None:
        wrong.append(str(reason))
        return None
    likely = old.patch.insertions if old else ()
    try:
        hunks = keep_labels(likely, insertions(base, seen.data, path, likely))
    except Fault as fault:
        wrong.append(fault.message)
        return None
    wrong += [f"{path}: {problem}" for hunk in hunks for problem in lint.inserted_code(hunk)]
    return Patch(old.patch.header if old else "", path, hunks)


def refresh(ctx: Context, upstream: Upstream, why: Sequence[str], until: str | None) -> list[str]:
    """Make the patch files say what the clone holds.

    Returns:
        One line per patch file written.

    Raises:
        Fault: NOT_INSERTIONS when the clone holds anything but inserted hook lines; nothing is written then.
    """
    need_repository(ctx)
    with held(ctx, upstream) as at:
        if at.clone.head != upstream.commit:
            raise Fault(
                ExitCode.WRONG_COMMIT,
                f"{at.clone.work_tree} is at {at.clone.head}, not at the pin {upstream.commit}; refresh works there "
                f"only. For another commit see `{PROGRAM} update`.",
            )
        old = {named.patch.path: named for named in read_patches(ctx.lock, upstream, verify=False)}
        changed = changed_files(at)
        unhooked = sorted(set(old) - set(changed))
        if unhooked or not changed:
            raise Fault(
                ExitCode.NOT_IN_ORDER,
                f"{', '.join(unhooked)}: no hooks in the clone, though there is a patch. Put them in with "
                f"`{PROGRAM} {upstream.name}` first; to drop a patch, delete its file and its line in the lock."
                if unhooked
                else f"{at.clone.work_tree} holds no edits to make a patch of",
            )
        wrong = [f"{path} is not in the pin" for path in changed if path not in at.entries]
        there = [path for path in changed if path in at.entries]
        base = base_files(pinned_entries(at.repo, upstream), at.repo, there, upstream.commit)
        new = {path: _patch_of(at, path, base[path], old.get(path), wrong) for path in there}
        if wrong:
            raise Fault(
                ExitCode.NOT_INSERTIONS,
                f"{at.clone.work_tree} holds more than inserted hook lines; nothing was written. Move these edits away "
                "(`git stash` there keeps them):\n  " + "\n  ".join(wrong),
            )
        patches: list[NamedPatch] = []
        taken = {Path(entry.file).name for entry in upstream.patches}
        for path in [*(p for p in old if p in new), *(p for p in there if p not in old)]:
            patch, named = new[path], old.get(path)
            assert patch is not None  # else something was wrong
            if (
                named
                and _hand_edited(ctx, upstream, named)
                and insert(named.patch, base[path]) != insert(patch, base[path])
            ):
                raise Fault(
                    ExitCode.PATCH_CHANGED,
                    f"both {named.file} and {path} in the clone were edited. Keep the patch file with `refresh "
                    f"{upstream.name} --from-patches`, or restore it with git and run this again.",
                )
            if not named:
                patch = replace(patch, header=_new_header(path, why, until, patch.labels(), set(new)))
            file = named.file if named else f"patches/{upstream.name}/{file_name(path, taken)}"
            taken.add(Path(file).name)
            _reads_back(patch, file)
            patches.append(NamedPatch(file, patch))
        return _write(ctx, at, upstream, patches)


def _reads_back(patch: Patch, file: str) -> None:
    """Refuse what no command could read afterwards. Raises Fault: USAGE."""
    try:
        good = parse(render(patch), file) == patch
    except Fault:
        good = False
    if not good:
        raise Fault(
            ExitCode.USAGE,
            f"{file} could not be read again: --why and --until must not hold lines that look like a diff",
        )


def _hand_edited(ctx: Context, upstream: Upstream, named: NamedPatch) -> bool:
    digest = next(entry.sha256 for entry in upstream.patches if entry.file == named.file)
    return sha256(read_regular(ctx.lock.root / named.file)) != digest


def _write(ctx: Context, at: Opened, upstream: Upstream, patches: Sequence[NamedPatch]) -> list[str]:
    """Patch files and lock, then the clone's record; each step alone is complete."""
    plan = make_plan(at.repo, upstream, patches, verify=False)
    files = {named.file: render(named.patch) for named in patches}
    said = [
        f"wrote {named.file}: {len(named.patch.insertions)} hunks"
        for named in patches
        if not (ctx.lock.root / named.file).exists()
        or read_regular(ctx.lock.root / named.file) != files[named.file]
    ]
    entries = tuple(PatchEntry(file, sha256(data)) for file, data in files.items())
    save(ctx.lock, replace(upstream, patches=entries, patched_tree=plan.patched_tree), files, ctx.patience)
    known = {path: Known(file.base, file.patched) for path, file in plan.files.items()}
    record = Record(upstream.name, upstream.commit, upstream.tree, plan.patched_tree, known)
    write_record(at.clone.git_dir, record)
    write_stamp(at.clone.git_dir, record)
    stage("settled")
    write_pin(at.clone.git_dir, upstream.commit)
    return [*said, f"patched_tree = {plan.patched_tree}"]


def from_patches(ctx: Context, upstream: Upstream) -> list[str]:
    """Make the lock say what the patch files are: sha256 of each, new files added, and the tree they give.

    The clone is read, never changed; ``apply`` brings it up to date afterwards.

    Raises:
        Fault: PATCH_CHANGED, UNSAFE_PATH for a name that the lock could not hold.
    """
    need_repository(ctx)
    with looked_at(ctx, find(ctx, upstream)) as at:
        added = lint.orphans(ctx.lock, ctx.lock.root / "patches" / upstream.name)
        for file in added:
            check_patch_file(ctx.lock.root, file, f"patches/{upstream.name}")
        listed = [*(entry.file for entry in upstream.patches), *added]
        entries = (PatchEntry(file, sha256(read_regular(ctx.lock.root / file))) for file in listed)
        fresh = replace(upstream, patches=tuple(entries))
        patches = read_patches(ctx.lock, fresh)
        problems = [f"{named.file}: {problem}" for named in patches for problem in lint.problems(named.patch)]
        problems += [
            f"{named.file}: not in the canonical spelling (one empty line before '---', none after)"
            for named in patches
            if render(named.patch) != read_regular(ctx.lock.root / named.file)
        ]
        if problems:
            raise Fault(ExitCode.PATCH_CHANGED, "the lock was not changed:\n  " + "\n  ".join(problems))
        fresh = replace(fresh, patched_tree=make_plan(at.repo, fresh, patches, verify=False).patched_tree)
    if fresh == upstream:
        return ["the lock says so already"]
    save(ctx.lock, fresh, {}, ctx.patience)
    hint = f"patched_tree = {fresh.patched_tree}; run `{PROGRAM} {upstream.name}` to patch the clone"
    return [*(f"added {file}" for file in added), hint]
