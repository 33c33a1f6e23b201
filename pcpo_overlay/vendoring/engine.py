"""Put hooks into a clone and take them out again: known bytes in, known bytes out, file by file.

A touched file is without hooks, with them, or edited by its user. The first two are replaced whole; an edited one is
refused by name, or, in a clone that the user named with ``--into``, merged. All new content is written aside before
the record is, and the record before the first file changes place: a run that dies leaves nothing unknown behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .atomic import Seen, Swap, look, remove_leftovers
from .context import Opened
from .difference import carry, is_crlf, take_out, to_crlf, to_lf
from .errors import ExitCode, Fault
from .gitio import Entry, blob_oid
from .home import PROGRAM
from .patchfile import Patch, sha256, strip
from .paths import link_on_the_way
from .plan import FilePlan, NamedPatch, Plan
from .record import Known, Record, write_record, write_stamp
from .stages import stage


@dataclass(frozen=True)
class Touched:
    """A file that the overlay touches or touched, and what is there now.

    ``state``: ``out`` (no hooks), ``in``, ``older`` (ours, of an earlier run), ``edited``, ``missing``, ``link``.
    ``before`` is the file without hooks, where that is known.
    """

    path: str
    now: bytes | None
    state: str
    before: bytes | None
    known: Known | None
    file: FilePlan | None

    @property
    def own(self) -> bool:
        """Whether the file without hooks is the user's own, not upstream's at the pin."""
        return (
            self.file is not None and self.before is not None and to_lf(self.before) != to_lf(self.file.base)
        )

    def holds(self, patch: Patch) -> bool:
        """Whether the file is the one without hooks and these hooks, and nothing else."""
        if self.now is None or self.before is None or self.now == self.before:
            return False
        return strip(patch, to_lf(self.now)) == to_lf(self.before)


def _like(text: bytes, now: bytes) -> bytes:
    """``text`` with the line endings of ``now``."""
    return to_crlf(text) if is_crlf(now) and b"\r\n" not in text else text


def survey(at: Opened, plan: Plan | None, *, staged: bool) -> list[Touched]:
    """Look at every file that the overlay touches or touched.

    Args:
        staged: count a file as edited if the index holds something for it that is neither HEAD's nor the overlay's.
    """
    recorded = at.record.files if at.record else {}
    planned = plan.files if plan else {}
    out: list[Touched] = []
    for path in sorted({*recorded, *planned}):
        known, file = recorded.get(path), planned.get(path)
        out.append(_classify(at, path, known, file, staged))
    return out


def _classify(at: Opened, path: str, known: Known | None, file: FilePlan | None, staged: bool) -> Touched:
    link = link_on_the_way(at.clone.work_tree, path)
    seen = None if link else look(at.clone.work_tree / path)
    if link or seen is None:
        return Touched(path, None, "link" if link else "missing", None, known, file)
    now, state, before = seen.data, "edited", None
    if known and known.holds(now):
        state = "out" if now == known.before else "in" if now == known.after else "older"
        before = known.before
    elif file and now in (base := _like(file.base, now), _like(file.patched, now)):
        state, before = ("out" if now == base else "in"), base
    if staged:
        ours = [
            now,
            *([known.before, known.after] if known else []),
            *([file.base, file.patched] if file else []),
        ]
        fine = {blob_oid(data) for data in ours} | ({at.entries[path].oid} if path in at.entries else set())
        if any(entry.oid not in fine for entry in at.index.get(path, [])):
            state, before = "edited", None
    return Touched(path, now, state, before, known, file)


def refuse(at: Opened, edited: Sequence[Touched], what: str, name: str) -> None:
    """Stop before anything is written if a file to be changed holds someone's edits. Raises Fault: EDITED."""
    words = {"missing": " (deleted)", "link": " (a symbolic link is in the way)"}
    if edited:
        names = "\n  ".join(f"{t.path}{words.get(t.state, '')}" for t in edited)
        raise Fault(
            ExitCode.EDITED,
            f"cannot {what} {at.clone.work_tree}: these files were edited by hand and were left alone:\n  {names}\n"
            f"The same command with `--into {at.clone.work_tree}` keeps your edits and merges. To keep hook lines you "
            f"added, fold them in with `{PROGRAM} refresh {name}`.",
        )


