"""The build step that puts ``vendor.lock`` and ``patches/`` into a wheel. Imported by setuptools, never at run time."""

from __future__ import annotations

from pathlib import Path

from setuptools.command.build_py import build_py


class CarryPatches(build_py):
    """Copies lock and patches from the top of the repository into the package that is being built."""

    def _carried(self) -> list[str]:
        return ["vendor.lock", *sorted(path.as_posix() for path in Path("patches").glob("*/*.patch"))]

    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # an editable install reads the repository's own
            for name in self._carried():
                to = Path(self.build_lib, "pcpo_overlay", "vendoring", "shipped", name)
                self.mkpath(str(to.parent))
                self.copy_file(name, str(to))

    def get_source_files(self) -> list[str]:
        """What a source archive has to hold besides the modules."""
        return [*super().get_source_files(), *self._carried()]
