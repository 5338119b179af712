"""Jobs end with their workflow, however it ends."""

import logging
import os
import signal
import sys
import time
from io import StringIO
from types import SimpleNamespace

import pytest
from snakemake.logging import ColorizingTextHandler

from frankenlab.io.signals import SIGNALS, Stopped, stopped_by_signals
from frankenlab.runtime import processes
from frankenlab.runtime.processes import (
    CORES_VARIABLE,
    SCRIPTS,
    WORKFLOW_VARIABLE,
    end_with_workflow,
    stop_jobs_first,
    threads_now,
)
from tests.support.processes import fork, gone, number_in


@pytest.mark.slow
def test_a_job_ends_with_its_workflow_also_behind_a_shell(tmp_path):
    """workflow -> shell (that does not end with it) -> job."""

    def job() -> int:
        try:
            with stopped_by_signals():
                end_with_workflow()
                print(os.getpid(), file=sys.stderr)
                time.sleep(60)
        except Stopped:
            print("left", file=sys.stderr)
        return 0

    def shell() -> int:
        child = fork(job, tmp_path / "log")
        os.waitpid(child, 0)
        return 0

    def workflow() -> int:
        os.environ[WORKFLOW_VARIABLE] = str(os.getpid())
        fork(shell, tmp_path / "shell")
        time.sleep(60)
        return 0

    process = fork(workflow, tmp_path / "workflow")
    child = number_in(tmp_path / "log")
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    assert gone(child)
    assert (tmp_path / "log").read_text().splitlines()[1] == "left"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_workflow_that_is_writing_its_log(tmp_path, number):
    """Snakemake's handler of the log drops the exception that a signal raises in it."""

    class Terminal(StringIO):
        def flush(self) -> None:
            os.kill(os.getpid(), number)
            time.sleep(0.5)  # The signal is sent again while the line is still being written.

    def workflow() -> int:
        stop_jobs_first()
        handler = ColorizingTextHandler(stream=Terminal())
        try:
            handler.emit(logging.makeLogRecord({"msg": "a job was submitted"}))
            time.sleep(20)
        except KeyboardInterrupt:
            return 3
        return 0

    _, status = os.waitpid(fork(workflow, tmp_path / "log"), 0)
    assert os.waitstatus_to_exitcode(status) == 3


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("3000000000\n", 3000), ("max\n", 8000), ("9000000000\n", 8000), (None, 8000)],
)
def test_memory_is_the_machines_or_the_containers(tmp_path, monkeypatch, limit, expected):
    file = tmp_path / "memory.max"
    if limit is not None:
        file.write_text(limit)
    monkeypatch.setattr(processes, "CONTAINER_LIMIT", file)
    monkeypatch.setattr(
        processes.psutil, "virtual_memory", lambda: SimpleNamespace(total=8_000_000_000)
    )
    assert processes.memory_mb() == expected


@pytest.mark.parametrize(
    ("cores", "scripts", "threads"),
    [("4", 1, 4), ("4", 2, 2), ("4", 0, 2), ("1", 1, 2), ("", 1, 2)],
)
def test_a_job_that_is_alone_may_have_all_cores_of_its_workflow(
    cores, scripts, threads, monkeypatch
):
    monkeypatch.setenv(CORES_VARIABLE, cores)
    monkeypatch.setenv(WORKFLOW_VARIABLE, "7")
    words = [["snakemake"], *[["python", f"{SCRIPTS}x.evaluate.py"]] * scripts]
    found = [SimpleNamespace(cmdline=lambda each=each: each) for each in words]
    workflow = SimpleNamespace(children=lambda: found)
    monkeypatch.setattr(processes.psutil, "Process", {7: workflow}.get)
    assert threads_now(2) == threads
