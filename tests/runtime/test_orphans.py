"""Jobs that a killed workflow left in the queue, and everything else that is cleared after it.

`squeue` and `scancel` are scripts here; tests/test_slurm.py has the real ones.
"""

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from frankenlab import cli
from frankenlab.io.directories import make_directory
from frankenlab.io.errors import UserError
from frankenlab.io.files import atomic_path
from frankenlab.runtime import lock, orphans, places
from frankenlab.runtime.clean import LEFTOVER
from frankenlab.runtime.orphans import NoAnswer
from tests.support.processes import one_line

SQUEUE = """#!{python}
import pathlib, sys
assert sys.argv[1:3] == ["--me", "--noheader"], sys.argv
names = dict(zip("ijTkZ", range(5)))
order = [names[field[-1]] for field in sys.argv[4].split("\\x1f")]
for line in pathlib.Path("{queue}").read_text().splitlines():
    values = line.split("\\t")
    print("\\x1f".join(values[i] for i in order))
"""

SCANCEL = """#!{python}
import pathlib, sys
queue = pathlib.Path("{queue}")
kept = [x for x in queue.read_text().splitlines() if x.split("\\t")[0] not in sys.argv[1:]]
queue.write_text("".join(line + "\\n" for line in kept))
"""

# A process that has the lock until it is killed.
HOLD = (
    "import time; from frankenlab.runtime import lock; held = lock.take('results/gone', 'gone'); "
    "print(flush=True); time.sleep(60)"
)


# A job of the experiment "tiny", as the executor names it.
RUN = "0e4d18a1-5d2f-4c6e-9b7a-8f0c1d2e3f4a"
TINY, OTHER = f"frankenlab_tiny_{RUN}", f"frankenlab_other_{RUN}"


