"""Add to the package what it needs of the repository where there is no checkout."""

from pathlib import Path
from shutil import copy2, copytree, ignore_patterns

from setuptools import setup
from setuptools.command.build_py import build_py

# Folder of the repository -> its copy in the package, beside the module that looks for it.
SHIPPED = {
    "config/tasks": "config/shipped/tasks",
    "notebooks": "report/shipped/notebooks",
    "workflow/report": "report/shipped/captions",
}


class BuildWithShipped(build_py):
    """Copy the default config, the tasks' files, the notebooks and the captions."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            package = Path(self.build_lib, "frankenlab")
            generated = ignore_patterns("__pycache__", ".ipynb_checkpoints")
            for folder, copy in SHIPPED.items():
                copytree(folder, package / copy, ignore=generated, dirs_exist_ok=True)
            copy2("config/config.yaml", package / "config" / "shipped")


setup(cmdclass={"build_py": BuildWithShipped})
