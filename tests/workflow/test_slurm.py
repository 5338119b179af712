"""The workflow on a real SLURM of one node with two pretend GPUs, through `profiles/slurm`.

The tests share one finished run; those after it change its grid and go on from there.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import pytest

from frankenlab.runtime.clean import clear
from tests.support.laboratory import CONFIG, ROOT, Laboratory
from tests.support.paths import SUPPORT
from tests.support.slurm_cluster import Cluster, Job, Unavailable, slurm_cluster, wait_until

pytestmark = pytest.mark.slow

HOOKS = SUPPORT / "slurm_jobs"

PROFILE = ("--profile", "profiles/slurm")

SEARCH_TABLE = "results/tiny/comparisons/search/tiny/none.parquet"
SHARDS = ("evaluate-search-tiny-none-0", "evaluate-search-tiny-none-1")
GPU_RULES = {"evaluate", "confirm", "measure_cost", "probe"}

# Rules of the names that the profile knows, and nothing to do.
BARE_SNAKEFILE = """
rule all:
    input:
        expand("plot.{i}", i=range(3)), "on_gpu", "on_cpu", "on_gres",

rule plot_search:
    output: "plot.{i}"
    shell: "touch {output}"

rule quantize_exl2:
    output: "on_gpu"
    resources: gpu=1
    shell: "echo ${{CUDA_VISIBLE_DEVICES:-none}} > {output}"

rule measure_exl2:
    output: "on_cpu"
    resources: gpu=0
    shell: "echo ${{CUDA_VISIBLE_DEVICES:-none}} > {output}"

rule probe:
    output: "on_gres"
    resources: gpu=1
    shell: "echo ${{CUDA_VISIBLE_DEVICES:-none}} > {output}"
"""


class SlurmLaboratory(Laboratory):
    """The tiny experiment with its jobs on SLURM, and with a folder of orders to them."""

    how = PROFILE

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.orders = folder / "orders"
        self.orders.mkdir()
        self.environment = {
            "PYTHONPATH": f"{folder / 'src'}:{HOOKS}",
            "FRANKENLAB_TEST": str(self.orders),
        }
        del self.config["tasks"]["liquids"]
        self.config["token_budget"] = 100

    def slurm_jobs(self, cluster: Cluster) -> list[Job]:
        """Its jobs, from the first to the last."""
        return [job for job in cluster.jobs() if job.folder == str(self.folder)]

    def held(self, job: str) -> tuple[str, int]:
        """Waits for a job to be half-way; SLURM's number of it, and the process."""
        wait_until(lambda: any(self.orders.glob(f"held.{job}.*")), 240, f"{job} to be half-way")
        (found,) = self.orders.glob(f"held.{job}.*")
        found.unlink()
        return found.name.split(".")[-2], int(found.name.split(".")[-1])

    def hold(self, job: str) -> None:
        (self.orders / f"hold.{job}").touch()

    def lines(self, name: str) -> list:
        """What jobs wrote down."""
        return [json.loads(line) for line in (self.orders / name).read_text().splitlines()]


@pytest.mark.slow
def test_sacct_tells_as_well_how_jobs_are(tmp_path: Path) -> None:
    # First in the file: its cluster must be gone before the other one starts.
    try:
        with slurm_cluster(accounting=True) as cluster:
            lab = SlurmLaboratory(tmp_path)
            scores = "results/tiny/scores/search/tiny/none/animals.0.parquet"
            lab.snakemake(scores, "--slurm-status-command", "sacct")
            assert (lab.folder / scores).is_file()
            states = ["sacct", "-X", "--noheader", "--parsable2", "--format=State"]
            assert cluster.run(*states).split() == ["COMPLETED"]
    except Unavailable as reason:
        pytest.skip(f"{reason}")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    try:
        with slurm_cluster() as running:
            yield running
    except Unavailable as reason:
        pytest.skip(f"{reason}")


