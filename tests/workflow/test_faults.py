"""Workflows and jobs that are ended half-way: the next run goes on where they stopped.

The engine of the copied laboratory notes what it computes, and waits at the fourth plan while there
is a file `pause`: then three plans are scored, and one is in flight.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest

from frankenlab.quantize.quantizer import measure_model
from frankenlab.runtime import lock
from tests.support.converter import MODEL, fake, make
from tests.support.laboratory import Laboratory
from tests.support.warm_python import warm_python
from tests.workflow.test_workflow import edit

pytestmark = pytest.mark.slow

FRANKENS = "results/tiny/frankens/tiny/none/search.0.json"
SCORES = "results/tiny/scores/search/tiny/none/animals.0.parquet"
LOG = "results/tiny/logs/evaluate/search.tiny.none.0.log"

YIELD = "            yield node.plan, Pending(scores, arrival)\n"
NOTED = """            import os, time
            with open("computed", "a") as computed:
                computed.write(f"{len(batch.requests)}\\n")
            while os.path.exists("pause") and len(open("computed").readlines()) >= 4:
                time.sleep(0.05)
"""
IN_FLIGHT = 4
PLANS, DOCUMENTS = 11, 20

LEAVES_IN = 5.0  # seconds from the signal, as promised
STOPS_IN = 30.0  # a workflow with its jobs
TIMEOUT = 600


class HalfWay:
    """A workflow whose job is at the fourth plan."""

    def __init__(self, lab: Laboratory, *targets: str) -> None:
        self.lab = lab
        (lab.folder / "pause").touch()
        self.workflow = start(lab, *(targets or [SCORES]))
        wait_until(lambda: len(computed(lab)) >= IN_FLIGHT, self.workflow)
        children = psutil.Process(self.workflow.pid).children(recursive=True)
        self.jobs = [p for p in children if "evaluate.py" in " ".join(p.cmdline())]
        self.job = self.jobs[0]
        self.processes = [psutil.Process(self.workflow.pid), *children]

    def job_leaves(self) -> None:
        began = time.monotonic()
        psutil.wait_procs([self.job], timeout=LEAVES_IN)
        took = time.monotonic() - began
        assert not alive(self.job), f"the job is there after {took:.1f} s"

    def ends(self) -> str:
        out, err = self.workflow.communicate(timeout=TIMEOUT)
        assert self.workflow.returncode != 0
        return out + err


def start(lab: Laboratory, *arguments: str) -> subprocess.Popen:
    """Start a workflow whose processes, which signals come to, are a user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab, "python", Laboratory.python)
        return lab.start(*arguments)


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def wait_until(condition, process: subprocess.Popen) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def computed(lab: Laboratory) -> list[int]:
    """How many rows the engine computed, plan by plan, over all runs."""
    path = lab.folder / "computed"
    return [int(line) for line in path.read_text().split()] if path.is_file() else []


def resume(lab: Laboratory, lost: int) -> None:
    """The next run completes the table, and computes no more than what was lost again."""
    (lab.folder / "pause").unlink()
    lab.snakemake(SCORES)
    rows = lab.scored()
    assert len(rows) == PLANS * DOCUMENTS and set(rows.values()) == {1}
    assert sum(computed(lab)) == PLANS * DOCUMENTS + lost
    assert leftovers(lab) == []


