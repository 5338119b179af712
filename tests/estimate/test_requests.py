"""What jobs ask for: it follows their shard, grows with each try and stays within the cluster."""

import math
from pathlib import Path

import pytest

from frankenlab.config import experiment as config
from frankenlab.estimate import resources as requests
from frankenlab.estimate.resources import Limit, request
from frankenlab.estimate.summary import summary
from frankenlab.estimate.workload import Job, Workload
from frankenlab.io.errors import UserError
from tests.support.paths import ROOT
from tests.support.processes import one_line

LLAMA = ROOT / "config" / "experiments" / "llama.yaml"
GPU = Limit("gpu", 60, 64_000, 4)
CPU = Limit("cpu", 2880, 16_000, 0)


@pytest.fixture
def workload(tmp_path, monkeypatch) -> Workload:
    monkeypatch.chdir(tmp_path)
    return Workload(config.load(LLAMA))


def searching(workload: Workload, model: str, task: str = "hellaswag", shard: int = 0) -> Job:
    reference = workload.model(model).reference
    return Job("evaluate_task", model, reference, "search", task, shard)


def test_time_is_the_predicted_time_with_a_margin(workload):
    job = searching(workload, "llama-30b")
    asked = request(workload, job)
    assert asked.runtime == math.ceil(workload.seconds(job) * requests.TIME_MARGIN / 60)
    assert asked.runtime > requests.LEAST_MINUTES and not asked.capped


def test_larger_shards_ask_for_more_time(workload):
    jobs = [searching(workload, "llama-30b", shard=n) for n in workload.shards("llama-30b")]
    passes = [workload.shards("llama-30b")[job.shard].passes for job in jobs]
    times = [request(workload, job).runtime for job in jobs]
    assert len(set(times)) > 1
    assert times[passes.index(max(passes))] == max(times)


def test_each_attempt_asks_for_as_much_again(workload):
    job = searching(workload, "llama-13b")
    first, third = request(workload, job), request(workload, job, attempt=3)
    assert (third.runtime, third.mem_mb) == (3 * first.runtime, 3 * first.mem_mb)


def test_a_short_job_asks_for_the_least(workload):
    assert request(workload, Job("measure_cost", "llama-7b", "none")).runtime == 10
    assert request(workload, Job("aggregate")).mem_mb == requests.LEAST_MB


def test_what_a_gpu_needs_of_the_host_is_a_file_of_weights_at_a_time(workload):
    small, large = (
        request(workload, Job("evaluate_task", model, "none", "confirm", "piqa")).mem_mb
        for model in ("llama-7b", "llama-2-7b")
    )
    assert small == large and 14_000 < small < 20_000
    four = request(workload, searching(workload, "llama-7b")._replace(quantization="exl2-4.0"))
    assert 8_000 < four.mem_mb < small


def test_on_a_cpu_the_model_itself_is_in_host_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = dict(config.load(LLAMA).raw)
    raw |= {"device": "cpu", "engine": "torch"}
    found = Workload(config.check(raw))
    cell = found.cells("llama-7b")["none"]
    asked = request(found, Job("evaluate_task", "llama-7b", "none", "confirm", "piqa"))
    assert asked.mem_mb * 1e6 > requests.MEMORY_MARGIN * cell.memory.weights > 15e9


def test_rows_of_many_plans_and_documents_need_memory(workload):
    job = searching(workload, "llama-7b")
    few = request(workload, job).mem_mb
    workload.experiment.raw["stages"]["search"]["limit"] = 100_000
    many = request(Workload(workload.experiment), job).mem_mb
    plans = workload.plans("llama-7b", "search", 0).count
    rows = (100_000 - 100) * plans * requests.ROW_BYTES
    assert many - few == pytest.approx(requests.MEMORY_MARGIN * rows / 1e6, rel=0.01)


def test_quantizing_asks_for_what_a_model_takes(workload):
    seven, thirty = (
        request(workload, Job("measure_exl2", model)) for model in ("llama-7b", "llama-30b")
    )
    assert 8_000 < seven.mem_mb < thirty.mem_mb < 64_000
    assert 10 < seven.runtime < thirty.runtime


def test_the_unknown_asks_for_a_stated_amount(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = dict(config.load(LLAMA).raw)
    raw["models"] = {"new": {"source": {"path": "x"}, "n_layers": 8}}
    raw |= {"quantizations": ["none"]}
    found = Workload(config.check(raw))
    asked = request(found, Job("evaluate_task", "new", "none", "search", "piqa", 0))
    assert asked.runtime == 240 and asked.mem_mb == 7500


def test_a_cluster_caps_what_is_asked_for_by_the_partitions_for_its_kind(workload):
    job = searching(workload, "llama-30b")
    free = request(workload, job, 9)
    capped = request(workload, job, 9, [GPU, CPU])
    assert (capped.runtime, capped.mem_mb, capped.capped) == (60, 64_000, True)
    assert free.runtime > 60 and free.mem_mb > 64_000
    within = request(workload, job, 1, [Limit("long", 10_000, 100_000, 1), CPU])
    assert within == request(workload, job)


def test_memory_is_capped_by_a_partition_that_allows_the_time(workload):
    job = searching(workload, "llama-30b")
    short, long = Limit("short", 1, 500_000, 4), Limit("long", 10_000, 9_000, 4)
    asked = request(workload, job, 1, [short, long])
    assert asked.mem_mb == 9_000 and asked.runtime == request(workload, job).runtime


def test_rules_without_a_gpu_keep_to_partitions_without_one(workload):
    job = Job("aggregate", "llama-7b", "none", "confirm")
    assert request(workload, job, 500, [GPU, CPU]).runtime == 2880
    assert request(workload, job, 500, [GPU]).runtime == 5000


PARTITIONS = """
partitions:
  cpu: {max_runtime: 1d, max_mem_mb: 16000}
  gpu: {max_runtime: 240, max_mem_mb: 64000, max_gpu: 2, available_gpu_models: [a100]}
"""


def test_partitions_are_read_as_the_executor_reads_them(tmp_path):
    path = tmp_path / "partitions.yaml"
    path.write_text(PARTITIONS)
    assert requests.read_limits(path) == (
        Limit("cpu", 1440, 16_000, 0),
        Limit("gpu", 240, 64_000, 2),
    )
    with pytest.raises(UserError) as error:
        requests.read_limits(Path(tmp_path / "none.yaml"))
    assert "none.yaml" in one_line(error)


def test_a_summary_says_what_the_cluster_will_cut_off(workload):
    text = summary(workload, limits=[Limit("gpu", 15, 64_000, 4), CPU])
    assert "more than the cluster's partitions allow:" in text
    assert "raise stages.search.shards" in text and "of evaluate_task" in text
    assert "partitions allow" not in summary(workload)
