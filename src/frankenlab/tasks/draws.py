"""Another draw of a task's documents into the three stages.

By default the hash of a document alone says which stage it is in, so that a document never moves.
To learn how much a result owes to that one division, the same experiment is run on other ones.
"""

from pathlib import Path

from frankenlab.io.files import content_hash
from frankenlab.tasks.index import TaskSettings
from frankenlab.tasks.task import EvaluationTask


class DrawnTask(EvaluationTask):
    """A task whose documents are divided by the draw of a seed; 0 is the division by their hashes.

    A seed of its own decides the order within a stage too: a limit takes other documents. Prompts
    and answers are the same in every draw, so that rows of the store are shared between draws.
    """

    def __init__(self, settings: TaskSettings, tasks_folder: Path, seed: int = 0) -> None:
        self._seed = seed
        super().__init__(settings, tasks_folder)

    def _resampling_units(self) -> list[str]:
        units = super()._resampling_units()
        if self._seed == 0:
            return units
        return [content_hash([self._seed, unit]) for unit in units]
