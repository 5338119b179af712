"""Fixtures and small helpers that several test files share."""

import json
import math
import os
import resource
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from exllamav2_stand_in import standing_in
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from tiny import CORPUS, make_tiny_model
from transformers import AutoModelForCausalLM

from frankenlab import cli, config
from frankenlab.batches import TokenRequest
from frankenlab.config import TASKS_FOLDER
from frankenlab.encoding import encoder_of
from frankenlab.engines import Engine
from frankenlab.engines.torch import TorchEngine
from frankenlab.evaluation import evaluate
from frankenlab.files import CACHE_VARIABLE
from frankenlab.models import load_tokenizer
from frankenlab.plans import Plan, parse
from frankenlab.store import Store
from frankenlab.task_index import TaskSettings, task_file
from frankenlab.tasks import EvaluationTask

# Bars of loading a tiny model would drown the messages that tests look for.
transformers.utils.logging.disable_progress_bar()

# Forked processes would warn on stderr that the tokenizers' threads are gone.
os.environ["TOKENIZERS_PARALLELISM"] = "false"

ROOT = Path(__file__).resolve().parents[1]

# What the gates are about: every way in which LLaMA-shaped models differ.
VARIANTS: dict[str, dict[str, Any]] = {
    "tied": {"tied": True},
    "untied": {},
    "one-key-head": {"kv_heads": 1},
    "all-key-heads": {"kv_heads": 4},
    "qwen2": {"architecture": "qwen2", "tied": True},
    "mistral": {"architecture": "mistral"},
    "llama3-rope": {"rope": "llama3"},
    "all-biases": {"biases": True},
}

# Frankens of a model of 4 layers: a repeated block, a looped layer, parts, skipped and swapped
# layers.
PLANS = ("base", "0:3,1:4", "0:1,1x3,2:4", "0:3,1:3@attn,3", "0:2@mlp,0:4", "3,0:2")

# Nats that two float32 computations of one log-probability of a tiny model may differ by. No
# processor's order of sums comes near, and every fault moves outputs further: see test_rounding.py.
ROUNDING = 1e-4


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real: needs the real model and data (fetched once)")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tiny models are slower on two threads than on one: waiting for each other takes longer. The
    real one gets the cores, unless tests run side by side."""
    real = item.get_closest_marker("real") is not None
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max((os.cpu_count() or 1) // workers, 1) if real else 1)


@pytest.fixture(scope="module")
def exllamav2_on_cpu():
    """exllamav2 runs in this process, on a stand-in for its compiled extension."""
    with standing_in():
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps what tests count out of the user's cache; processes that they start inherit it."""
    os.environ[CACHE_VARIABLE] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    """variant name -> directory of the tiny model, made at its first use."""
    root = tmp_path_factory.mktemp("tiny")

    @cache
    def make(variant: str = "untied") -> Path:
        return make_tiny_model(root / variant, **VARIANTS[variant])

    return make


def load_hf(directory: Path) -> torch.nn.Module:
    """The model as transformers runs it, in float32."""
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def parse_all(texts: Sequence[str], n_layers: int = 4) -> list[Plan]:
    return [parse(text, n_layers) for text in texts]


def assert_close(
    found: torch.Tensor, expected: torch.Tensor, largest: float = ROUNDING, about: str = ""
) -> None:
    """Log-probabilities or logits of the same shape differ by rounding alone."""
    assert found.shape == expected.shape
    difference = (found - expected).abs().max().item()
    assert difference < largest, about  # NaN is not


@torch.inference_mode()
def score_alone(model: torch.nn.Module, request: TokenRequest) -> tuple[float, bool]:
    """Log-likelihood of one request, by itself and unpadded, and whether it is greedy."""
    tokens = torch.tensor([request.context + request.continuation])
    logits = model(tokens[:, :-1]).logits[0, len(request.context) - 1 :]
    targets = tokens[0, len(request.context) :]
    logprobs = logits.double().log_softmax(-1)
    chosen = logprobs.gather(1, targets[:, None]).sum()
    return chosen.item(), bool((logits.argmax(-1) == targets).all())


