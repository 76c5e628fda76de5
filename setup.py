"""Puts the shipped bases and the example targets into a wheel; all else is in `pyproject.toml`.

In a checkout they lie in `models/` and `examples/`; in an installed package in `ood_core/shipped/`.
`ood_core.maps.paths.SHIPPED` is the folder that holds both.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithData(build_py):
    """Copies the folders beside the modules that are built."""

    def run(self) -> None:
        """Build, then copy; an editable installation reads the checkout itself."""
        super().run()
        if self.editable_mode:
            return
        for folder in ("models", "examples"):
            target = Path(self.build_lib) / "ood_core" / "shipped" / folder
            without = shutil.ignore_patterns("*.py", "__pycache__")
            shutil.copytree(folder, target, dirs_exist_ok=True, ignore=without)


setup(cmdclass={"build_py": BuildWithData})
