"""The data of a task on disk, checked before anything is scored on them."""

from frankenlab.io.directories import verify_directory, verify_file
from frankenlab.tasks.index import TaskSettings


def verify_data(settings: TaskSettings) -> None:
    """Check that a task's data are there, and what the manifest of their download says.

    Raises:
        UserError: they are not.
    """
    settings.check_there()
    for file in (settings.data_file, settings.fewshot_file):
        if file is not None:
            verify_file(file)
    if settings.data_folder is not None:
        verify_directory(settings.data_folder)
