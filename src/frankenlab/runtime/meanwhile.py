"""Libraries that are imported in a second thread, while the first one does something else."""

import importlib
import threading
from contextlib import suppress


def import_meanwhile(library: str) -> None:
    """Begin to import a library. Who imports it later waits for the rest, and gets its error.

    Half of an import is reading and linking files, which another thread need not wait for.
    """

    def begin() -> None:
        with suppress(Exception):
            importlib.import_module(library)

    threading.Thread(target=begin, name=f"import {library}").start()
