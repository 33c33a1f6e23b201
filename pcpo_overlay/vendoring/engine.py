"""Put hooks into a clone and take them out again: known bytes in, known bytes out, file by file.

A touched file is without hooks, with them, or edited by its user. The first two are replaced whole; an edited one is
refused by name, or, in a clone that the user named with ``--into``, merged. All new content is written aside before
the record is, and the record before the first file changes place: a run that dies leaves nothing unknown behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from .atomic import Seen, Swap, look_below, remove_leftovers
from .difference import carry, like, take_out, to_lf
from .errors import ExitCode, Fault
from .gitio import Entry, blob_oid
from .home import PROGRAM
from .lockfile import sha256
from .patchfile import Patch, strip
from .plan import FilePlan, Plan
from .record import Known, Record, write_record, write_stamp
from .site import Site
from .stages import stage


@dataclass(frozen=True)
class Touched:
    """A file that the overlay touches or touched, and what is there now.

    ``state``: ``out`` (no hooks), ``in``, ``older`` (ours, of an earlier run), ``edited``, ``missing``, ``link``.
    ``before`` is the file without hooks, where that is known.
    """

    path: str
    state: str
    now: bytes | None = None
    before: bytes | None = None
    known: Known | None = None
    file: FilePlan | None = None

    def holds(self, patch: Patch) -> bool:
        """Whether the file is the one without hooks and these hooks, and nothing else."""
        if self.now is None or self.before is None or self.now == self.before:
            return False
        return strip(patch, to_lf(self.now)) == to_lf(self.before)

    @property
    def strange(self) -> bool:
        """Whether the user edited what is there, or hooks of another lock are in a file that the user edited before."""
        if self.file is None or self.before is None:
            return self.before is None
        return to_lf(self.before) != to_lf(self.file.base) and not self.holds(self.file.patch)


def survey(at: Site, plan: Plan | None) -> list[Touched]:
    """Look at every file that the overlay touches or touched."""
    recorded = at.record.files if at.record else {}
    planned = plan.files if plan else {}
    paths = sorted({*recorded, *planned})
    return [_classify(at, path, recorded.get(path), planned.get(path)) for path in paths]


def _classify(at: Site, path: str, known: Known | None = None, file: FilePlan | None = None) -> Touched:
    seen = look_below(at.root, path)
    if seen is None or seen.link:
        return Touched(path, "link" if seen else "missing", None, None, known, file)
    now, ours, state, before = seen.data, [seen.data], "edited", None
    if known:
        ours += [known.before, known.after]
        if known.holds(now):
            state = "out" if now == known.before else "in" if now == known.after else "older"
            before = known.before
    if file:
        ours += [file.base, file.patched]
        base, patched = like(file.base, now), like(file.patched, now)
        if before is None and now in (base, patched):
            state, before = "out" if now == base else "in", base
    # In a clone of ours, what is staged counts: an edit of the user's, unless it is HEAD's content or the overlay's.
    fine = {blob_oid(data) for data in ours} | {entry.oid for p, entry in at.entries.items() if p == path}
    if not at.merge and any(entry.oid not in fine for entry in at.index.get(path, [])):
        before = None
    return Touched(path, state, now, before, known, file)


def refuse(at: Site, edited: Sequence[Touched], what: str) -> None:
    """Stop before anything is written if a file to be changed holds someone's edits. Raises Fault: EDITED."""
    words = {"missing": " (deleted)", "link": " (a symbolic link is in the way)"}
    if edited:
        names = "\n  ".join(f"{t.path}{words.get(t.state, '')}" for t in edited)
        raise ExitCode.EDITED.fault(
            f"cannot {what} {at.root}: these files were edited by hand and were left alone:\n  {names}\nThe same "
            f"command with `--into {at.root}` keeps your edits and merges. To keep hook lines you added, fold them "
            f"in with `{PROGRAM} refresh {at.upstream.name}`."
        )


