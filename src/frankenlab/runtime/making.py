"""What experiments share, such as a model's weights, is made by one workflow at a time.

Snakemake deletes an output before the job that makes it, also one that another workflow has made
meanwhile. So a workflow has the right to make a shared file before it looks which files there are:
it waits for another that makes the same, and finds the file there. The right is a lock (see `lock`)
that ends with the process.
"""

import os
import sys
import time
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from frankenlab.config.experiment import RESOURCES
from frankenlab.io.errors import UserError
from frankenlab.runtime import lock, places

RIGHTS = RESOURCES / ".making"

LOOK_SECONDS = 1.0


class Making:
    """The rights of a process to make shared files; it may run several experiments."""

    def __init__(self) -> None:
        self._rights: dict[Path, lock.Lock] = {}

    def claim(self, paths: Iterable[str | Path], experiment: str) -> None:
        """Take the right to make those of the shared files that are not there.

        It waits while another workflow makes one of them. All workflows take them in the same
        order, so that no two wait for each other.

        Raises:
            UserError: the file system refused.
        """
        for path in sorted(set(map(Path, paths))):
            said = False
            while not path.exists() and path not in self._rights:
                try:
                    self._take(path, experiment)
                except lock.Held as held:
                    if not said:
                        print(f"waiting for {path}: {_who(held)} makes it", file=sys.stderr)
                    said = True
                    time.sleep(LOOK_SECONDS)
            # It was made between the two looks.
            if path.exists() and path in self._rights:
                self._rights.pop(path).release()

    def plan(self, paths: Iterable[str | Path], experiment: str, whole: bool) -> None:
        """Take the rights to make `paths`, which this run is going to make.

        Args:
            whole: whether it makes nothing else, so that the other rights are given back.

        Raises:
            UserError: one of them is there, and another experiment may be using it.
        """
        shared = {Path(path) for path in paths if RESOURCES in Path(path).parents}
        for path in self._rights.keys() - shared if whole else ():
            self._rights.pop(path).release()
        for path in sorted(shared - self._rights.keys()):
            holders = chain.from_iterable(map(lock.holders, places.noted()))
            users = [h for h in holders if h.pid != os.getpid() or h.ended() is None]
            if users and path.exists():
                raise UserError(
                    f"{path} is to be made again, and {users[0]} may be using it; wait for it or "
                    f"stop it; if it runs no more, {lock.CLEAR}"
                )
            try:
                self._take(path, experiment)
            except lock.Held as held:
                raise UserError(
                    f"{path} is being made by {_who(held)}; start again when it is there"
                ) from None

    def _take(self, path: Path, experiment: str) -> None:
        name = ".".join(path.relative_to(RESOURCES).parts)
        self._rights[path] = lock.take(RIGHTS / name, experiment)


def _who(held: lock.Held) -> str:
    return str(held.holder or "another workflow")
