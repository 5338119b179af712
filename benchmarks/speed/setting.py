"""What is run: the model, the tasks, the grids and the machine's threads."""

import ctypes
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from frankenlab.config.experiment import DEFAULT, Experiment, load
from frankenlab.models.directory import model_shape
from frankenlab.plans.plan import Plan, looped
from frankenlab.tasks.index import TaskSettings

# Of the checkout that these files are in, whatever package is installed.
ROOT = Path(__file__).resolve().parents[2]

# Name -> (task of the config, shots, documents). All documents of the last share their shots.
TASKS = {
    "arc_easy": ("arc_easy", None, 100),
    "sst2": ("sst2", None, 200),
    "arc_easy_5shot": ("arc_easy", 5, 100),
}
FIRST_SHOTS = {"fewshot_config": {"sampler": "first_n"}}

# Blocks of the grid of 16 plans: where they start, in parts of the depth, and their lengths. On 30
# layers it takes 22.9 layer passes a plan; larger grids share more (the default experiment's 17.1).
BLOCK_STARTS, BLOCK_LENGTHS = (0.0, 0.2, 0.4, 0.6), (2, 4, 6, 8)


@dataclass(frozen=True)
class Setting:
    """Everything a measurement depends on, so that it can be run in a process of its own.

    Attributes:
        config: of an experiment whose first model and tasks are used.
        tasks: names in `TASKS`.
        documents: of a task, None for as many as `TASKS` says; plans: most plans of a grid, None
            for all.
        peer_plans: plans that each peer is run on.
        repeats: rounds in which all ways take turns.
        scratch: folder for what is made on the way.
        directory: of another model than the experiment's, for which its tokenizer is good.
    """

    config: str = str(DEFAULT)
    tasks: tuple[str, ...] = tuple(TASKS)
    documents: int | None = None
    plans: int | None = None
    peer_plans: int = 2
    repeats: int = 3
    threads: int = 2
    scratch: str = "results/bench"
    device: str = "cpu"
    directory: str | None = None

    @classmethod
    def from_json(cls, text: str) -> "Setting":
        given = json.loads(text)
        return cls(**(given | {"tasks": tuple(given["tasks"])}))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def experiment(self) -> Experiment:
        return load(self.config)

    @property
    def model(self) -> Path:
        """Directory of the model, by default the experiment's first."""
        if self.directory is not None:
            return Path(self.directory)
        return self.experiment.weights_folder(next(iter(self.experiment.models)))

    @property
    def n_layers(self) -> int:
        if self.directory is not None:
            return model_shape(self.directory).n_layers
        return next(iter(self.experiment.models.values())).n_layers

    def scratch_folder(self, name: str) -> Path:
        folder = Path(self.scratch) / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def task(self, name: str) -> TaskSettings:
        source, shots, _ = TASKS[name]
        settings = self.experiment.tasks[source]
        if shots is None:
            return settings
        return replace(settings, name=name, num_fewshot=shots, overrides=FIRST_SHOTS)

    def limit(self, name: str) -> int:
        return self.documents or TASKS[name][2]

    def grid(self, name: str) -> list[Plan]:
        """ "blocks" (16 plans) or "config" (the experiment's own)."""
        if name == "config":
            grid = self.experiment.grid(next(iter(self.experiment.models)))
            found = [item.plan for item in grid.plans]
        else:
            found = blocks(self.n_layers)
        return found[: self.plans]


def blocks(n_layers: int) -> list[Plan]:
    """A block of layers run twice, at 4 places and in 4 lengths (those that the model has)."""
    starts = [round(n_layers * start) for start in BLOCK_STARTS]
    pairs = [(i, i + n) for i in starts for n in BLOCK_LENGTHS if i + n <= n_layers]
    return [looped(i, j, 2, n_layers) for i, j in dict.fromkeys(pairs)]


def spread(plans: Sequence[Plan], count: int) -> list[Plan]:
    """`count` of the plans at even distances."""
    count = min(count, len(plans))
    return [plans[(2 * i + 1) * len(plans) // (2 * count)] for i in range(count)]


def memory() -> dict[str, int]:
    """Resident bytes of this process: now, and the most since `reset_peak_memory` (Linux)."""
    kept = {"VmRSS": "now", "VmHWM": "peak"}
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {kept[k[:-1]]: int(v[0]) * 1024 for k, *v in lines if k[:-1] in kept}


def reset_peak_memory() -> None:
    """See `man 5 proc_pid_clear_refs`."""
    Path("/proc/self/clear_refs").write_text("5")


def return_freed_memory() -> None:
    """Gives free memory of glibc's heap back, so that what loading used is not counted."""
    ctypes.CDLL(None).malloc_trim(0)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def environment(threads: int) -> dict[str, str]:
    """Of a measurement: every library uses `threads` threads, and this checkout is what runs."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    quiet = {"TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
    path = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    settings = {**dict.fromkeys(names, str(threads)), **quiet, "HF_HUB_OFFLINE": "1"}
    settings["TRANSFORMERS_VERBOSITY"] = "error"
    return {**os.environ, **settings, "PYTHONPATH": path}
