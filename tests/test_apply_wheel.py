"""``pcpo apply`` from an installed wheel, without this repository."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from apply_toy import ROOT, Toy, build, git

from pcpo_overlay.vendoring.lockfile import load


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the files that the repository has, but for the miniatures' weights."""
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
    (made,) = (folder / "out").glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The package as pip installs it from the wheel."""
    site = wheel.parents[1] / "site"
    zipfile.ZipFile(wheel).extractall(site)
    return site


def test_the_wheel_says_what_an_index_shows(wheel: Path) -> None:
    """Description in Markdown, licence with its file, classifiers, addresses, and torch as the one heavy dependency."""
    archive = zipfile.ZipFile(wheel)
    (info,) = {name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name}
    metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")
    assert metadata["License-Expression"] == "MIT" and metadata["License-File"] == "LICENSE"
    assert f"{info}/licenses/LICENSE" in archive.namelist()
    assert any(url.startswith("Paper, https://arxiv.org/") for url in metadata.get_all("Project-URL", []))
    tested = {c.rpartition(" ")[2] for c in metadata.get_all("Classifier", []) if ":: Python :: 3." in c}
    matrix = re.search(r"python: \[(.*)\]", (ROOT / ".github/workflows/ci.yml").read_text())
    assert matrix is not None and tested == set(re.findall(r"[\d.]+", matrix[1]))
    needed = {
        re.split(r"[ ;<>=]", n)[0] for n in metadata.get_all("Requires-Dist", []) if "extra ==" not in n
    }
    assert needed == {"torch", "GitPython", "filelock", "rich", "tomli"}


def test_pip_installs_it_into_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    """Its commands run there; what it depends on is lent by the environment of the tests, torch being large."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--quiet",
        "--python",
        str(python),
        "install",
        "--no-index",
        "--no-deps",
    ]
    subprocess.run([*pip, str(wheel)], check=True)
    (site,) = home.glob("lib/python*/site-packages")
    assert (site / "pcpo_overlay" / "py.typed").is_file()
    lent = [path for path in map(Path, sys.path) if path.name in ("site-packages", "dist-packages")]
    # An editable install is found by a hook of its own, which these lines do not run.
    (site / "lent.pth").write_text("".join(f"{path}\n" for path in lent))
    told = "import pcpo_overlay; print(pcpo_overlay.__file__)"
    run = subprocess.run([python, "-c", told], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(run.stdout.strip()).is_relative_to(site)
    for words in (
        ["--help"],
        ["weights", "ddim", "--steps", "10"],
        ["apply", "status"],
        ["doctor", "--help"],
    ):
        done = subprocess.run(
            [home / "bin" / "pcpo", *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_a_source_archive_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    folder = wheel.parents[1]
    build = "from setuptools.build_meta import build_sdist; import sys; print(build_sdist(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=folder, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    (source,) = (path for path in tmp_path.iterdir() if path.is_dir())
    again = "from setuptools.build_meta import build_wheel; import sys; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", again, str(tmp_path)], cwd=source, check=True, capture_output=True)
    (made,) = tmp_path.glob("*.whl")
    assert held(made) == held(wheel)


def held(wheel: Path) -> dict[str, int]:
    """Every file of a wheel, by the checksum of its content, but for the list of them."""
    return {i.filename: i.CRC for i in zipfile.ZipFile(wheel).infolist() if not i.filename.endswith("RECORD")}


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