WORDS = CORPUS.split()


def passage(number: int, n_words: int) -> str:
    """A text of the tiny tokenizer's own words, different for every number."""
    return " ".join(WORDS[(7 * number + i * (1 + number % 5)) % len(WORDS)] for i in range(n_words))


def arc_row(number: int) -> dict[str, Any]:
    """A question in ARC's schema, with four choices of which one begins another."""
    words = passage(number, 12).split()
    choices = [words[0], f"{words[0]} {words[1]}", words[5], " ".join(words[6:9])]
    return {
        "id": f"q{number}",
        "question": f"{passage(number, 5 + number % 7)} {number}?",
        "choices": {"text": choices, "label": ["A", "B", "C", "D"]},
        "answerKey": "ABCD"[number % 4],
    }


def winogrande_row(number: int) -> dict[str, Any]:
    """A sentence in WinoGrande's schema: the choices are different contexts of one ending."""
    return {
        "sentence": f"{passage(number, 6)} {number} _ {passage(number + 1, 4)}",
        "option1": WORDS[number % len(WORDS)],
        "option2": " ".join(WORDS[number % 50 + 3 : number % 50 + 5]),
        "answer": "12"[number % 2],
    }


def lambada_row(number: int) -> dict[str, Any]:
    return {"text": f"{number} {passage(number, 10 + number % 9)}"}


def boolq_row(number: int) -> dict[str, Any]:
    """A question in BoolQ's schema: two questions share a passage."""
    return {
        "question": f"is it {number}",
        "passage": f"{number // 2} {passage(number // 2, 15 + number // 2 % 30)}",
        "answer": number % 2 == 0,
    }


# lm-eval's name of a task (ours for the last) -> rows in its schema and its primary metric.
TASKS = {
    "arc_easy": (arc_row, "acc"),
    "winogrande": (winogrande_row, "acc"),
    "lambada_openai": (lambada_row, "acc"),
    "boolq_passages": (boolq_row, "word_perplexity"),
}


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def task_settings(folder: Path, name: str = "arc_easy", n: int = 12, **changes) -> TaskSettings:
    """Settings of one of `TASKS` with `n` synthetic rows in a file of `folder`; a guard task
    unless `changes` say otherwise, so that few rows are enough."""
    make_row, metric = TASKS[name]
    file = write_rows(folder / f"{name}-{n}.jsonl", [make_row(i) for i in range(n)])
    given = {"name": name, "task": name, "role": "guard", "metric": metric, "data_file": file}
    return TaskSettings(**(given | changes))


def load_task(settings: TaskSettings) -> EvaluationTask:
    return EvaluationTask(settings, TASKS_FOLDER)


def scores_of(directory: Path, plans: Sequence[Plan], task: EvaluationTask, store: Store, **more):
    """The table of `evaluate` on a task's documents, in float32. `more` may hold a `limit` and
    another `engine` (a function that makes it), and is else handed on."""
    make_engine = more.pop("engine", lambda: TorchEngine(directory, "float32"))
    documents = task.documents(task.indices(None, more.pop("limit", None)))
    return evaluate(make_engine, encoder_of(directory), plans, task, documents, store, **more)


def reference_config(settings: TaskSettings, folder: Path) -> dict[str, Any]:
    """A task as lm-eval alone would load it: its YAML, the file read by `datasets` itself."""
    file = settings.data_file
    kind = file.name.removesuffix(".gz").rpartition(".")[2]
    data = {"data_files": {settings.split: str(file)}, "cache_dir": str(folder / "cache")}
    return load_yaml(task_file(settings.task, TASKS_FOLDER)) | {
        "dataset_path": {"jsonl": "json"}.get(kind, kind),
        "dataset_name": None,
        "dataset_kwargs": data,
        "training_split": None,
        "validation_split": settings.split,
        "test_split": None,
        **settings.overrides,
    }


