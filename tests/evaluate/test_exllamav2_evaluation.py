"""Evaluations by the exllamav2 engine, from documents to metrics."""

import logging
from dataclasses import replace

import pytest

from frankenlab.engines.exllamav2 import Exllamav2Engine
from frankenlab.evaluate.model_spec import ModelSpec
from frankenlab.evaluate.runner import evaluate_task
from frankenlab.evaluate.store import Store
from frankenlab.io.errors import UserError
from tests.support.harness import scores_of
from tests.support.models import parse_all
from tests.support.processes import one_line
from tests.support.task_rows import load_task, task_settings

pytestmark = pytest.mark.usefixtures("exllamav2_on_cpu")

TOLERANCE = 5e-3  # nats of one token's log-probability: float16 beside float32


@pytest.mark.slow
@pytest.mark.parametrize(
    "message", ["CUDA out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"]
)
def test_without_memory_evaluation_halves_its_batches(exl2, tmp_path, caplog, monkeypatch, message):
    """The extension's own way of saying it."""
    task = load_task(task_settings(tmp_path, n=7))
    plans = parse_all(["base", "0:2,1:3"], 3)
    engine = Exllamav2Engine(exl2)
    arguments = {"engine": lambda: engine, "token_budget": 100_000}
    expected = scores_of(exl2, plans, task, Store(tmp_path / "roomy", {}), **arguments)
    run, tokens = engine.scoring.run, []

    def cramped(step, hidden, *more):
        tokens.append(len(hidden))
        if len(hidden) > 0.7 * tokens[0]:
            raise RuntimeError(message)
        return run(step, hidden, *more)

    monkeypatch.setattr(engine.scoring, "run", cramped)
    with caplog.at_level(logging.WARNING):
        found = scores_of(exl2, plans, task, Store(tmp_path / "cramped", {}), **arguments)
    # First the weights that were kept, then the batch.
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory: 1 layers are kept dequantized now",
        "out of memory: 0 layers are kept dequantized now",
        "out of memory: 3 documents at a time instead of 6",
    ]
    for one, other in zip(found.itertuples(), expected.itertuples(), strict=True):
        assert one.loglikelihoods == pytest.approx(other.loglikelihoods, abs=TOLERANCE)


@pytest.mark.slow
def test_both_engines_score_a_task_alike(exl2, tmp_path):
    """The whole way: documents, batches, sweep, store, metrics."""
    plans = parse_all(["base", "0:2,1:3", "0:2,1@mlp,2"], 3)
    torch_spec = ModelSpec(exl2, "tiny", "hash", "6.0", precision="float32")
    spec = replace(torch_spec, engine="exllamav2", precision="float16", device="cuda:0")
    for name in ("arc_easy", "boolq_passages"):
        settings = task_settings(tmp_path, name, n=9)
        found, expected = (
            evaluate_task(one, plans, settings, None, None, tmp_path / "store")
            for one in (spec, torch_spec)
        )
        assert set(found["engine"]) == {"exllamav2"} and set(found["precision"]) == {"float16"}
        assert set(found["code"]) != set(expected["code"])
        for one, other in zip(found.itertuples(), expected.itertuples(), strict=True):
            assert (one.plan, one.document) == (other.plan, other.document)
            assert one.loglikelihoods == pytest.approx(other.loglikelihoods, abs=0.05)
    assert spec.identity("arc_easy")["libraries"]["exllamav2"] == "0.3.2"


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_a_precision_that_exllamav2_does_not_have_is_refused(exl2, precision):
    spec = ModelSpec(exl2, "tiny", "hash", engine="exllamav2", precision=precision)
    with pytest.raises(UserError) as error:
        spec.load_engine()
    assert f'"{precision}"' in one_line(error) and "float16 only" in str(error.value)
