"""The jobs of a run from nothing, and how long they take on so many GPUs."""

import pytest

from frankenlab.config import experiment as config
from frankenlab.estimate.schedule import GPU_RULES, jobs, length, on_gpu
from frankenlab.estimate.workload import Job, Workload
from tests.support.paths import ROOT

LLAMA = ROOT / "config" / "experiments" / "llama.yaml"


@pytest.fixture(scope="module")
def llama() -> Workload:
    return Workload(config.load(LLAMA))


def test_every_job_comes_after_those_it_waits_for(llama):
    seen = set()
    for job, needs in jobs(llama).items():
        assert set(needs) <= seen
        seen.add(job)


def test_the_chain_of_a_model_goes_from_its_download_to_the_page(llama):
    needs = jobs(llama)

    def behind(job: Job) -> set[str]:
        return {job.rule}.union(*(behind(other) for other in needs[job]))

    freeze = behind(Job("freeze", "llama-7b"))
    assert {"download_model", "measure_exl2", "quantize_exl2", "shortlist"} <= freeze
    last = list(needs)[-1]
    assert last.rule == "render_notebook"
    confirm = next(job for job in needs if job.rule == "evaluate_task" and job.stage == "confirm")
    assert "freeze" in behind(confirm)


def test_a_round_waits_until_the_one_before_is_judged():
    raw = config.load(ROOT / "config" / "config.yaml").raw
    raw["stages"]["search"] |= {"limit": 100, "shards": 2, "racing": {"rounds": [25, 50]}}
    workload = Workload(config.check(raw))
    needs = jobs(workload)
    (model,) = workload.experiment.models
    race = Job("race", model, stage="search-2")
    assert {(job.rule, job.stage, job.shard) for job in needs[race]} == {
        ("evaluate_task", "search-2", 0),
        ("evaluate_task", "search-2", 1),
    }
    third = [job for job in needs if job.rule == "construct_frankens" and job.stage == "search-3"]
    assert len(third) == 2 and all(race in needs[job] for job in third)
    assert [job.stage for job in needs if job.rule == "race"] == ["search-1", "search-2"]


def test_only_rules_that_run_models_ask_for_a_gpu(llama):
    assert {job.rule for job in jobs(llama) if on_gpu(llama, job)} == set(GPU_RULES)
    on_cpu = Workload(config.load(ROOT / "config" / "config.yaml"))
    assert not any(on_gpu(on_cpu, job) for job in jobs(on_cpu))


A, B, C, D, E = (Job(rule) for rule in "abcde")
DIAMOND = {A: (), B: (A,), C: (A,), D: (A,), E: (B, C, D)}
SECONDS = {A: 1.0, B: 10.0, C: 20.0, D: 30.0, E: 5.0}


@pytest.mark.parametrize(
    ("gpus", "taken"),
    [
        (None, 1 + 30 + 5),
        (3, 1 + 30 + 5),
        # b and c start together, d after b.
        (2, 1 + 10 + 30 + 5),
        (1, 1 + 60 + 5),
    ],
)
def test_jobs_wait_for_each_other_and_for_a_gpu(gpus, taken):
    assert length(DIAMOND, SECONDS.get, lambda job: job in (B, C, D), gpus) == taken
    assert length(DIAMOND, SECONDS.get, lambda job: False, gpus) == 36


def test_more_gpus_are_never_slower(llama):
    needs = jobs(llama)

    def taken(gpus: int | None) -> float:
        return length(needs, llama.seconds, lambda job: on_gpu(llama, job), gpus)

    times = [taken(gpus) for gpus in (1, 4, 32, None)]
    assert times == sorted(times, reverse=True) and times[0] > 3 * times[-1]
    gpu = sum(llama.seconds(job) for job in needs if on_gpu(llama, job))
    assert gpu <= times[0] < 1.1 * gpu + 3600
