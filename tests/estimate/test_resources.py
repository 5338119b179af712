"""What jobs ask for: it follows their shard, grows with each try and stays within the cluster."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from frankenlab.config import experiment as config
from frankenlab.config.stages import Stage
from frankenlab.estimate.jobs import Job
from frankenlab.estimate.memory import requirements
from frankenlab.estimate.resources import (
    LEAST_MINUTES,
    MEMORY_MARGIN,
    ROW_BYTES,
    TIME_MARGIN,
    Limit,
    Prediction,
    predict,
    read_limits,
    resources,
)
from frankenlab.io.errors import UserError
from tests.support.paths import ROOT
from tests.support.processes import one_line

LLAMA = ROOT / "config" / "experiments" / "llama.yaml"
GPU = Limit("gpu", 60, 64_000, 4)
CPU = Limit("cpu", 2880, 16_000, 0)


@pytest.fixture
def prediction(tmp_path, monkeypatch) -> Prediction:
    monkeypatch.chdir(tmp_path)
    return predict(config.load(LLAMA))


def searching(prediction: Prediction, model: str, task: str = "hellaswag", shard: int = 0) -> Job:
    reference = prediction.workload.model(model).reference
    return Job("evaluate", model, reference, Stage("search"), task, shard)


@pytest.mark.slow
def test_time_is_the_predicted_time_with_a_margin(prediction):
    job = searching(prediction, "llama-30b")
    asked = resources(prediction, job)
    assert asked.runtime == math.ceil(prediction.seconds(job) * TIME_MARGIN / 60)
    assert asked.runtime > LEAST_MINUTES and not asked.capped


@pytest.mark.slow
def test_a_job_of_all_tasks_starts_once_and_holds_the_rows_of_the_largest(prediction):
    whole = searching(prediction, "llama-7b", task="")
    parts = [replace(whole, task=name) for name in prediction.experiment.search_tasks]
    start = prediction.start(whole)
    seconds = [prediction.seconds(part) - start for part in parts]
    assert len(parts) == 4 and prediction.seconds(whole) == pytest.approx(start + sum(seconds))
    assert prediction.memory_bytes(whole) == max(map(prediction.memory_bytes, parts))


@pytest.mark.slow
def test_larger_shards_ask_for_more_time(prediction):
    shards = prediction.workload.grid("llama-30b").shards
    jobs = [searching(prediction, "llama-30b", shard=n) for n in shards]
    passes = [shards[job.shard].passes for job in jobs]
    times = [resources(prediction, job).runtime for job in jobs]
    assert len(set(times)) > 1
    assert times[passes.index(max(passes))] == max(times)


def test_each_attempt_asks_for_as_much_again(prediction):
    job = searching(prediction, "llama-13b")
    first, third = resources(prediction, job), resources(prediction, job, attempt=3)
    assert (third.runtime, third.mem_mb) == (3 * first.runtime, 3 * first.mem_mb)


def test_a_short_job_asks_for_the_least(prediction):
    assert resources(prediction, Job("measure_cost", "llama-7b", "none")).runtime == 10


def test_a_probe_takes_longer_with_more_prompts_and_more_than_twice_with_twice_the_layers(
    prediction,
):
    job = Job("probe", "llama-7b", "none")
    first = prediction.seconds(job) - prediction.start(job)
    raw = prediction.experiment.settings.plain()
    raw["probe"] = {"documents": 32}
    more = predict(config.check(raw))
    assert more.seconds(job) - more.start(job) == pytest.approx(2 * first, rel=0.05)
    raw["models"]["llama-7b"]["n_layers"] *= 2
    deeper = predict(config.check(raw))
    assert deeper.seconds(job) - deeper.start(job) > 3 * first
    assert resources(prediction, job).mem_mb > 4000


def test_what_a_gpu_needs_of_the_host_is_a_file_of_weights_at_a_time(prediction):
    small, large = (
        resources(prediction, Job("evaluate", model, "none", Stage("confirm"), "piqa")).mem_mb
        for model in ("llama-7b", "llama-2-7b")
    )
    assert small == large and 14_000 < small < 20_000
    four = resources(
        prediction, replace(searching(prediction, "llama-7b"), quantization="exl2-4.0")
    )
    assert 8_000 < four.mem_mb < small


@pytest.mark.slow
def test_on_a_cpu_the_model_itself_is_in_host_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = config.load(LLAMA).settings.plain()
    raw |= {"device": "cpu", "engine": "torch"}
    found = predict(config.check(raw))
    needed = requirements(found.workload, "llama-7b")["none"]
    asked = resources(found, Job("evaluate", "llama-7b", "none", Stage("confirm"), "piqa"))
    assert asked.mem_mb * 1e6 > MEMORY_MARGIN * needed.memory.weights > 15e9


@pytest.mark.slow
def test_rows_of_many_plans_and_documents_need_memory(prediction):
    job = searching(prediction, "llama-7b")
    few = resources(prediction, job).mem_mb
    raw = prediction.experiment.settings.plain()
    raw["stages"]["search"]["limit"] = 100_000
    many = resources(predict(config.check(raw)), job).mem_mb
    plans = prediction.workload.plans("llama-7b", Stage("search"), 0).count
    rows = (100_000 - 100) * plans * ROW_BYTES
    assert many - few == pytest.approx(MEMORY_MARGIN * rows / 1e6, rel=0.01)


@pytest.mark.slow
def test_quantizing_asks_for_what_a_model_takes(prediction):
    seven, thirty = (
        resources(prediction, Job("measure_exl2", model)) for model in ("llama-7b", "llama-30b")
    )
    assert 8_000 < seven.mem_mb < thirty.mem_mb < 64_000
    assert 10 < seven.runtime < thirty.runtime


@pytest.mark.slow
def test_the_unknown_asks_for_a_stated_amount(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = config.load(LLAMA).settings.plain()
    raw["models"] = {"new": {"source": {"path": "x"}, "n_layers": 8}}
    raw |= {"quantizations": ["none"]}
    found = predict(config.check(raw))
    asked = resources(found, Job("evaluate", "new", "none", Stage("search"), "piqa", 0))
    assert asked.runtime == 240 and asked.mem_mb == 7500


def test_a_cluster_caps_what_is_asked_for_by_the_partitions_for_its_kind(prediction):
    job = searching(prediction, "llama-30b")
    free = resources(prediction, job, 9)
    capped = resources(prediction, job, 9, [GPU, CPU])
    assert (capped.runtime, capped.mem_mb, capped.capped) == (60, 64_000, True)
    assert free.runtime > 60 and free.mem_mb > 64_000
    within = resources(prediction, job, 1, [Limit("long", 10_000, 100_000, 1), CPU])
    assert within == resources(prediction, job)


@pytest.mark.slow
def test_memory_is_capped_by_a_partition_that_allows_the_time(prediction):
    job = searching(prediction, "llama-30b")
    short, long = Limit("short", 1, 500_000, 4), Limit("long", 10_000, 9_000, 4)
    asked = resources(prediction, job, 1, [short, long])
    assert asked.mem_mb == 9_000 and asked.runtime == resources(prediction, job).runtime


@pytest.mark.slow
def test_jobs_without_a_gpu_keep_to_partitions_without_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = config.load(LLAMA).settings.plain() | {"device": "cpu", "engine": "torch"}
    prediction = predict(config.check(raw))
    job = searching(prediction, "llama-30b")
    assert resources(prediction, job, 1, [GPU, CPU]).runtime == 2880
    assert not resources(prediction, job, 1, [GPU]).capped


PARTITIONS = """
partitions:
  cpu: {max_runtime: 1d, max_mem_mb: 16000}
  gpu: {max_runtime: 240, max_mem_mb: 64000, max_gpu: 2, available_gpu_models: [a100]}
"""


def test_partitions_are_read_as_the_executor_reads_them(tmp_path):
    path = tmp_path / "partitions.yaml"
    path.write_text(PARTITIONS)
    assert read_limits(path) == (
        Limit("cpu", 1440, 16_000, 0),
        Limit("gpu", 240, 64_000, 2),
    )
    with pytest.raises(UserError) as error:
        read_limits(Path(tmp_path / "none.yaml"))
    assert "none.yaml" in one_line(error)
