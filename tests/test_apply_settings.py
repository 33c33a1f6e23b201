"""Settings, environment, odd paths and odd files: nothing of it changes what is written, and each gets one line."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from apply_toy import HOOKS, ROOT, SETTINGS, Result, Toy, build, git, tree_of

from pcpo_overlay.vendoring.errors import ExitCode


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return build(tmp_path_factory.mktemp("toy") / "master")


@pytest.fixture
def toy(master: Toy, tmp_path: Path) -> Toy:
    return master.copy(tmp_path / "toy")


def one_line(result: Result, code: ExitCode) -> str:
    """The fault's message, which is one line and says something."""
    assert result.code == code, result
    lines = result.err.strip().splitlines()
    assert len(lines) == 1 and not lines[0].endswith(("None", ":")), result.err
    return lines[0]


USERS = {
    "inter-hunk context": "[diff]\n interHunkContext = 99\n context = 9\n algorithm = patience\n",
    "colour": "[color]\n ui = always\n diff = always\n",
    "big files": "[core]\n bigFileThreshold = 1\n",
    "a remote": '[remote "origin"]\n url = /nowhere\n fetch = +refs/heads/x:refs/heads/x\n',
    "object format": "[init]\n defaultObjectFormat = sha256\n defaultRefFormat = reftable\n",
    "line endings": "[core]\n autocrlf = true\n eol = crlf\n safecrlf = true\n",
    "partial": '[remote "origin"]\n promisor = true\n partialclonefilter = blob:none\n[fetch]\n fsckObjects = true\n',
    "merging": "[merge]\n conflictStyle = zdiff3\n[core]\n quotePath = true\n splitIndex = true\n",
}


@pytest.mark.parametrize("kind", USERS)
def test_a_setting_of_the_users_changes_nothing(toy: Toy, tmp_path: Path, kind: str) -> None:
    settings = tmp_path / "gitconfig"
    settings.write_text(SETTINGS.read_text() + USERS[kind])
    for env in ({"GIT_CONFIG_GLOBAL": str(settings)}, {"GIT_CONFIG_GLOBAL": str(SETTINGS)}):
        result = toy.ok("toy", env=env)
        toy.assert_patched()
        outputs = [
            toy.ok(*c, env=env).out for c in (["check"], ["status"], ["diff", "toy"], ["refresh", "toy"])
        ]
        outputs.append(toy.ok("update", "toy", "--to", "clean", env=env).out)
        toy.ok("revert", "toy", env=env)
        toy.assert_pristine()
        if "GIT_CONFIG_GLOBAL" in env and env["GIT_CONFIG_GLOBAL"] == str(settings):
            first, code = outputs, result.code
    toy.ok("toy")
    assert code == 0 and outputs[2:] == [*first[2:3], outputs[3], *first[4:]]


ENVIRONMENTS = {
    "an outer git -c": {
        "GIT_CONFIG_PARAMETERS": "'core.worktree=/nowhere' 'core.autocrlf=true' 'core.bare=true'"
    },
    "pathspecs": {"GIT_ICASE_PATHSPECS": "1", "GIT_LITERAL_PATHSPECS": "0", "GIT_GLOB_PATHSPECS": "1"},
    "a malformed count": {"GIT_CONFIG_COUNT": "many"},
    "a negative count": {"GIT_CONFIG_COUNT": "-1"},
    "a count without pairs": {"GIT_CONFIG_COUNT": "3", "GIT_CONFIG_KEY_0": "core.autocrlf"},
    "an object format": {"GIT_DEFAULT_HASH": "sha256", "GIT_DEFAULT_REF_FORMAT": "reftable"},
    "an attribute source": {
        "GIT_ATTR_SOURCE": "HEAD",
        "GIT_DIFF_OPTS": "-u9",
        "GIT_EXTERNAL_DIFF": "/nowhere",
    },
    "tracing": {"GIT_TRACE": "1", "GIT_TRACE_PACKET": "1"},
}


