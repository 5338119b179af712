"""torch's import in a second thread, while the first one imports the rest."""

import threading


def import_torch_meanwhile() -> None:
    """Begin to import torch. Who imports it later waits for the rest.

    Half of an import is reading and linking files, which another thread need not wait for.

    If the import fails, the thread's traceback says why. Python may hand the unfinished module to
    who waited for it, so that another error follows there.
    """
    threading.Thread(target=_import, name="import torch").start()


def _import() -> None:
    import torch  # noqa: F401