class Slurm:
    """A pretended queue: a line per job with id, name, state, comment and folder."""

    def __init__(self, root: Path) -> None:
        self.queue = root / "queue"
        self.queue.touch()
        self.bin = root / "bin"
        self.bin.mkdir()
        self.script("squeue", SQUEUE)
        self.script("scancel", SCANCEL)

    def script(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text.format(python=sys.executable, queue=self.queue))
        path.chmod(0o755)

    def add(self, identity, folder, *, name=TINY, state="RUNNING", rule="plot_search"):
        comment = f"rule_{rule}_wildcards_tiny" if rule else "(null)"
        with self.queue.open("a") as file:
            file.write("\t".join([identity, name, state, comment, str(folder)]) + "\n")

    def ids(self) -> list[str]:
        return [line.split("\t")[0] for line in self.queue.read_text().splitlines()]


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Slurm:
    pretended = Slurm(tmp_path)
    monkeypatch.setenv("PATH", f"{pretended.bin}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(orphans.time, "sleep", lambda seconds: None)
    return pretended


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def clear(capsys) -> tuple[int, str, str]:
    status = cli.main(["clear"])
    return status, *capsys.readouterr()


def test_orphans_are_our_jobs_in_this_folder(slurm, project, tmp_path):
    slurm.add("1", project)
    slurm.add("2", project, name=f"frankenstein_{RUN}")
    slurm.add("3", tmp_path / "elsewhere")
    slurm.add("4_[2-5]", project, state="PENDING", rule="evaluate_task")
    slurm.add("5", project, rule=None)
    (tmp_path / "link").symlink_to(project)
    slurm.add("6", tmp_path / "link", name=OTHER)
    assert [str(job) for job in orphans.orphans(".")] == [
        "1 (plot_search, running)",
        "4_[2-5] (evaluate_task, pending)",
        "5 (unknown rule, running)",
        "6 (plot_search, running)",
    ]
    assert [job.id for job in orphans.orphans(".", "results/tiny")] == ["1", "4_[2-5]", "5"]
    assert [job.id for job in orphans.orphans(".", "results/other")] == ["6"]


@pytest.mark.parametrize("name", ["frankenlab", "frankenlab_tiny", "frankenlab_tiny_2", "snakejob"])
def test_jobs_in_which_whole_workflows_run_are_none(slurm, project, name):
    """Head jobs, this one or that of another experiment, which people name as they like."""
    slurm.add("17", project, name=name, rule=None)
    assert orphans.orphans(project) == []


def test_experiments_are_told_apart_by_names_that_the_executor_takes():
    names = ["tiny", "tiny.2", "tiny2", "tiny-2", "x" * 64, "x" * 63 + "y", "a_b", "a.b"]
    folders = ["results", "moved/results", "/moved/results"]
    prefixes = [orphans.job_prefix(f"{x}/{name}") for x in folders for name in names]
    assert len(set(prefixes)) == len(folders) * len(names)
    assert prefixes[0] == "frankenlab_tiny"
    # As the executor (2.8.0) checks them.
    assert all(re.match(r"^[A-Za-z0-9_-]{1,50}$", prefix) for prefix in prefixes)
    assert all(orphans.NAME.fullmatch(f"{x}_{RUN}")["prefix"] == x for x in prefixes)


def test_a_workflow_does_not_start_beside_them(slurm, project):
    slurm.add("3", project, name=OTHER)
    orphans.check_none(project, "results/tiny")
    slurm.add("1", project)
    slurm.add("2", project, state="COMPLETING")
    with pytest.raises(UserError) as caught:
        orphans.check_none(project, "results/tiny")
    text = one_line(caught)
    assert (
        "2 jobs of an earlier workflow on results/tiny/ in this folder: 1 (plot_search, running)"
        in text
    )
    assert "`frankenlab clear`" in text


def test_jobs_below_a_prefix_are_not_those_of_the_same_experiment_elsewhere(slurm, project, capsys):
    moved = orphans.job_prefix("moved/results/tiny")
    slurm.add("1", project, name=f"{moved}_{RUN}")
    orphans.check_none(project, "results/tiny")
    with pytest.raises(UserError, match="^1 job of an earlier workflow on moved/results/tiny/ in"):
        orphans.check_none(project, "moved/results/tiny")
    # It runs.
    places.note(Path("moved/results"))
    held = lock.take("moved/results/tiny", "tiny")
    assert "left alone: another workflow is running on moved/results/tiny/" in clear(capsys)[1]
    assert slurm.ids() == ["1"]
    held.release()
    leftover = project / "moved/results/tiny/.table.k3j9x_0a.part"
    leftover.touch()
    os.utime(leftover, (1, 1))
    assert clear(capsys)[1].splitlines() == [
        "jobs of a workflow that was killed: 1 (plot_search, running): cancelling",
        "half-written: moved/results/tiny/.table.k3j9x_0a.part: removed",
    ]
    assert slurm.ids() == []


def test_many_are_counted(slurm, project):
    for number in range(9):
        slurm.add(str(number), project)
    with pytest.raises(UserError, match=r"^9 jobs .* 4 \(.*\) and 4 more; "):
        orphans.check_none(project, "results/tiny")


def test_jobs_that_are_ending_are_waited_for(slurm, project, monkeypatch):
    slurm.add("1", project, state="COMPLETING")
    monkeypatch.setattr(orphans.time, "sleep", lambda seconds: slurm.queue.write_text(""))
    orphans.check_none(project, "results/tiny")
    assert slurm.ids() == []


def test_without_slurm_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert orphans.orphans(tmp_path) == []


def test_a_controller_that_does_not_answer_is_one_line(slurm, project, monkeypatch):
    slurm.script("squeue", "#!/bin/sh\necho 'slurm_load_jobs error: Unable' >&2; exit 1\n")
    with pytest.raises(NoAnswer, match="^squeue failed: slurm_load_jobs error: Unable$"):
        orphans.orphans(project)
    slurm.script("squeue", "#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(orphans, "QUERY_SECONDS", 0.2)
    with pytest.raises(NoAnswer, match="^squeue does not answer"):
        orphans.orphans(project)


def test_slurm_without_a_cluster_has_no_jobs(slurm, project):
    said = "squeue: fatal: Could not establish a configuration source"
    slurm.script("squeue", f"#!/bin/sh\necho '{said}' >&2; exit 1\n")
    assert orphans.orphans(project) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", ["CLUSTER: alpha", "", "squeue: notice: maintenance on Monday", "JOBID NAME ST"]
)
def test_lines_that_are_no_job_are_skipped(slurm, project, capsys, line):
    printed = f'print("{line}")'
    slurm.script("squeue", SQUEUE + printed)
    assert clear(capsys) == (0, "nothing to clear\n", "")
    slurm.add("1", project)
    slurm.script("squeue", SQUEUE.replace("names =", f"{printed}\nnames =") + printed)
    assert [job.id for job in orphans.orphans(project)] == ["1"]
    with pytest.raises(UserError, match="^1 job of an earlier workflow"):
        orphans.check_none(project, "results/tiny")


def test_jobs_that_are_listed_in_another_way_are_no_answer(slurm, project, capsys):
    slurm.add("1", project)
    slurm.script("squeue", "#!/bin/sh\nprintf '1\\037frankenlab_1\\037RUNNING\\n'\n")
    with pytest.raises(
        NoAnswer, match="^squeue does not list jobs as it was asked to, but as: 1 f"
    ):
        orphans.orphans(project)
    status, _, err = clear(capsys)
    assert status == 2 and "squeue does not list jobs" in one_line(err)


def test_jobs_that_do_not_end_are_named(slurm, project, monkeypatch):
    slurm.add("1", project)
    slurm.script("scancel", "#!/bin/sh\n")
    monkeypatch.setattr(orphans, "GONE_SECONDS", 0.1)
    with pytest.raises(UserError, match=r"still in the queue after 0.1 s: 1 \(plot_search"):
        orphans.cancel(project, orphans.orphans(project))


def test_clear_cancels_orphans_and_removes_what_killed_writers_left(
    slurm, project, tmp_path, capsys
):
    slurm.add("1", project)
    slurm.add("2", tmp_path)
    store, models = project / "results/store/ab12", project / "resources/models"
    store.mkdir(parents=True)
    (models / ".tiny-12ab.k3j9x_0a.part/deep").mkdir(parents=True)
    (models / ".other.abcdefgh.part").mkdir()
    old, young = (store / f".part-0f.parquet.a1b2c3d{n}.part" for n in (4, 5))
    old.touch()
    os.utime(old, (1, 1))
    kept = [
        store / "part-0f.parquet",
        store / ".hidden",
        models / "my.parts",
        models / ".x.part",
        young,
    ]
    for path in kept:
        path.touch()
    child = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE)
    child.stdout.readline()
    child.kill()
    child.wait()
    # Somebody is making this one by hand.
    with (models / ".other.lock").open("w") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        status, out, err = clear(capsys)
    assert status == 0 and err == ""
    assert slurm.ids() == ["2"]
    lines = out.splitlines()
    assert lines[0].startswith("lock of a workflow that was killed: experiment gone, process ")
    assert lines[1] == "jobs of a workflow that was killed: 1 (plot_search, running): cancelling"
    assert {line.split(": ")[1] for line in lines[2:]} == {
        "results/store/ab12/.part-0f.parquet.a1b2c3d4.part",
        "resources/models/.tiny-12ab.k3j9x_0a.part",
    }
    assert all(path.exists() for path in kept) and (models / ".other.abcdefgh.part").is_dir()
    # Now nobody is.
    assert clear(capsys)[1] == "half-written: resources/models/.other.abcdefgh.part: removed\n"
    assert clear(capsys) == (0, "nothing to clear\n", "")