def _without_hooks(at: Site, touched: Touched, patch: Patch | None) -> bytes:
    """A file as the user has it, with the hooks that are in it taken out.

    Raises Fault: EDITED for a link, CONFLICT where hooks and edits cannot be told apart.
    """
    path, now, known = touched.path, touched.now, touched.known
    if touched.state == "link":
        raise ExitCode.EDITED.fault(f"{path} in {at.root} is reached by a symbolic link; it is not followed")
    if now is None:
        raise ExitCode.CONFLICT.fault(f"{path} is not in {at.root}, so its hooks have no place there")
    if touched.before is not None:
        return touched.before
    if known is not None:
        bare = take_out(known.before, known.after, now)
        if bare is None:
            raise ExitCode.CONFLICT.fault(
                f"{path}: your edits and the hooks meet; move yours a line away from them"
            )
        return bare
    # The record is lost, but the lock's own hooks can be recognised.
    bare = strip(patch, now) if patch else None
    if bare is None and b"pcpo_overlay" in now:
        raise ExitCode.CONFLICT.fault(
            f"{path} holds hooks that are not the lock's, and no record says what was there before; nothing was "
            "written. Copy the file, take the lines that name pcpo out, and run this again."
        )
    return now if bare is None else bare


def _with_hooks(path: str, before: bytes, file: FilePlan) -> bytes:
    """The user's file with the hooks in. Raises Fault: CONFLICT where a hook has no place in it."""
    plain = to_lf(before)
    if plain == to_lf(file.base):
        return like(file.patched, before)
    carried = carry(file.patch.insertions, file.base, plain if like(plain, before) == before else before)
    if carried.lost:
        raise ExitCode.CONFLICT.fault(
            f"{path} differs from the pin where a hook goes, so the hooks do not merge cleanly; nothing was written:\n"
            + carried.why_lost
        )
    return like(carried.text, before)


def _each(touched: Sequence[Touched], aim_of: Callable[[Touched], Known]) -> dict[str, Known]:
    """What each file is to hold. Raises Fault: CONFLICT with the words of every file that has one, or another fault."""
    out: dict[str, Known] = {}
    conflicts: list[str] = []
    for t in touched:
        try:
            out[t.path] = aim_of(t)
        except Fault as fault:
            if fault.code is not ExitCode.CONFLICT:
                raise
            conflicts.append(fault.message)
    if conflicts:
        raise ExitCode.CONFLICT.fault("\n".join(conflicts))
    return out


def aim(at: Site, touched: Sequence[Touched]) -> dict[str, Known]:
    """For each touched file its content without the hooks and with the plan's.

    Raises Fault: EDITED or CONFLICT, with all that stands in the way named.
    """
    if not at.merge:
        refuse(at, [t for t in touched if t.strange], "patch")

    def with_the_plans(t: Touched) -> Known:
        before = after = _without_hooks(at, t, t.file.patch if t.file else None)
        if t.file is not None:
            held = replace(t, before=before).holds(t.file.patch)
            after = t.now if held and t.now else _with_hooks(t.path, before, t.file)
        return Known(before, after)

    try:
        return _each(touched, with_the_plans)
    except Fault as fault:
        if at.at_pin or fault.code is not ExitCode.CONFLICT:
            raise
        pin = at.upstream.commit
        raise ExitCode.CONFLICT.fault(
            f"{at.root} is at commit {at.head[:12]} and the hooks are for {pin[:12]}, where `git -C {at.root} checkout "
            f"--detach {pin}` takes it; nothing was written. These have no place for them as they are:\n{fault.message}"
        ) from None


def put_in(at: Site, plan: Plan) -> tuple[bool, list[str]]:
    """Have the plan's hooks in the clone; whether a file was changed, and the files into which hooks were merged.

    Raises Fault: EDITED, CONFLICT, UNWRITABLE; a run that dies between files is completed by the next.
    """
    touched = survey(at, plan)
    files = aim(at, touched)
    merged = [path for path, file in plan.files.items() if to_lf(files[path].before) != to_lf(file.base)]
    return _carry_out(at, files, touched), merged