def test_the_profile_asks_for_what_it_says(cluster: Cluster, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "profiles" / "slurm", tmp_path / "profiles" / "slurm")
    (tmp_path / "Snakefile").write_text(BARE_SNAKEFILE)
    command = [sys.executable, "-m", "snakemake", *PROFILE]
    types = ["quantize_exl2:gpu_model=fake", "measure_exl2:gpu_model=fake"]
    types += ["probe:gpu=0", "probe:gres=gpu:fake:1"]
    threads = ["quantize_exl2=4", "measure_exl2=3"]
    arguments = ["--set-resources", *types, "--set-threads", *threads]
    environment = os.environ | {"PYTHONPATH": str(HOOKS), "FRANKENLAB_TEST": str(tmp_path)}
    subprocess.run(
        [*command, *arguments], cwd=tmp_path, env=environment, check=True, capture_output=True
    )
    jobs = {job.rule: job for job in cluster.jobs() if job.folder == str(tmp_path)}
    # More than the cores of this machine, as the login node's may be.
    assert jobs["quantize_exl2"].cpus == 4 and jobs["measure_exl2"].cpus == 3
    assert (jobs["quantize_exl2"].partition, jobs["quantize_exl2"].gpus) == ("gpu", "gpu:fake:1")
    assert (jobs["measure_exl2"].partition, jobs["measure_exl2"].gpus) == ("cpu", "")
    assert (jobs["probe"].partition, jobs["probe"].gpus) == ("gpu", "gpu:fake:1")
    for name in ("on_gpu", "on_gres"):
        assert (tmp_path / name).read_text().strip() in ("0", "1")
    assert (tmp_path / "on_cpu").read_text().strip() == "none"