def _without_hooks(at: Opened, touched: Touched, patch: Patch | None) -> bytes:
    """An edited file as the user has it, with the hooks that are in it taken out.

    Raises Fault: EDITED for a link, CONFLICT where hooks and edits cannot be told apart.
    """
    path, now, known = touched.path, touched.now, touched.known
    if touched.state == "link":
        raise Fault(
            ExitCode.EDITED,
            f"{path} in {at.clone.work_tree} is reached by a symbolic link; it is not followed",
        )
    if now is None:
        raise Fault(
            ExitCode.CONFLICT, f"{path} is not in {at.clone.work_tree}, so its hooks have no place there"
        )
    if touched.before is not None:
        return touched.before
    if known is not None:
        bare = take_out(known.before, known.after, now) if known.before != known.after else now
        if bare is None:
            raise Fault(
                ExitCode.CONFLICT, f"{path}: your edits and the hooks meet; move yours a line away from them"
            )
        return bare
    bare = (
        strip(patch, now) if patch else None
    )  # the record is lost, but the lock's own hooks can be recognised
    if bare is None and b"pcpo_overlay" in now:
        raise Fault(
            ExitCode.CONFLICT,
            f"{path} holds hooks that are not the lock's, and no record says what was there before; nothing was "
            "written. Copy the file, take the lines that name pcpo out, and run this again.",
        )
    return now if bare is None else bare


def _with_hooks(path: str, before: bytes, file: FilePlan) -> bytes:
    """The user's file with the hooks in. Raises Fault: CONFLICT where a hook has no place in it."""
    if to_lf(before) == to_lf(file.base):
        return _like(file.patched, before)
    carried = carry(file.named.patch.insertions, file.base, to_lf(before) if is_crlf(before) else before)
    if carried.lost:
        raise Fault(
            ExitCode.CONFLICT,
            f"{path} differs from the pin where a hook goes, so the hooks do not merge cleanly; nothing was written:\n"
            + carried.why_lost(),
        )
    return to_crlf(carried.text) if is_crlf(before) else carried.text


def _aim(at: Opened, plan: Plan, touched: Sequence[Touched], *, merge: bool) -> dict[str, Known]:
    """For each touched file its content without the hooks and with the plan's.

    Raises Fault: EDITED, with all that stands in the way named; CONFLICT.
    """
    own = [t for t in touched if t.before is None or (t.own and t.file and not t.holds(t.file.named.patch))]
    if not merge:
        refuse(at, own, "patch", plan.upstream.name)
    out: dict[str, Known] = {}
    for t in touched:
        before = _without_hooks(at, t, t.file.named.patch if t.file else None)
        now = t.now or b""
        if t.file is None:
            after = before
        else:
            held = replace(t, before=before).holds(t.file.named.patch)
            after = now if held else _with_hooks(t.path, before, t.file)
        out[t.path] = Known(before, after, () if now in (before, after) else (sha256(now),))
    return out


def preview(at: Opened, plan: Plan) -> dict[str, tuple[bytes, bytes]]:
    """Each file without hooks and with them, as :func:`put_in` with ``merge`` would have it."""
    files = _aim(at, plan, survey(at, plan, staged=False), merge=True)
    return {path: (files[path].before, files[path].after) for path in plan.files}