def take_all_out(at: Site, patches: Sequence[Patch] = (), plan: Plan | None = None) -> bool:
    """Have no hooks in the clone; the user's own edits stay. Whether a file was changed.

    ``patches`` are the lock's, to recognise hooks by where the record is lost; ``plan`` is of those, if there is one.
    Raises Fault: EDITED, CONFLICT, UNWRITABLE.
    """
    ours = {patch.path: patch for patch in patches}
    touched = survey(at, plan)
    if at.record is None and at.merge:
        found = [_classify(at, path) for path in ours]
        touched = [t for t in found if t.now is not None and strip(ours[t.path], t.now) is not None]
    if not at.merge:
        refuse(at, [t for t in touched if t.before is None], "revert")

    def bare(t: Touched) -> Known:
        data = _without_hooks(at, t, ours.get(t.path))
        return Known(data, data)

    return _carry_out(at, _each(touched, bare), touched)


def _record(at: Site, files: Mapping[str, Known]) -> Record:
    """The record of these files on HEAD; the tree it names is HEAD's with the hooks in."""
    ours = {path: known for path, known in files.items() if known.before != known.after}
    base_tree = patched_tree = str(at.repo.tree_of(at.head))
    if ours:
        patched = dict(at.entries)
        for path, known in ours.items():
            entry = at.entries.get(path, Entry("100644", ""))
            # of a file that differs from HEAD in line endings only, git would store HEAD's
            same = blob_oid(to_lf(known.before)) == entry.oid
            patched[path] = replace(entry, oid=blob_oid(to_lf(known.after) if same else known.after))
        patched_tree = at.repo.tree_name(patched)
    return Record(at.upstream.name, at.head, base_tree, patched_tree, files)


@contextmanager
def swapping(at: Site) -> Iterator[list[Swap]]:
    """A list for changes of files; what of them is not in place at the end is deleted. Raises Fault: UNWRITABLE."""
    swaps: list[Swap] = []
    try:
        yield swaps
    except OSError as error:
        words = f"cannot write to {at.root}: {error}; the next run finishes or undoes this one"
        raise ExitCode.UNWRITABLE.fault(words) from None
    finally:
        for swap in swaps:
            swap.discard()


def _carry_out(at: Site, files: Mapping[str, Known], touched: Sequence[Touched]) -> bool:
    """Bring the files from what they hold to what they are to hold, and settle the record; whether one was changed.

    Raises Fault: UNWRITABLE, or EDITED for a file that someone saved in the meantime; the next run finishes or undoes.
    """
    aims: dict[str, Known] = {}
    with swapping(at) as swaps:
        for t in touched:
            path, known, now = at.root / t.path, files[t.path], t.now or b""
            older = () if now in (known.before, known.after) else (sha256(now),)
            aims[t.path] = replace(known, older=older)
            if now == known.after:
                remove_leftovers(path)
                continue
            if path.stat().st_nlink > 1:
                at.ctx.say(f"{path} is a hard link: its other names keep the content of before")
            swaps.append(Swap(path, Seen(now), Seen(known.after)))
        record = _record(at, aims)
        settled = record.settled()
        if at.record is None and not swaps and not settled.files:
            return False
        if at.record != record:
            write_record(at.git_dir, record)
            stage("record-written")
        for swap in swaps:
            swap.commit()
            stage("file-written")
        settle(at, settled)
        return bool(swaps)


def settle(at: Site, record: Record) -> None:
    """Have record and stamp say what was put in, now that it is; without hooks there is neither."""
    write_stamp(at.git_dir, record)
    write_record(at.git_dir, record if record.files else None)
    stage("settled")
