"""check and diff: look at the patches and a clone, change nothing."""

from __future__ import annotations

from . import lint, manage
from .errors import ExitCode, Fault
from .gitio import Repo
from .lockfile import Upstream
from .manage import Context
from .merge import insertions
from .patchfile import Patch, keep_labels, render
from .plan import Plan, make_plan, read_patches


def check_patches(ctx: Context, upstream: Upstream) -> None:
    """Compare the patch files with the lock and lint them; needs no clone.

    Raises:
        Fault: PATCH_CHANGED with every problem in one message.
    """
    patches = read_patches(ctx.lock, upstream)
    found = [f"{named.file}: {problem}" for named in patches for problem in lint.problems(named.patch)]
    found += [f"{file}: not listed in {ctx.lock.path.name}" for file in lint.orphans(ctx.lock)]
    found += lint.misplaced(ctx.lock)
    if found:
        raise Fault(ExitCode.PATCH_CHANGED, "problems with the patches:\n  " + "\n  ".join(found))


def check_plan(ctx: Context, plan: Plan) -> None:
    """Export the patches again from base and patched files, compare, and look for lines of upstream's in them.

    Raises:
        Fault: PATCH_CHANGED.
    """
    found = lint.all_upstream_lines(
        [n.patch for n in plan.patches], {p: f.base for p, f in plan.files.items()}
    )
    for named in plan.patches:
        file = plan.files[named.patch.path]
        hunks = keep_labels(named.patch.insertions, insertions(file.base, file.patched, named.patch.path))
        again = render(Patch(named.patch.header, named.patch.path, hunks))
        if again != (ctx.lock.root / named.file).read_bytes():
            found.append(f"{named.file}: exported again from the trees it reads differently; run refresh")
    if found:
        raise Fault(ExitCode.PATCH_CHANGED, "problems with the patches:\n  " + "\n  ".join(found))


def check(ctx: Context, upstream: Upstream) -> str:
    """All of the above, and that the clone is patched and its touched files are as the lock says.

    Raises:
        Fault: NOT_IN_ORDER, EDITED, WRONG_COMMIT for the clone; PATCH_CHANGED, WRONG_TREE for the patches.
    """
    check_patches(ctx, upstream)
    repo = manage.open_clone(ctx, upstream)
    patches = read_patches(ctx.lock, upstream)
    status = manage.status(ctx, upstream, patches)
    if status.state in ("foreign", "partial"):
        code = ExitCode.WRONG_COMMIT if status.state == "foreign" else ExitCode.NOT_IN_ORDER
        raise Fault(code, f"{status.path}: {status.state}: {status.detail}")
    if not repo.has_commit(upstream.commit):
        raise Fault(ExitCode.NOT_IN_ORDER, f"{status.path}: outdated: {status.detail}")
    check_plan(ctx, make_plan(repo, upstream, patches))
    if status.state == "modified":
        raise Fault(
            ExitCode.EDITED,
            f"{status.path}: edited where the overlay works: {', '.join(status.modified_files)}",
        )
    expected = "patched" if patches else "pristine"
    if status.state != expected:
        raise Fault(ExitCode.NOT_IN_ORDER, f"{status.path}: {status.state}: {status.detail}")
    text = f"{expected}, as locked: {upstream.patched_tree}"
    if not patches:
        text += " (there is no patch for it yet)"
    if status.modified_files:
        text += f"; edited by you elsewhere: {', '.join(status.modified_files)}"
    return text


def show(ctx: Context, upstream: Upstream) -> str:
    """The hooks with upstream's lines around them, each file's reasons first.

    The context comes from the clone; the patch files hold none of it.
    """
    repo = manage.open_clone(ctx, upstream)
    plan = make_plan(repo, upstream, read_patches(ctx.lock, upstream))
    return show_plan(repo, plan)


def show_plan(repo: Repo, plan: Plan) -> str:
    pieces: list[str] = []
    with repo.scratch_objects() as objects:
        for named in plan.patches:
            file = plan.files[named.patch.path]
            old, new = objects.write_blob(file.base), objects.write_blob(file.patched)
            body = objects.run("diff", "--no-ext-diff", "-U4", "--minimal", old, new).decode(
                "utf-8", "replace"
            )
            hunks = body[body.index("@@") :]
            pieces.append(
                f"{_indent(named.patch.header)}\n--- a/{named.patch.path}\n+++ b/{named.patch.path}\n{hunks}"
            )
    if not pieces:
        return f"{plan.upstream.name}: there is no patch for it yet\n"
    return "\n".join(pieces)


def _indent(text: str) -> str:
    return "\n".join(f"# {line}" if line else "#" for line in text.splitlines())
