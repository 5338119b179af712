"""A project that imports the workflow from a git host, as snakedeploy makes one."""

import shutil
import subprocess
from pathlib import Path

from tests.support.laboratory import Laboratory, copy_parts
from tests.support.paths import ROOT

NAME, TAG = "frankenlab/frankenlab", "v1"

# What snakedeploy writes to workflow/Snakefile, but for `{how}` and `{more}`.
SNAKEFILE = f'''
from snakemake.utils import min_version


min_version("6.10.0")


configfile: "config/config.yaml"


module frankenlab:
    snakefile:
        github("{NAME}", path="workflow/Snakefile", tag="{TAG}")
    config:
        config
    {{prefix}}


use rule * from frankenlab {{how}}
{{more}}
'''


class Project(Laboratory):
    """An empty folder into which the tiny experiment was deployed.

    Nothing is fetched: Snakemake finds the host's repository in its own cache, where an earlier
    clone would be.
    """

    config_file = "config/config.yaml"
    configured = ()

    def _copy_repository(self) -> Path:
        shutil.copytree(ROOT / "config", self.folder / "config")
        (self.folder / "workflow").mkdir()
        self.declare()
        beside = self.folder.parent / "beside"
        repository, cache = beside / "repository", beside / "cache"
        copy_parts(repository)
        git = ["git", "-c", "user.name=tests", "-c", "user.email=tests@localhost"]
        for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"], ["tag", TAG]):
            subprocess.run([*git, *arguments], cwd=repository, check=True)
        clone = cache / "snakemake/snakemake/source-cache/snakemake-git-cache/github.com" / NAME
        subprocess.run([*git, "clone", "-q", "--bare", repository, clone], check=True)
        # The package is installed, and of the rest nothing is on this machine but in the clone.
        for part in repository.iterdir():
            if part.name not in ("src", "config", "notebooks", "workflow"):
                shutil.rmtree(part) if part.is_dir() else part.unlink()
        for part in ("rules", "scripts", "Snakefile"):
            path = repository / "workflow" / part
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.environment = {"XDG_CACHE_HOME": str(cache)}
        return repository

    def declare(self, prefix: str = "", how: str = "", more: str = "") -> None:
        """Write the Snakefile, with a prefix of the module, new names of its rules, and more rules
        of the project's own."""
        prefix = f'prefix: "{prefix}"' if prefix else ""
        text = SNAKEFILE.format(prefix=prefix, how=how, more=more)
        (self.folder / "workflow" / "Snakefile").write_text(text)