def leftovers(lab: Laboratory) -> list[Path]:
    return sorted((lab.folder / "results").rglob("*.part"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    laboratory = Laboratory(tmp_path_factory.mktemp("laboratory"))
    edit(laboratory.folder / "src/frankenlab/evaluate/sweep.py", YIELD, NOTED + YIELD)
    del laboratory.config["tasks"]["liquids"]
    laboratory.python = warm_python()
    laboratory.snakemake(FRANKENS)
    return laboratory


@pytest.fixture
def lab(prepared: Laboratory) -> Iterator[Laboratory]:
    """Nothing is scored yet."""
    # A shell's background jobs and nohup ignore them, and so would everything that these start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield prepared
    prepared.config["stages"]["search"].pop("shards", None)
    left = [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(prepared.folder)]
    for process in left:
        process.kill()
    assert not left
    shutil.rmtree(prepared.folder / "results" / "store", ignore_errors=True)
    for name in (SCORES, "computed", "pause"):
        (prepared.folder / name).unlink(missing_ok=True)


def test_a_job_that_is_asked_to_end_keeps_its_rows(lab: Laboratory) -> None:
    """As SLURM does at a time limit, at preemption and at scancel; and twice."""
    run = HalfWay(lab)
    run.job.send_signal(signal.SIGTERM)
    time.sleep(0.01)
    run.job.send_signal(signal.SIGTERM)
    run.job_leaves()
    run.ends()
    kept = sum(computed(lab)[: IN_FLIGHT - 1])
    assert sum(lab.scored().values()) == kept > 0
    lines = (lab.folder / LOG).read_text().splitlines()
    stopped = f"stopped by SIGTERM: {kept} of {PLANS * DOCUMENTS} rows kept"
    assert lines[-1].endswith(stopped) and sum("SIGTERM" in line for line in lines) == 1
    resume(lab, lost=computed(lab)[IN_FLIGHT - 1])


def test_ctrl_c_on_the_workflow(lab: Laboratory) -> None:
    run = HalfWay(lab)
    for process in run.processes:  # as a terminal does
        process.send_signal(signal.SIGINT)
    run.job_leaves()
    run.ends()
    assert "stopped by SIGINT: " in (lab.folder / LOG).read_text()
    assert lock.left_by(lab.results) is None
    resume(lab, lost=computed(lab)[IN_FLIGHT - 1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_workflow_that_is_told_to_stop_stops_with_its_jobs(lab: Laboratory, number: int) -> None:
    """The signal comes to the workflow alone, as from `kill` or a batch system."""
    other = SCORES.replace(".0.", ".1.")
    lab.config["stages"]["search"]["shards"] = 2
    run = HalfWay(lab, SCORES, other, "--cores", "2")
    began = time.monotonic()
    run.workflow.send_signal(number)
    time.sleep(0.1)
    run.workflow.send_signal(number)
    run.workflow.communicate(timeout=TIMEOUT)
    took = time.monotonic() - began
    assert took < STOPS_IN and run.workflow.returncode != 0
    assert run.jobs and not any(map(alive, run.processes))
    assert lock.left_by(lab.results) is None
    kept = lab.scored()
    assert kept and leftovers(lab) == []
    (lab.folder / "pause").unlink()
    lab.snakemake(SCORES, other)
    del lab.config["stages"]["search"]["shards"]
    rows = lab.scored()
    assert len(rows) == PLANS * DOCUMENTS and set(rows.values()) == {1} and kept <= rows
    (lab.folder / other).unlink()


def test_a_second_workflow_is_refused_and_a_killed_one_leaves_nothing_behind(
    lab: Laboratory,
) -> None:
    run = HalfWay(lab)
    stamps = {p: p.read_text() for p in (lab.results / "stamps").rglob("*.json")}
    who = f"process {run.workflow.pid} of "

    second = lab.snakemake(SCORES, check=False)
    assert refusal(second).count(who) == 1 and alive(run.job)
    # It may look on, also with another config.
    for limit in (DOCUMENTS, 10):
        lab.config["stages"]["search"]["limit"] = limit
        assert "evaluate" in lab.snakemake("--dry-run", SCORES).stdout
        assert refusal(lab.snakemake(SCORES, check=False)).count(who) == 1
    lab.config["stages"]["search"]["limit"] = DOCUMENTS
    assert {p: p.read_text() for p in (lab.results / "stamps").rglob("*.json")} == stamps

    run.workflow.kill()
    run.job_leaves()
    run.ends()
    assert lock.left_by(lab.results).pid == run.workflow.pid
    kept = sum(computed(lab)[: IN_FLIGHT - 1])
    assert sum(lab.scored().values()) == kept > 0
    resume(lab, lost=computed(lab)[IN_FLIGHT - 1])


def test_two_experiments_run_side_by_side(lab: Laboratory) -> None:
    """They score the same plans on the same documents, so they write to the same folder."""
    target = SCORES.replace("/tiny/", "/other/", 1)
    other = ("--config", "experiment=other", "stages={search: {limit: 20}}")
    run = HalfWay(lab)
    before = files(lab)
    assert "evaluate" in lab.snakemake("--dry-run", target, *other).stdout
    assert files(lab) == before
    second = start(lab, target, *other)
    wait_until(lambda: len(computed(lab)) > IN_FLIGHT, second)
    assert alive(run.job) and run.workflow.poll() is None
    holders = [(h.experiment, h.pid) for h in lock.holders(lab.folder / "results")]
    assert holders == [("other", second.pid), ("tiny", run.workflow.pid)]
    (lab.folder / "pause").unlink()
    for process in (run.workflow, second):
        assert process.communicate(timeout=TIMEOUT) and process.returncode == 0
    tables = [pd.read_parquet(lab.folder / path) for path in (SCORES, target)]
    pd.testing.assert_frame_equal(*tables)
    rows = lab.scored()
    assert len(rows) == PLANS * DOCUMENTS and set(rows.values()) <= {1, 2}
    shutil.rmtree(lab.folder / "results" / "other")


def files(lab: Laboratory) -> dict[Path, int]:
    """What is in the folder, with its times of modification; Snakemake's own notes do not count."""
    found = [path for path in lab.folder.rglob("*") if ".snakemake" not in path.parts]
    return {path: path.stat().st_mtime_ns for path in found if path.is_file()}


def test_a_model_that_another_experiment_is_fetching_is_waited_for(lab: Laboratory) -> None:
    (model,) = (lab.folder / "resources" / "models").glob("tiny-*")
    aside = model.rename(lab.folder / "aside")
    right = lab.folder / "resources" / ".making" / f"models.{model.name}.manifest.json"
    held = lock.take(right, "other")
    run = lab.start("fetch")
    assert run.stderr is not None
    said = next(line for line in run.stderr if "waiting" in line)
    assert f"waiting for resources/models/{model.name}/manifest.json: experiment other, pro" in said
    aside.rename(model)
    out, err = run.communicate(timeout=TIMEOUT)
    assert run.returncode == 0 and "download_model" not in out + err
    held.release()


def refusal(done: subprocess.CompletedProcess) -> str:
    """The one line that says why."""
    text = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in text
    (line,) = [x for x in text.splitlines() if "another workflow is running on results/" in x]
    return line


def test_a_killed_job_costs_the_batch_in_flight(lab: Laboratory) -> None:
    """kill -9, as of the kernel when memory is short."""
    run = HalfWay(lab)
    run.job.kill()
    run.ends()
    assert not lab.scored()
    resume(lab, lost=sum(computed(lab)))


@pytest.fixture
def small_disk(lab: Laboratory) -> Iterator[Path]:
    """The store is on a file system of 1 MB, which is full but for two pages."""
    folder = lab.folder / "results" / "store"
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        free = os.statvfs(folder)
        (folder / "filler").write_bytes(b"x" * (free.f_bavail - 2) * free.f_bsize)
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_file_system_is_one_line_and_the_next_run_goes_on(
    lab: Laboratory, small_disk: Path
) -> None:
    failed = lab.snakemake(SCORES, check=False)
    assert failed.returncode != 0
    shown = [x for x in failed.stderr.splitlines() if x.startswith("evaluate: ")]
    (line,) = set(shown)
    assert "results/store/" in line and "no space left on device" in line
    assert "finished parts are kept" in line
    assert "Traceback" not in (lab.folder / LOG).read_text()
    assert leftovers(lab) == [] and not lab.scored()
    (small_disk / "filler").unlink()
    (lab.folder / "pause").touch()
    resume(lab, lost=PLANS * DOCUMENTS)


# --- jobs with children of their own ----------------------------------------------------------


def start_job(code: str, log: Path) -> subprocess.Popen:
    wrapped = (
        "from frankenlab.io.signals import stopped_by_signals\n"
        f"with stopped_by_signals():\n    {code}\n"
    )
    with log.open("w") as file:
        return subprocess.Popen([sys.executable, "-c", wrapped], stderr=file)


def assert_leaves_with_its_children(process: subprocess.Popen, number: int) -> None:
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(number)
    process.wait(LEAVES_IN)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    _, left = psutil.wait_procs(children, timeout=LEAVES_IN)
    assert not [child for child in left if alive(child)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_converter_ends_with_its_job_and_goes_on_in_the_next(
    tmp_path: Path, number: int
) -> None:
    measured, log = tmp_path / "measurement.json", tmp_path / "work" / "converter.log"
    measure_model(fake(), MODEL, measured, tmp_path / "measuring")
    given = f"Path({str(tmp_path)!r}), Path({str(measured)!r}), 'hangs-once'"
    code = f"from pathlib import Path; from tests.support.converter import make; make({given})"
    process = start_job(code, tmp_path / "log")
    wait_until(lambda: log.is_file() and "checkpoint" in log.read_text(), process)
    assert_leaves_with_its_children(process, number)
    make(tmp_path, measured, "hangs-once")
    assert (tmp_path / "hung").read_text() == "resumed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_kernel_of_a_notebook_ends_with_its_job(tmp_path: Path, number: int) -> None:
    notebook = nbformat.v4.new_notebook()
    reached = tmp_path / "reached"
    notebook.cells = [
        nbformat.v4.new_code_cell("", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(f"import time\nopen({str(reached)!r}, 'w')\ntime.sleep(100)"),
    ]
    nbformat.write(notebook, tmp_path / "slow.ipynb")
    files = [str(tmp_path / name) for name in ("slow.ipynb", "executed.ipynb")]
    code = f"from frankenlab.report.page import run_notebook; run_notebook(*{files!r}, {{}})"
    process = start_job(code, tmp_path / "log")
    wait_until(reached.exists, process)
    assert_leaves_with_its_children(process, number)
    assert not (tmp_path / "executed.ipynb").exists()