def harness_results(
    directory: Path,
    settings: Sequence[TaskSettings],
    folder: Path,
    limit: int,
    softmax_dtype: str | None = None,
) -> dict[str, tuple[dict[str, float], list[list[tuple[float, bool | None]]]]]:
    """What lm-eval itself finds for a model directory, in float32.

    Returns:
        Task name -> its metrics by name, and for each document the (log-likelihood, is greedy) of
        each request, in lm-eval's order (is greedy None for rolling requests, which have none).
    """
    harness = HFLM(
        pretrained=load_hf(directory),
        tokenizer=load_tokenizer(directory),
        batch_size=8,
        softmax_dtype=softmax_dtype,
    )
    found = simple_evaluate(
        harness,
        tasks=[reference_config(task, folder) for task in settings],
        task_manager=TaskManager(include_defaults=False),
        limit=limit,
        bootstrap_iters=0,
        verbosity="ERROR",
    )
    results = {}
    for task in settings:
        metrics = {name.removesuffix(",none"): v for name, v in found["results"][task.task].items()}
        samples = sorted(found["samples"][task.task], key=lambda sample: sample["doc_id"])
        answers = [[answer for (answer,) in sample["resps"]] for sample in samples]
        pairs = [[a if isinstance(a, tuple) else (a, None) for a in one] for one in answers]
        results[task.name] = metrics, pairs
    return results


def assert_same_scores(
    table: pd.DataFrame, answers: list[list[tuple[float, bool | None]]], tolerance: float
) -> None:
    """The rows of one plan, in order, hold those log-likelihoods and greedy flags."""
    assert len(table) == len(answers)
    for row, expected in zip(table.itertuples(), answers, strict=True):
        values = [value for value, _ in expected]
        assert row.loglikelihoods == pytest.approx(values, abs=tolerance), row.document
        for found, (_, greedy) in zip(row.is_greedy, expected, strict=True):
            assert greedy is None or found == greedy


def aggregate(table: pd.DataFrame, metric: str, kind: str) -> float:
    """A metric over the documents of a table of scores, by the rule that `metrics` documents."""
    if kind == "mean":
        return table[metric].mean()
    weights = table[f"{metric}_weight"]
    values = np.log(table[metric]) if kind == "perplexity" else table[metric]
    mean = (weights.replace(0, 1) * values).sum() / weights.sum()
    return math.exp(mean) if kind == "perplexity" else mean


class Wrapped:
    """An engine that hands everything on; the base of the spies and saboteurs of the tests."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.token_trees = engine.token_trees
        self.n_layers = engine.n_layers
        self.device = engine.device

    def place(self, batch):
        return self.engine.place(batch)

    def embed(self, placed):
        return self.engine.embed(placed)

    def run(self, step, hidden, placed):
        return self.engine.run(step, hidden, placed)

    def finish(self, step, hidden, placed):
        return self.engine.finish(step, hidden, placed)

    def score(self, hidden, placed):
        return self.engine.score(hidden, placed)


def with_file_limit(limit: int, work: Callable[[], int], log: Path) -> tuple[int, str]:
    """Runs `work` in a process of its own whose files the kernel keeps within `limit` bytes.

    Returns:
        Its exit status and what it wrote on stderr.
    """

    def limited() -> int:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        return work()

    _, status = os.waitpid(fork(limited, log), 0)
    return os.waitstatus_to_exitcode(status), log.read_text()


def fork(work: Callable[[], int], log: Path) -> int:
    """Process id of a copy of this process that does `work` and exits with what it returns."""
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            sys.stderr = log.open("w", buffering=1)
            status = work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def one_line(error: pytest.ExceptionInfo | str) -> str:
    """The message, after a check that it is one line."""
    text = str(error.value) if isinstance(error, pytest.ExceptionInfo) else error.rstrip("\n")
    assert text and "\n" not in text
    return text


@pytest.fixture(scope="session")
def real_config():
    """The default experiment, its model and data fetched as `make run` does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert cli.main(["fetch", "--config", str(config.DEFAULT)]) == 0
        yield config.load(config.DEFAULT)


@pytest.fixture(scope="session")
def real_model(real_config) -> Path:
    """Directory of the default experiment's first model."""
    model = next(iter(real_config.models.values()))
    return ROOT / config.RESOURCES / "models" / model.folder
