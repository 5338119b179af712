"""No code that makes a number is outside the fingerprint that makes old numbers stale.

Every function of the package that runs between a document and its stored row is recorded, and has
to be in a module of the scoring fingerprint, or here in a short list of those that only decide when
something runs and where it is kept.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from frankenlab.evaluate import model_spec
from frankenlab.evaluate.model_spec import ENGINES, SCORING_MODULES, ModelSpec
from frankenlab.evaluate.runner import evaluate_task
from frankenlab.io import fingerprints
from frankenlab.tasks.index import TaskSettings
from tests.support.imports import reached
from tests.support.models import parse_all
from tests.support.task_rows import WORDS, passage, task_settings, write_rows

# Modules that only report, wait, or keep rows as they are given.
FLOW_MODULES = {
    "io/progress.py",  # lines in the log
    "io/signals.py",  # signals wait for the end of a batch
    "evaluate/store.py",  # which part files there are; test_store says that rows come back exactly
    "io/parquet.py",  # as for store.py
    "tasks/draws.py",  # which documents a stage has; their rows are the same in every stage
}

# Functions that make no number, in modules that do more than one thing.
FLOW_FUNCTIONS = {
    "evaluate/runner.py": {
        "evaluate_task",
        "evaluate_tasks",  # puts the parts together, and stamps what comes out
        "evaluate",  # asks the store what is missing; documents go by the hash of their requests
        "_made_with",
        "_load",  # which documents; as for evaluate
        "_scored",
        "_score_missing",  # one batch after the other
        "_begin",
        "_Buffer.__init__",
        "_Buffer.add",
        "_Buffer.flush",
        # What comes after the row is stored: the evaluation's table is made anew from the store
        # when any code that a job of it reaches has changed.
        "_table",
        # A callback that does nothing, and what loads the engine where a row is missing.
        "<lambda>",
    },
    "evaluate/missing.py": {
        "Asked.prepared",  # which documents lack a row; `document_trees` makes their tokens
        "prepared_in_turn",
        "missing_work",  # which names lack which plans
        "<lambda>",
    },
    "evaluate/data.py": {"verify_data"},  # refuses, or does nothing
    "evaluate/model_spec.py": {
        # What identifies the rows, or checks that it still does.
        "ModelSpec.identity",
        "ModelSpec.device_kind",
        "ModelSpec.check_unchanged",
        "scoring_fingerprint",
        # Hands what is in the identity to the module that the identity names.
        "ModelSpec.load_engine",
    },
    "quantize/calibration.py": {"check_disjoint"},  # refuses, or does nothing
}


def fingerprinted(engine: str) -> set[str]:
    """Files of the modules that an engine's fingerprint covers, relative to the package."""
    return set(map(fingerprints._name, reached([*SCORING_MODULES, ENGINES[engine]])))


@contextmanager
def recorded() -> Iterator[set[tuple[str, str]]]:
    """Collects (file, function) of everything of the package that runs."""
    root = str(fingerprints.ROOT) + "/"
    found: set[tuple[str, str]] = set()

    def note(frame, event, argument):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(root):
            # Comprehensions and functions in functions are part of the one around them.
            function = code.co_qualname.partition(".<locals>")[0]
            found.add((code.co_filename.removeprefix(root), function))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(before)


def outside(found: set[tuple[str, str]], engine: str) -> list[tuple[str, str]]:
    """What ran and is neither in the fingerprint nor in the lists above."""
    covered = fingerprinted(engine) | FLOW_MODULES
    return sorted(
        (file, function)
        for file, function in found
        if file not in covered
        and function not in FLOW_FUNCTIONS.get(file, ())
        # The body of a module runs when it is imported; what it defines is what counts.
        and function != "<module>"
    )


def tasks(folder: Path) -> list[TaskSettings]:
    """Every kind of request: choices of one context, contexts of one choice, one answer, and whole
    texts in windows; with few-shot examples and without."""
    long_text = {"passage": passage(1, 450), "question": "", "answer": True}
    texts = write_rows(folder / "long.jsonl", [long_text, long_text | {"passage": WORDS[0]}])
    return [
        task_settings(folder, "arc_easy", n=6),
        task_settings(folder, "arc_easy", n=8, num_fewshot=2, overrides=FIRST_SHOTS),
        task_settings(folder, "winogrande", n=4),
        task_settings(folder, "lambada_openai", n=4),
        task_settings(folder, "boolq_passages", n=2, data_file=texts),
    ]


# Of the task's own documents the first ones, which are then not evaluated.
FIRST_SHOTS = {"fewshot_config": {"sampler": "first_n"}}


def runs(model: ModelSpec, folder: Path) -> set[tuple[str, str]]:
    """What runs in evaluations of all kinds of tasks by one model."""
    n_layers = 3 if "exl2" in str(model.directory) else 4
    plans = parse_all(["base", f"0:2,1:{n_layers}", f"0:2,1@attn*0.5,2:{n_layers}"], n_layers)
    found: set[tuple[str, str]] = set()
    for settings in tasks(folder):
        with recorded() as of_task:
            table = evaluate_task(model, plans, settings, None, None, folder / "store")
        assert len(table) >= 2 * len(plans)
        found |= of_task
    return found


@pytest.mark.slow
def test_the_torch_engine_runs_nothing_outside_the_fingerprint(tiny, tmp_path):
    found = runs(ModelSpec.for_directory(tiny(), "float32"), tmp_path)
    assert outside(found, "torch") == []
    # It really looked: at the engine, the packing, the windows and the sums of log-probabilities.
    names = {function for _, function in found}
    assert {"TorchEngine.score", "make_batch", "_request_scores", "Encoder._windows"} <= names


@pytest.mark.slow
def test_the_torch_engine_on_exl2_runs_nothing_outside_the_fingerprint(exl2, tmp_path):
    found = runs(ModelSpec.for_directory(exl2, "float32"), tmp_path)
    assert outside(found, "torch") == []
    assert ("models/exl2/format.py", "dequantize") in found


@pytest.mark.slow
@pytest.mark.usefixtures("exllamav2_on_cpu")
def test_exllamav2_runs_nothing_outside_the_fingerprint(exl2, tmp_path):
    scored = ModelSpec.for_directory(exl2, device="cuda:0", engine="exllamav2")
    found = runs(scored, tmp_path)
    assert outside(found, "exllamav2") == []
    assert "Exllamav2Engine.score" in {function for _, function in found}


@pytest.mark.slow
def test_a_function_elsewhere_would_be_found(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(model_spec, "SCORING_MODULES", ("frankenlab.tasks.task",))
    monkeypatch.setattr(sys.modules[__name__], "SCORING_MODULES", ("frankenlab.tasks.task",))
    found = runs(ModelSpec.for_directory(tiny(), "float32"), tmp_path)
    assert {"evaluate/sweep.py", "tasks/encoding.py"} <= {f for f, _ in outside(found, "torch")}