@pytest.mark.parametrize("kind", [*ENVIRONMENTS, "all of rev-parse --local-env-vars"])
def test_a_variable_of_an_enclosing_git_changes_nothing(toy: Toy, kind: str) -> None:
    names = git(toy.upstream, "rev-parse", "--local-env-vars").split()
    env = ENVIRONMENTS.get(kind, {n: "/nowhere" for n in names if not n.startswith("GIT_CONFIG_")})
    result = toy.ok("toy", env=env)
    toy.assert_patched()
    assert "trace" not in result.err
    toy.ok("check", "toy", env=env)
    toy.ok("update", "toy", "--to", "clean", "--write", env=env)
    toy.ok("toy", env=env)
    toy.ok("revert", "toy", env=env)


def test_insteadof_in_the_parameters_of_an_outer_git_survives(toy: Toy) -> None:
    mirror = f"url.{toy.root / 'mirror'}/.insteadOf=https://upstream.invalid/someone/"
    toy.ok("toy", mirror=None, env={"GIT_CONFIG_PARAMETERS": f"'{mirror}'"})
    toy.assert_patched()


# --- git's own words


def test_gits_words_are_in_the_message_when_it_cannot_clone(toy: Toy) -> None:
    result = toy.run("toy", mirror=None)
    assert result.code == ExitCode.UNREACHABLE
    assert (
        "fatal: unable to access" in result.err or "Could not resolve" in result.err or "fatal:" in result.err
    )
    assert not any(line.strip() in ("", "None") for line in result.err.strip().splitlines())


def test_a_git_that_fails_without_a_word(toy: Toy, tmp_path: Path) -> None:
    git_program = tmp_path / "bin" / "git"
    git_program.parent.mkdir()
    git_program.write_text(
        '#!/bin/sh\ncase "$*" in *ls-remote*--get-url*|*version*) exec /usr/bin/env -i '
        'PATH=/usr/bin:/bin git "$@";; *) exit 9;; esac\n'
    )
    git_program.chmod(0o755)
    result = toy.script("toy", mirror=None, env={"PATH": f"{git_program.parent}:{os.environ['PATH']}"})
    assert result.code == ExitCode.UNREACHABLE and "git said nothing (exit 9)" in result.err


