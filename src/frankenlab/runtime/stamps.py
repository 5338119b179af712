"""Stamps: small files whose contents decide what is stale.

A stamp is an input of jobs. Snakemake compares its checksum, so a job is stale when, and only when,
the content is another one; and results that were copied without Snakemake's metadata carry their
stamps along. A run writes the stamps that its jobs need. What only reads (a dry run, a report, a
summary) must write nothing: where a stamp is not what it should be, a stand-in outside of the
results takes its place among the inputs. It is newer than any output, so that Snakemake tells just
what a run would do.
"""

import atexit
import os
import tempfile
from pathlib import Path

from frankenlab.io.files import write_if_changed


class Stamps:
    """The stamps of one experiment.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self._folder = Path(folder)
        self._aside: tempfile.TemporaryDirectory | None = None
        self._known: dict[str, Path] = {}

    def place(self, name: str) -> Path:
        """Return where a stamp is once it is written."""
        return self._folder / f"{name}.json"

    def known(self, name: str) -> Path | None:
        """Return the file that holds a stamp, if `file` gave it before."""
        return self._known.get(name)

    def file(self, name: str, text: str, write: bool) -> Path:
        """Return the file that holds a stamp of that text: its own, or a stand-in where it says
        something else and may not be written.

        Raises:
            UserError: the file system refused.
        """
        path = self.place(name)
        if write:
            write_if_changed(path, text)
        elif not (path.is_file() and path.read_text(encoding="utf-8") == text):
            path = self._stand_ins() / f"{name}.json"
            write_if_changed(path, text)
        self._known[name] = path
        return path

    def _stand_ins(self) -> Path:
        if self._aside is None:
            self._aside = tempfile.TemporaryDirectory(prefix="frankenlab-stamps-")
            atexit.register(self._aside.cleanup)
        return Path(self._aside.name)
