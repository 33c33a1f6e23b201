"""``pcpo apply`` from an installed wheel, without this repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from apply_toy import ROOT, Toy, build, git

from pcpo_overlay.vendoring.lockfile import load


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as pip installs it from a wheel of the files that the repository has."""
    folder = tmp_path_factory.mktemp("wheel")
    names = ("pyproject.toml", "README.md", "LICENSE", "vendor.lock")
    for name in names:
        shutil.copy(ROOT / name, folder)
    ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
    for name in ("pcpo_overlay", "patches"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--quiet",
        "wheel",
        "--no-build-isolation",
        "--no-deps",
        "--wheel-dir",
        "out",
        ".",
    ]
    subprocess.run(pip, cwd=folder, check=True)
    (wheel,) = (folder / "out").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def pcpo(installed: Path, where: Path, *args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    run = "import sys; sys.path.insert(0, sys.argv.pop(1)); from pcpo_overlay.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-I", "-c", run, str(installed), *args]
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode == code, done
    return done


def test_the_wheel_carries_lock_and_patches_as_they_are(installed: Path) -> None:
    shipped = installed / "pcpo_overlay/vendoring/shipped"
    assert (shipped / "vendor.lock").read_bytes() == (ROOT / "vendor.lock").read_bytes()
    for upstream in load(ROOT / "vendor.lock").upstreams:
        for entry in upstream.patches:
            assert (shipped / entry.file).read_bytes() == (ROOT / entry.file).read_bytes()
    assert not (installed / "patches").exists() and not (installed / "apply.py").exists()


def test_the_installed_command_is_the_same_program(installed: Path, tmp_path: Path) -> None:
    toy: Toy = build(tmp_path / "toy")
    help_text = pcpo(installed, tmp_path, "apply", "--help").stdout
    assert "pcpo apply [COMMAND]" in help_text and "exit codes:" in help_text
    status = pcpo(installed, tmp_path, "apply", "status").stdout
    assert "ddpo-pytorch: absent" in status and str(tmp_path / "vendor") in status
    mine = tmp_path / "my-clone"
    git(tmp_path, "clone", "--quiet", str(toy.upstream), str(mine))
    git(mine, "checkout", "--quiet", "pin")
    where = ("--lock", str(toy.lock), "--mirror", str(toy.root / "mirror"))
    pcpo(installed, tmp_path, "apply", "toy", "--into", str(mine), *where)
    assert (mine / "step.py").read_bytes() == toy.patched("step.py")
    done = pcpo(installed, tmp_path, "apply", "refresh", "ddpo-pytorch", code=2)
    assert "repository" in done.stderr


@pytest.mark.upstream
def test_an_own_clone_of_ddpo_is_patched_with_what_the_wheel_carries(
    installed: Path, tmp_path: Path, ddpo_pristine: Path
) -> None:
    shutil.copytree(ddpo_pristine, tmp_path / "my-clone", symlinks=True)
    pcpo(installed, tmp_path, "apply", "ddpo-pytorch", "--into", "my-clone")
    assert "pcpo_overlay" in (tmp_path / "my-clone/scripts/train.py").read_text()
    assert (
        "patched" in pcpo(installed, tmp_path, "apply", "check", "ddpo-pytorch", "--into", "my-clone").stdout
    )