@pytest.mark.parametrize("kind", ["malformed gitconfig", "crashing git", "wrong executable", "old git"])
def test_a_git_that_does_not_run_is_one_line(toy: Toy, tmp_path: Path, kind: str) -> None:
    env = {}
    if kind == "malformed gitconfig":
        (tmp_path / "gitconfig").write_text("[diff\n")
        env["GIT_CONFIG_GLOBAL"] = str(tmp_path / "gitconfig")
    elif kind == "wrong executable":
        env["GIT_PYTHON_GIT_EXECUTABLE"] = str(tmp_path / "nowhere")
    else:
        (tmp_path / "git").write_text(
            "#!/bin/sh\n" + ("kill -SEGV $$\n" if "crash" in kind else "echo git version 1.9.1\n")
        )
        (tmp_path / "git").chmod(0o755)
        env["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    message = one_line(toy.script("toy", env=env), ExitCode.MISSING_PACKAGE)
    assert "git" in message and not toy.dest.exists()
    assert kind != "old git" or "git 1.9.1 is too old; git 2.25 or newer is needed" in message


# --- paths and encodings


@pytest.mark.parametrize(
    "name", ["a:b", "$HOME", "a\\b", "sp ace", "-x", "é", b"by\xffte", '"quoted"', "#x", "new\nline", "t\tab"]
)
def test_odd_paths_work_or_are_refused_in_one_line(toy: Toy, name: str | bytes) -> None:
    """As destination, as clone of the user's, as mirror."""
    odd = Path(os.fsdecode(os.fsencode(toy.root) + b"/" + os.fsencode(name)))
    env = {**toy.environment(), "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    refused = "\n" in str(odd) or "\t" in str(odd)

    def run(*args: str) -> None:
        command = [sys.executable, str(ROOT / "apply.py"), *args, "--lock", str(toy.lock)]
        done = subprocess.run(command, capture_output=True, env=env, check=False)
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        assert done.returncode == (ExitCode.USAGE if refused else 0), done
        assert not refused or len(done.stderr.strip().splitlines()) == 1

    (toy.root / "mirror").rename(odd)
    run("toy", "--mirror", str(odd), "--dest", str(toy.dest))
    if not refused:
        toy.assert_patched()
    odd.rename(toy.root / "mirror")
    run("toy", "--mirror", str(toy.root / "mirror"), "--dest", str(odd))
    run("status", "toy", "--dest", str(odd))
    run("revert", "toy", "--dest", str(odd))
    if refused:
        assert not odd.exists()
        return
    (odd / "toy").rename(toy.root / "moved")
    for left in odd.iterdir():
        left.unlink()
    odd.rmdir()
    (toy.root / "moved").rename(odd)
    for command in ("apply", "status", "check", "revert"):
        run(command, "toy", "--into", str(odd))


# --- odd values and odd files


@pytest.mark.parametrize("wait", ["nan", "-5", "1e400", "inf", "x"])
def test_odd_seconds_are_refused(toy: Toy, wait: str) -> None:
    result = toy.run("toy", f"--wait={wait}")
    assert result.code == ExitCode.USAGE and "--wait" in result.err and not toy.dest.exists()


def test_a_format_that_is_true_is_refused(toy: Toy) -> None:
    toy.lock.write_text(toy.lock.read_text().replace("format = 1", "format = true"))
    assert "format is True" in one_line(toy.run("toy"), ExitCode.BAD_LOCK)


@pytest.mark.parametrize("text", ["x = " + "[" * 100_000, "x = '\0'", "\0", "format = 1" + "0" * 5000])
def test_odd_locks_are_refused(toy: Toy, text: str) -> None:
    toy.lock.write_text(text)
    one_line(toy.run("toy"), ExitCode.BAD_LOCK)


FIFOS = {
    "overlay/vendor.lock": ExitCode.BAD_LOCK,
    "overlay/patches/toy/step.patch": ExitCode.PATCH_CHANGED,
    "vendor/toy/step.py": ExitCode.EDITED,
    "vendor/toy/.git/HEAD": ExitCode.WRONG_COMMIT,
    "vendor/toy/.git/config": ExitCode.WRONG_COMMIT,
    "vendor/toy/.git/index": ExitCode.WRONG_COMMIT,
    "vendor/toy/.git/pcpo-overlay.record.json": ExitCode.FAILED,
}


@pytest.mark.parametrize("name", FIFOS)
def test_a_fifo_in_place_of_a_file_is_not_waited_for(toy: Toy, name: str) -> None:
    toy.ok("toy")
    (toy.root / name).unlink()
    os.mkfifo(toy.root / name)
    message = one_line(toy.run("toy"), FIFOS[name])
    assert Path(name).name in message or ".git/" in name
    toy.run("status", "toy")
    assert stat.S_ISFIFO((toy.root / name).stat().st_mode)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a": ' * 50_000, "\0", "null", "[]", '{"files": 1}', '"', "\udcff"]
)
def test_odd_records_are_one_line(toy: Toy, text: str) -> None:
    toy.ok("toy")
    record = toy.clone / ".git/pcpo-overlay.record.json"
    record.write_bytes(text.encode("utf-8", "surrogateescape"))
    before = tree_of(toy.clone)
    for command in ("apply", "revert", "status"):
        result = toy.run(command, "toy")
        if text != "null":
            assert "pcpo-overlay.record.json" in one_line(result, ExitCode.FAILED)
    assert text == "null" or tree_of(toy.clone) == before
    record.unlink(missing_ok=True)  # as the message says
    toy.ok("toy")
    assert json.loads((toy.clone / ".git/pcpo-overlay.json").read_text())["files"].keys() == HOOKS.keys()


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "\0", "[]", '{"lock": ""}', '{"lock": "", "patches": 1}', '"']
)
def test_odd_words_that_wait_beside_the_lock_are_one_line(toy: Toy, text: str) -> None:
    waiting = toy.overlay / ".vendor.lock.new"
    waiting.write_text(text)
    assert ".vendor.lock.new" in one_line(toy.run("toy"), ExitCode.FAILED)
    waiting.unlink()  # as the message says
    toy.ok("toy")
