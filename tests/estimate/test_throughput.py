"""Speeds: given, measured and cached, or assumed, and used by every prediction after."""

import math
from types import SimpleNamespace
from typing import get_args

import pytest

from frankenlab.config import experiment as config
from frankenlab.config.cards import CARDS, CardName
from frankenlab.config.stages import Stage
from frankenlab.estimate import throughput as speeds
from frankenlab.estimate.asked import Asked, asked, given_speeds
from frankenlab.estimate.jobs import Job
from frankenlab.estimate.resources import predict
from frankenlab.estimate.throughput import (
    Measured,
    Speeds,
    read_speeds,
    write_speeds,
)
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
    assert promised.source == "44% of 0.25 TFLOP/s (gpu_tflops) promised"
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


def test_the_names_of_cards_in_a_config_are_those_of_the_table():
    assert set(get_args(CardName)) == set(CARDS)


def test_predictions_go_by_the_first_card_and_a_speed_that_is_given_beside_it(experiment):
    def found(**planning) -> speeds.Speed:
        return speed(config.check(settings(device="cuda", planning=planning)))

    h100, slow = found(cards=["h100", "a100"]), found(cards=["a100", "h100"])
    assert h100.tokens / slow.tokens == pytest.approx(66.9 / 19.5)  # the search is in float32
    assert "66.9 TFLOP/s (h100) promised" in h100.source
    assert "gpu_tflops" in found(cards=["h100"], gpu_tflops=7).source


def test_an_h100_is_predicted_to_do_what_one_did():
    """The random model of 7B's shape: 133 plans of 21.65 layer passes each on 11,424 tokens took
    .233 s a plan."""
    layer = 4 * 4096**2 + 3 * 4096 * 11008
    head = {"hidden_size": 4096, "vocab_size": 32000, "head_weights": 4096 * 32000}
    sizes = SimpleNamespace(n_layers=32, layer_weights=layer, **head)
    peak = CARDS["h100"].tflops * 1e12 * speeds.PRODUCT_SHARE
    found = speeds.from_matrix_product(sizes, peak, "cuda", "")
    assert 11424 * 21.65 / 32 / found.tokens == pytest.approx(0.233, rel=0.02)
    by_exllamav2 = speeds.from_matrix_product(sizes, peak, "cuda", "", "exllamav2")
    assert by_exllamav2.tokens / found.tokens == pytest.approx(39_961 / 46_853, rel=0.01)


def test_a_card_is_gone_by_whatever_was_measured(experiment):
    on_gpu = config.check(settings(device="cuda"))
    write_speeds([measured(on_gpu, device="cuda", tokens=1.0)])
    promised = Speeds(on_gpu, card=CARDS["a100"]).of("small", "none", Stage("search"))
    assert promised.tokens > 1000 and speed(on_gpu).tokens == 1.0


def test_converting_a_small_model_takes_as_long_as_it_did(tmp_path):
    """SmolLM2-135M by exllamav2's converter on an H100, and Phi-3-mini's measurement."""
    layer, billion = speeds.RATES["exllamav2"]
    small, phi = (layer.times(n).plus(billion.times(w)) for n, w in ((30, 0.106), (32, 3.6)))
    assert 74 < small.measure < 88 and 84 < small.quantize < 95
    assert phi.measure == pytest.approx(9.3 * 64, rel=0.02)


def test_what_a_summary_is_asked_is_read_from_the_environment(experiment):
    found = asked(experiment, {"FRANKENLAB_GPUS": "1,4", "FRANKENLAB_CARDS": "H100,a40"})
    assert found.gpus == [1, 4] and [card.name for card in found.cards] == ["h100", "a40"]
    assert asked(experiment, {}) == Asked(None, [], [])
    with pytest.raises(UserError) as error:
        asked(experiment, {"FRANKENLAB_CARDS": "h100,4090"})
    assert 'FRANKENLAB_CARDS: "4090" is none of h100,' in one_line(error)
