"""Clone an upstream at its pin: built aside, renamed into place when complete.

A mirror may lack the content of large data files. Those are left out with a sparse checkout and named, with the
launch scripts that read them; everything else of the clone works as usual.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import git
from git.remote import RemoteProgress
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from .errors import ExitCode, Fault
from .gitio import Repo, environment, holes
from .lockfile import Upstream
from .stages import stage
from .stamp import write_pin


@dataclass(frozen=True)
class Source:
    """Where an upstream's objects come from: a mirror's folder, or its url."""

    location: str
    mirrored: bool


def find_source(upstream: Upstream, mirror: Path | None) -> Source:
    """The mirror's copy if a mirror is given, else the url.

    Raises:
        Fault: UNREACHABLE when a mirror is given and has neither ``NAME`` nor ``NAME.git``.
    """
    if mirror is None:
        return Source(upstream.url, False)
    candidates = [mirror / upstream.name, mirror / f"{upstream.name}.git"]
    for folder in candidates:
        if (folder / "HEAD").is_file() or (folder / ".git").exists():
            return Source(str(folder.resolve()), True)
    looked = " and ".join(str(folder) for folder in candidates)
    raise Fault(
        ExitCode.UNREACHABLE,
        f"the mirror has no {upstream.name}: looked for {looked}. Put a clone there, or leave --mirror "
        f"(PCPO_MIRROR) out to clone {upstream.url}.",
    )


class _Bar(RemoteProgress):
    """git's own progress lines as a rich progress bar."""

    _NAMES: ClassVar[dict[int, str]] = {
        RemoteProgress.COUNTING: "counting",
        RemoteProgress.COMPRESSING: "compressing",
        RemoteProgress.RECEIVING: "receiving",
        RemoteProgress.RESOLVING: "resolving",
        RemoteProgress.CHECKING_OUT: "checking out",
    }

    def __init__(self, progress: Progress, task: TaskID, name: str) -> None:
        super().__init__()
        self._progress, self._task, self._name = progress, task, name

    def update(self, op_code: int, cur_count: Any, max_count: Any = None, message: str = "") -> None:
        step = self._NAMES.get(op_code & self.OP_MASK, "cloning")
        self._progress.update(
            self._task,
            description=f"{self._name}: {step}",
            completed=float(cur_count or 0),
            total=float(max_count) if max_count else None,
            rate=message or "",
        )


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _git_clone(source: Source, to: Path, name: str, console: Console) -> None:
    """``git clone --no-checkout``, tolerant of missing file contents in a local source."""
    with _progress(console) as progress:
        bar = _Bar(progress, progress.add_task(f"{name}: cloning", total=None, rate=""), name)
        try:
            git.Repo.clone_from(
                source.location,
                str(to),
                progress=bar,
                env=environment(),
                # With a promisor remote, git takes a missing object for one it could still fetch.
                multi_options=[
                    "--no-checkout",
                    "--no-hardlinks",
                    "--config remote.origin.promisor=true",
                    "--config core.autocrlf=false",
                ],
                allow_unsafe_options=True,
            ).close()
        except git.GitCommandError as error:
            if to.exists() and not os.access(to, os.W_OK):
                raise Fault(ExitCode.UNWRITABLE, f"cannot write to {to}") from None
            said = [line for line in str(error.stderr).strip().splitlines() if line.strip()]
            words = "\n  ".join(line.strip(" '") for line in said[-4:])
            if "No space left" in words or ("Permission denied" in words and str(to) in words):
                raise Fault(ExitCode.UNWRITABLE, f"cannot write the clone of {name}:\n  {words}") from None
            raise Fault(
                ExitCode.UNREACHABLE,
                f"cannot clone {name} from {source.location}:\n  {words}\n"
                "Without a network, give a folder of clones with --mirror DIR or PCPO_MIRROR.",
            ) from None


def bare_minimum(source: Source, to: Path, name: str, console: Console) -> Repo:
    """A clone without a checkout, to read objects from."""
    _git_clone(source, to, name, console)
    repo = Repo.at(to)
    if repo is None:
        raise Fault(ExitCode.FAILED, f"git made no repository in {to}")
    return repo


def ensure_commit(repo: Repo, upstream: Upstream, source: Source, commit: str) -> None:
    """Have ``commit`` in the repository, fetching it if it is not.

    Raises:
        Fault: WRONG_TREE when the source does not have it.
    """
    if repo.has_commit(commit):
        return
    result = repo.outcome("fetch", "--quiet", "--no-tags", source.location, commit)
    if result.status == 0 and repo.has_commit(commit):
        return
    last = (result.stderr.strip().splitlines() or ["no word from git"])[-1]
    unreachable = any(
        words in result.stderr
        for words in ("Could not resolve", "unable to access", "Could not read from remote", "Connection")
    )
    raise Fault(
        ExitCode.UNREACHABLE if unreachable else ExitCode.WRONG_TREE,
        f"{upstream.name}: commit {commit} is not in {source.location} ({last})",
    )


def leave_out(repo: Repo, missing: Sequence[str]) -> None:
    """Keep files without content out of the work tree; with none, make the clone an ordinary one."""
    if not missing:
        repo.outcome("config", "--unset-all", "remote.origin.promisor")
        return
    escaped = [re.sub(r"([*?\[\\! #])", r"\\\1", path) for path in missing]
    (repo.git_dir / "info").mkdir(exist_ok=True)
    patterns = "".join(f"!/{path}\n" for path in escaped)
    (repo.git_dir / "info" / "sparse-checkout").write_text("/*\n" + patterns, encoding="utf-8")
    repo.run("config", "core.sparseCheckout", "true")
    repo.run("config", "core.sparseCheckoutCone", "false")