def put_in(at: Opened, plan: Plan, *, merge: bool) -> tuple[bool, list[str]]:
    """Have the plan's hooks in the clone; everything is worked out before the first file is written.

    Returns:
        whether a file was changed, and the files into which the hooks were merged.

    Raises:
        Fault: EDITED, CONFLICT, UNWRITABLE; a run that dies between files is completed by the next.
    """
    touched = survey(at, plan, staged=not merge)
    files = _aim(at, plan, touched, merge=merge)
    carry_out(at, _record(at, plan.upstream.name, files), touched)
    merged = [path for path, file in plan.files.items() if to_lf(files[path].before) != to_lf(file.base)]
    return any(t.now != files[t.path].after for t in touched), merged


def take_all_out(
    at: Opened, name: str, patches: Sequence[NamedPatch], plan: Plan | None, *, merge: bool
) -> bool:
    """Have no hooks in the clone; the user's own edits stay.

    Args:
        patches: the lock's, to recognise hooks by where the record is lost; ``plan`` is of those, or None.

    Returns:
        whether a file was changed.

    Raises:
        Fault: EDITED, CONFLICT, UNWRITABLE.
    """
    named = {n.patch.path: n.patch for n in patches}
    touched = survey(at, plan, staged=not merge)
    if at.record is None and merge:
        found = [_classify(at, path, None, None, False) for path in named]
        touched = [t for t in found if t.now is not None and strip(named[t.path], t.now) is not None]
    if not merge:
        refuse(at, [t for t in touched if t.before is None], "revert", name)
    bare = {t.path: _without_hooks(at, t, named.get(t.path)) for t in touched}
    files = {
        t.path: Known(bare[t.path], bare[t.path], () if t.now == bare[t.path] else (sha256(t.now or b""),))
        for t in touched
    }
    if at.record is not None or any(known.older for known in files.values()):
        carry_out(at, _record(at, name, files), touched)
    return any(known.older for known in files.values())


def _record(at: Opened, name: str, files: Mapping[str, Known]) -> Record:
    """The record of these files on HEAD; the tree it names is HEAD's with the hooks in."""
    head = str(at.clone.head)
    patched = {path: known for path, known in files.items() if known.before != known.after}
    base_tree = str(at.repo.tree_of(head))
    if not patched:
        return Record(name, head, base_tree, base_tree, files)
    ours = {
        path: replace(at.entries.get(path, Entry("100644", "")), oid=blob_oid(_like_entry(at, path, known)))
        for path, known in patched.items()
    }
    return Record(name, head, base_tree, at.repo.tree_name({**at.entries, **ours}), files)


def _like_entry(at: Opened, path: str, known: Known) -> bytes:
    """The content that git would store: of a file that differs from HEAD in line endings only, with HEAD's."""
    same = path in at.entries and blob_oid(to_lf(known.before)) == at.entries[path].oid
    return to_lf(known.after) if same else known.after


def carry_out(at: Opened, record: Record, touched: Sequence[Touched]) -> None:
    """Bring the files from what they hold to what the record says, and settle it.

    Raises Fault: UNWRITABLE, or EDITED for a file that someone saved in the meantime; the next run finishes or undoes.
    """
    git_dir, root = at.clone.git_dir, at.clone.work_tree
    swaps: list[Swap] = []
    try:
        for t in touched:
            path = root / t.path
            if t.now is None or t.now == record.files[t.path].after:
                remove_leftovers(path)
                continue
            if path.stat().st_nlink > 1:
                at.say(f"{path} is a hard link: its other names keep the content of before")
            swaps.append(Swap(path, Seen(t.now), Seen(record.files[t.path].after)))
        if at.record != record:
            write_record(git_dir, record)
            stage("record-written")
        for swap in swaps:
            swap.commit()
            stage("file-written")
        settled = record.settled()
        write_stamp(git_dir, settled)
        if settled != record or not settled.files:
            write_record(git_dir, settled if settled.files else None)
        stage("settled")
    except OSError as error:
        raise Fault(
            ExitCode.UNWRITABLE, f"cannot write to {root}: {error}; the next run finishes or undoes this one"
        ) from None
    finally:
        for swap in swaps:
            swap.discard()
