"""The speed test that predictions are calibrated with, on random models of the right shapes."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import model_speed
from benchmarks.random_models import config_of, random_model
from frankenlab.config import experiment as config
from frankenlab.config.stages import Stage
from frankenlab.engines.torch import TorchEngine
from frankenlab.estimate.throughput import Speeds, read_speeds
from frankenlab.models.fetch import fetch_model
from tests.support.tiny import make_tiny_model
from tests.support.two_models import settings

pytestmark = pytest.mark.slow


@pytest.fixture
def experiment(tmp_path, monkeypatch) -> config.Experiment:
    monkeypatch.chdir(tmp_path)
    # Measured in no time.
    monkeypatch.setattr(model_speed, "LEAST_SECONDS", 0.0)
    return config.check(settings())


def test_the_command_measures_every_model_and_predictions_go_by_it(experiment, capsys):
    Path("config.yaml").write_text(str(settings()))
    assert model_speed.main(["--config", "config.yaml"]) == 0
    out = capsys.readouterr().out
    assert out.count("random weights") == 2 and "resources/speeds.json" in out
    rows = read_speeds()
    assert [row.model for row in rows] == ["small", "large"]
    assert all(row.tokens > 0 and row.scored > 0 and not row.real for row in rows)
    assert rows[0].device == "cpu" and "threads" in rows[0].device_name
    found = Speeds(experiment).of("small", "none", Stage("search"))
    assert (found.tokens, found.scored) == pytest.approx((rows[0].tokens, rows[0].scored))
    assert found.source == f"measured on {rows[0].device_name}"


def test_the_model_itself_is_measured_where_it_is_there(experiment):
    raw = settings()
    raw["models"] = {"small": {"source": {"path": "x"}, "n_layers": 6}}
    there = config.check(raw)
    assert [row for row, _ in model_speed.measure_speeds(there)] == [None]
    make_tiny_model(Path("x"), n_layers=6, hidden=64)
    fetch_model(there.models["small"].source, there.weights_folder("small"), 6, "")
    (row, line) = next(model_speed.measure_speeds(there))
    assert row.real and "random" not in line


def test_each_engine_and_precision_is_measured_once(experiment):
    raw = settings()
    raw["stages"]["confirm"]["precision"] = "bfloat16"
    found = [row for row, _ in model_speed.measure_speeds(config.check(raw))]
    assert [(row.model, row.precision) for row in found] == [
        *(("small", "float32"), ("small", "bfloat16")),
        *(("large", "float32"), ("large", "bfloat16")),
    ]


def test_a_measurement_of_some_layers_counts_for_all(tmp_path, monkeypatch):
    """By a clock on which a layer takes two seconds and the head half of one."""
    sizes = config.check(settings()).models["small"].sizes
    engine = TorchEngine(random_model(tmp_path / "m", config_of(sizes, 2)), "float32", "cpu")
    clock, layers = [0.0], set()
    run, score = engine.run, engine.score

    def timed_run(step, hidden, placed):
        layers.add(step.layer)
        clock[0] += 2.0
        return run(step, hidden, placed)

    def timed_score(hidden, placed):
        clock[0] += 0.5
        return score(hidden, placed)

    engine.run, engine.score = timed_run, timed_score
    monkeypatch.setattr(model_speed, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    batch, in_batch = model_speed._batch(engine, 256)
    tokens, scored = model_speed.time_engine(engine, 1000, 256)
    assert layers == {0, 1}
    assert tokens == pytest.approx(in_batch / (2.0 * 1000))
    assert scored == pytest.approx(len(batch.positions_scored) / 0.5)


def test_a_random_model_has_the_sizes_of_the_real_one(tmp_path):
    sizes = config.check(settings()).models["large"].sizes
    target = random_model(tmp_path / "m", config_of(sizes, sizes.n_layers))
    engine = TorchEngine(target, "float32", "cpu")
    assert engine.n_layers == 6 and engine.vocabulary == 300
    assert engine.layers[0].gate_up.shape == (2 * 640, 64)


@pytest.mark.parametrize("layout", ["rows", "flat"])
def test_batches_hold_as_many_documents_as_the_budget_allows(layout):
    batch, tokens = model_speed._batch(SimpleNamespace(layout=layout, vocabulary=10_000), 1024)
    assert batch.n_tokens == tokens <= 1024
    assert tokens + tokens / len(batch.documents) > 1024


def test_a_cuda_device_that_is_not_here_is_named(experiment):
    if torch.cuda.is_available():
        pytest.skip("it is here")
    Path("config.yaml").write_text(str(settings()))
    assert model_speed.main(["--config", "config.yaml", "--device", "cuda"]) == 2