def left_out(repo: Repo) -> list[str]:
    """Paths of HEAD that the sparse checkout leaves out of the work tree."""
    listing = repo.run("ls-files", "-t", "-z").split(b"\0")
    return sorted(r[2:].decode("utf-8", "surrogateescape") for r in listing if r.startswith(b"S "))


def remove_stale(dest: Path, name: str) -> list[Path]:
    """Delete what killed runs left of this upstream. Call with its lock held."""
    gone: list[Path] = []
    for folder in sorted(dest.glob(f".{name}.partial-*")):
        # git of a killed run may still be writing for a moment; what stays is tried again next time.
        shutil.rmtree(folder, ignore_errors=True)
        gone.append(folder)
    return gone


def clone_into_place(
    upstream: Upstream, source: Source, path: Path, console: Console, needed: Sequence[str]
) -> list[str]:
    """Clone at the pin and rename to ``path``, which must not exist or be empty.

    Args:
        needed: files that the patches touch; a source without their content is refused.

    Returns:
        Paths whose content the source lacks, left out of the work tree.

    Raises:
        Fault: UNREACHABLE, INCOMPLETE, WRONG_TREE or UNWRITABLE; nothing is at ``path`` then.
    """
    partial: Path | None = None
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
        os.chmod(partial, 0o755)  # noqa: PTH101 - mkdtemp's 0700 is too narrow for a shared clone
        stage("clone-begun")
        repo = bare_minimum(source, partial, upstream.name, console)
        stage("cloned")
        ensure_commit(repo, upstream, source, upstream.commit)
        tree = repo.resolve(f"{upstream.commit}^{{tree}}")
        if tree != upstream.tree:
            raise Fault(
                ExitCode.WRONG_TREE,
                f"{upstream.name}: commit {upstream.commit} has tree {tree}, but the lock says {upstream.tree}",
            )
        missing = holes(repo, upstream.commit)
        lost = sorted(set(missing) & set(needed))
        if lost:
            raise Fault(
                ExitCode.INCOMPLETE,
                f"{source.location} lacks the content of {', '.join(lost)}, which the hooks go into; clone "
                f"{upstream.name} from the network or from a complete mirror",
            )
        leave_out(repo, missing)
        repo.run("checkout", "--quiet", "--detach", upstream.commit)
        repo.run("remote", "set-url", "origin", upstream.url)
        stage("clone-checked-out")
        write_pin(repo.git_dir, upstream.commit)
        stage("clone-complete")
        os.rename(partial, path)  # noqa: PTH104
        stage("clone-renamed")
        return missing
    except OSError as error:
        raise Fault(ExitCode.UNWRITABLE, f"cannot write the clone to {path}: {error.strerror}") from None
    finally:
        if partial is not None and partial.exists():
            shutil.rmtree(partial, ignore_errors=True)


def needed_by(repo: Repo, path: str) -> list[str]:
    """Which of upstream's scripts read a file, found by looking for its name in them.

    A Python file that names it is followed one step to the shell scripts that launch it, for a config file by the
    name of the function around the mention (``--config config/grpo.py:NAME``).
    """
    texts = _scripts(repo)
    mention = _mention(path)
    folder = path.rpartition("/")[0]
    if not any(mention(text) for text in texts.values()) and "/" in folder:
        in_quotes = re.compile(rf"(?<![\w/])(?:\./)?{re.escape(folder)}[\"']")
        mention = lambda text: bool(in_quotes.search(text))  # noqa: E731
    out: list[str] = []
    for name, text in sorted(texts.items()):
        if not mention(text):
            continue
        if name.endswith(".sh"):
            out.append(name)
            continue
        launchers: set[str] = set()
        for function in _functions_around(text, mention) or [""]:
            wanted = _mention(f"{name}:{function}" if function else name)
            launchers |= {sh for sh, body in texts.items() if sh.endswith(".sh") and wanted(body)}
        launchers = launchers or {
            sh for sh, body in texts.items() if sh.endswith(".sh") and _runs(body, name)
        }
        out.append(f"{name} (launched by {', '.join(sorted(launchers))})" if launchers else name)
    return out


def _mention(words: str) -> Callable[[str], bool]:
    pattern = re.compile(rf"(?<![\w-]){re.escape(words)}(?![\w.-])")
    return lambda text: bool(pattern.search(text))


def _runs(body: str, script: str) -> bool:
    """Whether a shell script runs a Python file, whose configs other than this mention may be meant."""
    return not script.startswith("config/") and _mention(script)(body)


def _functions_around(text: str, mention: Callable[[str], bool]) -> list[str]:
    """Names of the top-level functions in which a mention stands."""
    out: list[str] = []
    current = ""
    for line in text.splitlines():
        start = re.match(r"def (\w+)\(", line)
        if start:
            current = start[1]
        elif line and not line[0].isspace() and line[0] not in "#)":
            current = ""
        if current and mention(line) and current not in out:
            out.append(current)
    return out


def _scripts(repo: Repo) -> dict[str, str]:
    listing = repo.run("ls-files", "-z", "--", "*.sh", "*.py").split(b"\0")
    out: dict[str, str] = {}
    for raw in listing:
        name = raw.decode("utf-8", "surrogateescape")
        full = repo.work_tree / name
        if name and full.is_file() and not full.is_symlink():
            out[name] = full.read_text(encoding="utf-8", errors="replace")
    return out
