"""The sets of icons that the animals are trained on: packages of npm by version and sha256, and their licences.

No icon is part of this repository. :func:`fetch` takes the packages with the user's own npm.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcpo_overlay.tools.faults import Fault, told
from pcpo_overlay.tools.miniature.animals import STYLES


class PackageError(Fault):
    """A package that cannot be had, or is not the one that was trained on."""


@dataclass(frozen=True)
class Package:
    """A package of npm; its archive's `sha256` stands for the `version` to the bit."""

    style: str
    version: str
    sha256: str

    @property
    def name(self) -> str:
        """As npm knows it."""
        return f"@iconify-json/{self.style}"

    @property
    def archive(self) -> str:
        """The file that ``npm pack`` leaves."""
        return f"iconify-json-{self.style}-{self.version}.tgz"


PACKAGES = (
    Package("noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    Package("noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"),
    Package("fluent-emoji", "1.2.7", "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b"),
    Package("fluent-emoji-flat", "1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"),
    Package("twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
    Package("streamline-emojis", "1.2.4", "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc"),
    Package("fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"),
    Package("emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"),
)
"""In the order of :data:`STYLES`."""

assert tuple(package.style for package in PACKAGES) == STYLES


def fetch(folder: Path) -> list[Path]:
    """The archive of every package in `folder`; what is there already is not fetched again.

    Raises:
        PackageError: npm is missing or fails, or an archive is not the one that was trained on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [_fetched(package, folder) for package in PACKAGES]


def _fetched(package: Package, folder: Path) -> Path:
    path = folder / package.archive
    wanted = f"{package.name}@{package.version}"
    if not path.is_file():
        npm = shutil.which("npm")
        if npm is None:
            raise PackageError(f"npm is not here to fetch {wanted}; install it, or put {path} there by hand")
        command = [npm, "pack", wanted, "--silent", "--pack-destination", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not path.is_file():
            raise PackageError(
                f"npm could not fetch {wanted} (exit code {done.returncode}): {' '.join(done.stderr.split())[-300:]}"
            )
    check(package, path)
    return path


def check(package: Package, path: Path) -> None:
    """Compare an archive with the package's sha256.

    Raises:
        PackageError: it is another one.
    """
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise PackageError(f"{path}: {told(error)}") from None
    if found != package.sha256:
        raise PackageError(
            f"{path} has sha256 {found}, not {package.sha256} of {package.name}@{package.version}; "
            "move it away to fetch it again"
        )


def read_icons(path: Path) -> dict[str, Any]:
    """``icons.json`` of an archive: `icons` by name, each with its `body`, and the set's `width`, `height`."""
    with tarfile.open(path) as archive:
        file = archive.extractfile("package/icons.json")
        assert file is not None
        icons: dict[str, Any] = json.load(file)
    return icons