def test_clear_finds_killed_exports_and_what_finished_quantizations_left(slurm, project, capsys):
    checkpoints = project / "results/tiny/checkpoints/m"
    exl2 = project / "resources/exl2/m-12/ab"
    removed = [
        checkpoints / ".0:3,1:4.k3j9x_0a.part",
        exl2 / ".measuring",
        exl2 / ".making-exl2-4.0",
        project / "resources/models/.m-12.k3j9x_0a.part/.source-ab/.wheel-cd",
    ]
    # A killed job goes on from it.
    kept = [exl2 / ".making-exl2-3.0", checkpoints / "frozen", checkpoints / ".busy.k3j9x_0b.part"]
    for path in [*removed, *kept, exl2 / "exl2-4.0"]:
        path.mkdir(parents=True)
        (path / "file").touch()
    (exl2 / "measurement.json").touch()
    (exl2 / "exl2-4.0" / "manifest.json").touch()
    descriptor = os.open(kept[-1], os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    status, out, err = clear(capsys)
    os.close(descriptor)
    assert (status, err) == (0, "") and len(out.splitlines()) == len(removed)
    assert not any(path.exists() for path in removed)
    assert all((path / "file").is_file() for path in kept)
    assert clear(capsys)[1].startswith("half-written: results/tiny/checkpoints/m/.busy.")


def test_clear_leaves_a_running_experiment_alone_and_what_it_shares(slurm, project, capsys):
    slurm.add("1", project)
    slurm.add("2", project, name=OTHER)
    held = lock.take("results/tiny", "tiny")
    making = lock.take("resources/.making/models.m.manifest.json", "tiny")
    folders = ["results/tiny", "results/store/ab", "resources/models", "results/other"]
    leftovers = [project / folder / ".table.k3j9x_0a.part" for folder in folders]
    for path in leftovers:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (1, 1))
    status, out, err = clear(capsys)
    assert status == 0 and err == ""
    first, second, third = out.splitlines()
    assert "left alone: another workflow is running on results/tiny/: experiment tiny, " in first
    assert "2 (plot_search, running): cancelling" in second
    assert third == "half-written: results/other/.table.k3j9x_0a.part: removed"
    assert slurm.ids() == ["1"]
    assert [path.exists() for path in leftovers] == [True, True, True, False]
    making.release()
    held.release()
    assert len(clear(capsys)[1].splitlines()) == 4
    assert slurm.ids() == [] and not any(path.exists() for path in leftovers)


def test_clear_takes_the_lock_of_another_host_where_there_is_no_flock(
    slurm, project, capsys, monkeypatch
):
    def unsupported(file, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    monkeypatch.setattr(lock.socket, "gethostname", lambda: "node7")
    folders = ["results/gone", "resources/.making/models.m-12.manifest.json"]
    for folder in folders:
        lock.take(folder, "gone")
    monkeypatch.setattr(lock.socket, "gethostname", lambda: "login1")
    status, out, _ = clear(capsys)
    assert status == 0 and out.count("on node7") == 2
    assert [lock.left_by(folder) for folder in folders] == [None, None]


def test_names_of_temporary_files_are_those_of_their_writers(tmp_path):
    """`clear` looks for what the writers make."""
    seen = []
    with atomic_path(tmp_path / "a.parquet") as path:
        seen.append(path.name)
    make_directory(tmp_path / "b-1.0", {"key": "k"}, lambda d: seen.append(d.name) or fill(d))
    assert [LEFTOVER.fullmatch(name)["target"] for name in seen] == ["a.parquet", "b-1.0"]


def fill(directory: Path) -> dict:
    (directory / "file").touch()
    return {}
