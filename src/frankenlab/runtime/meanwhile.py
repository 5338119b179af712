"""torch's import in a second thread, while the first one imports the rest."""

import threading
from contextlib import suppress


def import_torch_meanwhile() -> None:
    """Begin to import torch. Code that imports it later waits for the end, and gets its error.

    Half of an import is reading and linking files, which another thread need not wait for.
    """
    threading.Thread(target=_import, name="import torch").start()


def _import() -> None:
    # Whoever needs it imports it again, and gets the error.
    with suppress(Exception):
        import torch  # noqa: F401
