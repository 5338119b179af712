"""Speeds: given, measured and cached, or assumed, and used by every prediction after."""

import math

import pytest

from frankenlab.config import experiment as config
from frankenlab.config.stages import Stage
from frankenlab.estimate import throughput as speeds
from frankenlab.estimate.resources import predict
from frankenlab.estimate.throughput import (
    Measured,
    Speeds,
    given_speeds,
    read_speeds,
    write_speeds,
)
from frankenlab.estimate.work import Job
from frankenlab.io.errors import UserError
from tests.support.processes import one_line
from tests.support.two_models import settings


@pytest.fixture
def experiment(tmp_path, monkeypatch) -> config.Experiment:
    monkeypatch.chdir(tmp_path)
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


def speed(experiment, name: str = "small", given=None, measuring=True) -> speeds.Speed | None:
    return Speeds(experiment, given, measuring).of(name, "none", Stage("search"))


def ratio(experiment) -> float:
    large, small = (experiment.models[name].sizes.layer_weights for name in ("large", "small"))
    return large / small


def test_a_newer_measurement_of_the_same_replaces_the_older(experiment):
    write_speeds([measured(experiment, tokens=1.0), measured(experiment, "large")])
    write_speeds([measured(experiment, tokens=2.0)])
    assert sorted(row.tokens for row in read_speeds()) == [2.0, 1000.0]


@pytest.mark.parametrize(
    "keys", [{"precision": "bfloat16"}, {"device": "cuda"}, {"engine": "exllamav2"}]
)
def test_what_was_measured_otherwise_is_not_taken(experiment, keys):
    write_speeds([measured(experiment, **keys)])
    assert speed(experiment, measuring=False).source == "assumed"


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
    job = Job("evaluate", "small", "none", Stage("search"), "arc_easy", 0)
    write_speeds([measured(experiment, tokens=10.0)])
    slow = predict(experiment).seconds(job)
    write_speeds([measured(experiment, tokens=100.0)])
    assert predict(experiment).seconds(job) < slow / 5
