"""Add to the package what it needs from config/ where there is no checkout."""

from pathlib import Path
from shutil import copy2, copytree, ignore_patterns

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfig(build_py):
    """Copy the default config and the tasks' files beside the module that looks for them."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shipped = Path(self.build_lib, "frankenlab", "config", "shipped")
            tasks = shipped / "tasks"
            copytree(
                "config/tasks", tasks, ignore=ignore_patterns("__pycache__"), dirs_exist_ok=True
            )
            copy2("config/config.yaml", shipped)


setup(cmdclass={"build_py": BuildWithConfig})
