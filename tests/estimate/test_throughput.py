"""Speeds: measured with one command, remembered, and used by every prediction after."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from frankenlab import cli
from frankenlab.config import experiment as config
from frankenlab.engines.torch import TorchEngine
from frankenlab.estimate import speed_test
from frankenlab.estimate import throughput as speeds
from frankenlab.estimate.random_models import config_of, random_model
from frankenlab.estimate.throughput import (
    Measured,
    given_speeds,
    read_speeds,
    speed_of,
    write_speeds,
)
from frankenlab.estimate.workload import Job, Workload
from frankenlab.io.errors import UserError
from frankenlab.models.fetch import fetch_model
from tests.support.processes import one_line
from tests.support.tiny import make_tiny_model

SMALL = {"hidden_size": 64, "intermediate_size": 128, "n_heads": 4, "vocab_size": 300}
LARGE = {**SMALL, "intermediate_size": 640}


def settings(**keys) -> dict:
    models = {
        name: {"source": {"path": "x"}, "n_layers": 6, "shapes": shapes}
        for name, shapes in (("small", SMALL), ("large", LARGE))
    }
    return {
        "experiment": "e",
        "models": models,
        "tasks": {"arc_easy": {"metric": "acc"}},
        "plans": [{"generator": "layer"}],
        "stages": {stage: {"precision": "float32"} for stage in ("search", "select", "confirm")},
        "token_budget": 256,
        **keys,
    }


@pytest.fixture
def experiment(tmp_path, monkeypatch) -> config.Experiment:
    monkeypatch.chdir(tmp_path)
    # Measured in no time.
    monkeypatch.setattr(speed_test, "LEAST_SECONDS", 0.0)
    return config.check(settings())


def measured(experiment, name: str = "small", tokens: float = 1000.0, **keys) -> Measured:
    row = {
        "model": name,
        "shapes": speeds.shapes_of(experiment.models[name].sizes),
        "engine": "torch",
        "weights": "none",
        "precision": "float32",
        "device": "cpu",
        "device_name": "this",
        "tokens": tokens,
        "scored": 5000.0,
        "real": False,
    }
    return Measured(**row | keys)


def speed(experiment, name: str = "small", **keys) -> speeds.Speed | None:
    return speed_of(experiment, experiment.models[name], "none", "search", **keys)


def ratio(experiment) -> float:
    large, small = (experiment.models[name].sizes.layer_weights for name in ("large", "small"))
    return large / small


def test_the_command_measures_every_model_and_predictions_go_by_it(experiment, capsys):
    Path("config.yaml").write_text(str(settings()))
    assert cli.main(["speed", "--config", "config.yaml"]) == 0
    out = capsys.readouterr().out
    assert out.count("random weights") == 2 and "resources/speeds.json" in out
    rows = read_speeds()
    assert [row.model for row in rows] == ["small", "large"]
    assert all(row.tokens > 0 and row.scored > 0 and not row.real for row in rows)
    assert rows[0].device == "cpu" and "threads" in rows[0].device_name
    found = speed(experiment)
    assert (found.tokens, found.scored) == pytest.approx((rows[0].tokens, rows[0].scored))
    assert found.source == f"measured on {rows[0].device_name}"


def test_the_model_itself_is_measured_where_it_is_there(experiment):
    make_tiny_model(Path("x"), n_layers=6, hidden=64)
    raw = settings()
    raw["models"] = {"small": {"source": {"path": "x"}, "n_layers": 6}}
    there = config.check(raw)
    assert [row for row, _ in speed_test.measure_speeds(there)] == [None]
    fetch_model(there.models["small"].source, there.weights_folder("small"), 6, "")
    (row, line) = next(speed_test.measure_speeds(there))
    assert row.real and "random" not in line


def test_each_engine_and_precision_is_measured_once(experiment):
    raw = settings()
    raw["stages"]["confirm"]["precision"] = "bfloat16"
    found = [row for row, _ in speed_test.measure_speeds(config.check(raw))]
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
    monkeypatch.setattr(speed_test, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    batch, in_batch = speed_test._batch(engine, 256)
    tokens, scored = speed_test.time_engine(engine, 1000, 256)
    assert layers == {0, 1}
    assert tokens == pytest.approx(in_batch / (2.0 * 1000))
    assert scored == pytest.approx(len(batch.positions_scored) / 0.5)


def test_a_random_model_has_the_sizes_of_the_real_one(tmp_path):
    sizes = config.check(settings()).models["large"].sizes
    target = random_model(tmp_path / "m", config_of(sizes, sizes.n_layers))
    engine = TorchEngine(target, "float32", "cpu")
    assert engine.n_layers == 6 and engine.vocabulary == 300
    assert engine.layers[0].gate_up.shape == (2 * 640, 64)


def test_batches_hold_as_many_documents_as_the_budget_allows():
    class Causal:
        token_trees, vocabulary = False, 100

    class Trees(Causal):
        token_trees = True

    causal, few = speed_test._batch(Causal, 1024)
    trees, many = speed_test._batch(Trees, 1024)
    assert causal.n_tokens <= 1024 and trees.n_tokens == many <= 1024
    assert few < many


def test_a_cuda_device_that_is_not_here_is_named(experiment):
    if torch.cuda.is_available():
        pytest.skip("it is here")
    Path("config.yaml").write_text(str(settings()))
    assert cli.main(["speed", "--config", "config.yaml", "--device", "cuda"]) == 2


def test_a_newer_measurement_of_the_same_replaces_the_older(experiment):
    write_speeds([measured(experiment, tokens=1.0), measured(experiment, "large")])
    write_speeds([measured(experiment, tokens=2.0)])
    assert sorted(row.tokens for row in read_speeds()) == [2.0, 1000.0]


@pytest.mark.parametrize(
    "keys", [{"precision": "bfloat16"}, {"device": "cuda"}, {"engine": "exllamav2"}]
)
def test_what_was_measured_otherwise_is_not_taken(experiment, keys):
    write_speeds([measured(experiment, **keys)])
    assert speed(experiment, measuring=False) is None


def test_another_models_speed_is_scaled_by_the_weights(experiment):
    write_speeds([measured(experiment)])
    found = speed(experiment, "large")
    assert found.tokens == pytest.approx(1000 / ratio(experiment))
    assert found.scored == pytest.approx(5000) and "scaled from small" in found.source


def test_of_several_devices_the_slowest_counts(experiment):
    write_speeds([measured(experiment), measured(experiment, tokens=10.0, device_name="slow")])
    assert speed(experiment).tokens == 10.0


def test_what_is_given_counts_most(experiment):
    write_speeds([measured(experiment)])
    one = {"small": 50.0}
    assert speed(experiment, given=one) == speeds.Speed(50.0, math.inf, "given")
    assert speed(experiment, "large", given=one).tokens == pytest.approx(50 / ratio(experiment))
    assert speed(experiment, "large", given={**one, "large": 7.0}).tokens == 7.0


def test_a_measured_gpu_counts_more_than_its_promise(experiment):
    raised = config.check(settings(device="cuda", planning={"gpu_tflops": 1}))
    promised = speed(raised)
    assert "35% of 1 TFLOP/s assumed" in promised.source
    write_speeds([measured(raised, device="cuda")])
    assert speed(raised).tokens == 1000.0


def test_given_speeds_are_read(experiment):
    assert given_speeds("4000", experiment) == {"small": 4000.0}
    assert given_speeds("large=3,small=5.5", experiment) == {"large": 3.0, "small": 5.5}
    for text in ("fast", "small=-1", "small=nan", ""):
        with pytest.raises(UserError, match="a number above 0"):
            given_speeds(text, experiment)
    with pytest.raises(UserError, match="it has small, large"):
        given_speeds("medium=1", experiment)


def test_a_damaged_file_is_named(experiment):
    speeds.speeds_file().parent.mkdir()
    speeds.speeds_file().write_text('[{"model": "x", "shapes": [1]}]')
    with pytest.raises(UserError) as error:
        speed(experiment)
    assert "speeds.json" in one_line(error)


def test_a_faster_machine_shortens_what_jobs_are_predicted_to_take(experiment):
    job = Job("evaluate_task", "small", "none", "search", "arc_easy", 0)
    write_speeds([measured(experiment, tokens=10.0)])
    slow = Workload(experiment).seconds(job)
    write_speeds([measured(experiment, tokens=100.0)])
    assert Workload(experiment).seconds(job) < slow / 5