@pytest.fixture(scope="module")
def lab(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> SlurmLaboratory:
    """Finished: the whole of the tiny experiment, its models on pretend GPUs."""
    laboratory = SlurmLaboratory(tmp_path_factory.mktemp("laboratory"))
    laboratory.config["device"] = "cuda"
    laboratory.config["stages"]["search"]["shards"] = 2
    # More than the job asks for at first, less than it asks for when tried again.
    (laboratory.orders / "memory.aggregate-search-tiny-none").write_text("900")
    laboratory.snakemake("--set-resources", "aggregate:mem_mb=1000*attempt")
    return laboratory


@pytest.fixture(autouse=True)
def no_order_outlives_its_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Remove the orders of a test that failed, which the tests after it would take for theirs."""
    yield
    if "lab" in request.fixturenames:
        orders = request.getfixturevalue("lab").orders
        for order in [*orders.glob("held.*"), *orders.glob("hold.*")]:
            order.unlink()


@pytest.fixture(scope="module")
def jobs(cluster: Cluster, lab: SlurmLaboratory) -> list[Job]:
    """Those of the finished run."""
    return lab.slurm_jobs(cluster)


def test_a_run_ends_with_the_page(lab: SlurmLaboratory) -> None:
    assert "free lunch" in (lab.results / "report" / "index.html").read_text().lower()
    assert lab.jobs() == Counter()


def at_once(one: Job, other: Job) -> bool:
    return one.begin < other.end and other.begin < one.end


def test_jobs_with_models_hold_a_gpu_each_and_a_third_waits(
    lab: SlurmLaboratory, jobs: list[Job]
) -> None:
    gpu_jobs = {job.id: job for job in jobs if job.gpus}
    assert {job.rule for job in gpu_jobs.values()} == GPU_RULES
    assert {(job.gpus, job.partition) for job in gpu_jobs.values()} == {("gpu:fake:1", "gpu")}
    devices = {line["slurm"]: line["visible"] for line in lab.lines("devices")}
    assert devices.keys() == gpu_jobs.keys() and set(devices.values()) == {"0", "1"}
    beside = [pair for pair in combinations(gpu_jobs, 2) if at_once(*map(gpu_jobs.get, pair))]
    assert beside
    assert all(devices[one] != devices[other] for one, other in beside)
    # Ready together: the two shards of the search, and the probe.
    one, other, third = sorted(gpu_jobs.values(), key=lambda job: job.begin)[:3]
    assert third.submitted < min(one.end, other.end) <= third.begin


def test_a_rule_without_a_model_holds_no_gpu(jobs: list[Job]) -> None:
    others = [job for job in jobs if job.rule not in GPU_RULES]
    # The tables, the figures and the page are one job, which has the names of all their rules.
    done = [job.rule.partition("_")[0] for job in others if job.state == "COMPLETED"]
    assert Counter(done) == {
        "aggregate": 3,
        "report": 1,
    }
    assert {(job.gpus, job.partition) for job in others} == {("", "cpu")}


def test_what_takes_seconds_waits_in_no_queue(jobs: list[Job]) -> None:
    assert not {"construct_frankens", "shortlist", "freeze"} & {job.rule for job in jobs}


def test_a_job_killed_for_memory_comes_back_with_more(jobs: list[Job]) -> None:
    (first,) = (job for job in jobs if job.state != "COMPLETED")
    assert (first.rule, first.state, first.mem) == ("aggregate", "FAILED", 1000)
    assert sorted(job.mem for job in jobs if job.rule == "aggregate")[2:] == [1000, 2000]


@pytest.mark.parametrize("name", ["frankenlab_tiny", "night shift"])
def test_a_workflow_runs_inside_of_a_job_of_any_name(
    cluster: Cluster, lab: SlurmLaboratory, name: str
) -> None:
    target = "results/tiny/comparisons/confirm/tiny/none.parquet"
    (lab.folder / target).unlink()
    before = lab.slurm_jobs(cluster)
    command = [sys.executable, "-m", "snakemake", target, *PROFILE]
    run = shlex.join([*command, "--configfile", CONFIG])
    environment = [f"{key}={shlex.quote(value)}" for key, value in lab.environment.items()]
    script = f"env {' '.join(environment)} {run}"
    cluster.run(
        "sbatch", "--wait", "-J", name, "-D", str(lab.folder), "--mem=2000", "--wrap", script
    )
    head, *jobs = [job for job in lab.slurm_jobs(cluster) if job not in before]
    assert head.state == "COMPLETED" and (lab.folder / target).is_file()
    assert [job.rule for job in jobs] == ["aggregate"]
    assert "JobName=frankenlab_tiny_" in cluster.run("scontrol", "show", "job", jobs[-1].id)


def test_an_added_plan_reruns_one_shard_and_scores_one_plan(
    cluster: Cluster, lab: SlurmLaboratory
) -> None:
    scored, jobs = lab.scored(), lab.slurm_jobs(cluster)
    lab.config["plans"].append({"generator": "explicit", "plans": ["0:4x2"]})
    lab.snakemake(SEARCH_TABLE)
    added = lab.scored() - scored
    assert {plan for _, plan, _ in added} == {"0:4x2"} and added.total() == 20
    rules = Counter(job.rule for job in lab.slurm_jobs(cluster) if job not in jobs)
    assert rules == {"evaluate": 1, "aggregate": 1}


def test_jobs_that_are_killed_cancelled_or_requeued_go_on_where_they_were(
    cluster: Cluster, lab: SlurmLaboratory
) -> None:
    """Requeueing stands for what SLURM does on preemption and when a node is lost."""
    scored, done = lab.scored(), len(lab.lines("rows"))
    lab.config["plans"].append({"generator": "layer", "times": [3, 4]})
    often, once = SHARDS
    lab.hold(often)
    lab.hold(once)
    with ThreadPoolExecutor() as threads:
        run = threads.submit(lab.snakemake, SEARCH_TABLE)
        _, process = lab.held(often)
        lab.hold(often)
        os.kill(process, signal.SIGKILL)
        requeued, _ = lab.held(once)
        cluster.run("scontrol", "requeue", requeued)
        number, _ = lab.held(often)
        cluster.run("scancel", number)
        run.result()
    assert [job.restarts for job in cluster.jobs() if job.id == requeued] == [1]
    added = lab.scored() - scored
    assert len({plan for _, plan, _ in added}) == 8 and set(added.values()) == {1}
    # Each of the three was in the middle of a batch, which is all that is computed again.
    batches = lab.lines("rows")[done:]
    again = sum(map(len, batches)) - added.total()
    assert 0 < again <= 3 * max(map(len, batches))


def interrupted(lab: SlurmLaboratory, when: Callable[[], object]) -> int:
    """The exit status of a run that gets a Ctrl-C when `when` returns."""
    # In a shell's background, where it may be ignored, tests are run too.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = lab.start(SEARCH_TABLE)
    signal.signal(signal.SIGINT, previous)
    with ThreadPoolExecutor() as threads:
        output = threads.submit(process.communicate)
        try:
            when()
        finally:
            process.send_signal(signal.SIGINT)
            output.result()
    return process.returncode


def test_ctrl_c_leaves_no_job_behind_and_the_next_run_goes_on(
    cluster: Cluster, lab: SlurmLaboratory
) -> None:
    lab.config["plans"].append({"generator": "layer", "times": 5})
    lab.hold(SHARDS[0])
    assert interrupted(lab, lambda: lab.held(SHARDS[0])) != 0
    states = {job.state for job in lab.slurm_jobs(cluster)}
    assert states <= {"COMPLETED", "FAILED", "CANCELLED"}
    lab.snakemake(SEARCH_TABLE)
    assert max(lab.scored().values()) == 1


def test_ctrl_c_leaves_no_job_behind_that_was_just_being_submitted(
    cluster: Cluster, lab: SlurmLaboratory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lab.config["plans"].append({"generator": "layer", "times": 6})
    for shard in SHARDS:
        lab.hold(shard)
    asked = tmp_path / "asked"
    slow = tmp_path / "sbatch"
    slow.write_text(f'#!/bin/sh\ntouch {asked}\nsleep 5\nexec {shutil.which("sbatch")} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    before = lab.slurm_jobs(cluster)
    assert interrupted(lab, lambda: wait_until(asked.exists, 240, "a submission")) != 0
    submitted = [job for job in lab.slurm_jobs(cluster) if job not in before]
    assert submitted and {job.state for job in submitted} == {"CANCELLED"}


def test_jobs_of_a_workflow_that_was_killed_are_named_and_cleared(
    cluster: Cluster, lab: SlurmLaboratory
) -> None:
    lab.config["plans"].append({"generator": "layer", "times": 8})
    lab.hold(SHARDS[0])
    workflow = lab.start(SEARCH_TABLE)
    with ThreadPoolExecutor() as threads:
        output = threads.submit(workflow.communicate)
        try:
            orphan, _ = lab.held(SHARDS[0])
        finally:
            workflow.kill()
            output.result()
    refused = lab.snakemake(SEARCH_TABLE, check=False)
    (line,) = (x for x in refused.stderr.splitlines() if "of an earlier workflow" in x)
    assert refused.returncode != 0 and orphan in line and "frankenlab clear" in line
    lines = list(clear(lab.folder))
    assert any(f"{orphan} (evaluate, running)" in line for line in lines)
    assert {job.state for job in lab.slurm_jobs(cluster) if job.id == orphan} == {"CANCELLED"}
    lab.snakemake(SEARCH_TABLE)
    assert max(lab.scored().values()) == 1


@pytest.mark.slow
def test_a_job_at_its_time_limit_comes_back_and_goes_on(
    cluster: Cluster, lab: SlurmLaboratory
) -> None:
    before = lab.slurm_jobs(cluster)
    partitions = lab.folder / "profiles" / "slurm" / "partitions.yaml"
    text = partitions.read_text()
    assert text.count("max_runtime: 1440") == 2
    partitions.write_text(text.replace("max_runtime: 1440", "max_runtime: 1"))
    lab.config["plans"].append({"generator": "layer", "times": 7})
    lab.hold(SHARDS[0])
    lab.snakemake("results/tiny/scores/search/tiny/none/animals.0.parquet")
    states = [job.state for job in lab.slurm_jobs(cluster) if job not in before]
    assert states == ["TIMEOUT", "COMPLETED"]
    assert max(lab.scored().values()) == 1
