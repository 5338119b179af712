"""One workflow on a results folder: who has it, and what is left when that one is gone."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from frankenlab.io.errors import UserError
from frankenlab.runtime import lock
from frankenlab.runtime.lock import EXCLUSIVE, NAME, Held, Holder
from tests.support.processes import one_line

HOLD = (
    "import sys, time; from frankenlab.runtime import lock; "
    "held = lock.take(sys.argv[1], 'theirs'); "
)


def refusal(folder: Path) -> Held:
    with pytest.raises(Held) as caught:
        lock.take(folder, "mine")
    one_line(caught)
    return caught.value


def other_process(folder: Path, then: str = "print(flush=True); time.sleep(60)"):
    """Another process that has the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD + then, str(folder)], stdout=subprocess.PIPE
    )
    process.stdout.readline()
    return process


@pytest.fixture
def without_flock(monkeypatch):
    def unsupported(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)


def write_holder(path: Path, **changes) -> Holder:
    holder = replace(Holder.here("theirs"), **changes)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(holder)))
    return holder


def dead_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_the_second_is_refused_and_told_who_has_it(tmp_path):
    process = other_process(tmp_path)
    try:
        for _ in range(2):  # a refused attempt leaves the holder's name alone
            text = str(refusal(tmp_path))
            assert f"another workflow is running on {tmp_path}/: experiment theirs" in text
            assert f"process {process.pid} of " in text and socket.gethostname() in text
            assert "frankenlab clear" not in text
    finally:
        process.kill()
        process.wait()


def test_the_lock_of_a_killed_process_is_free_and_still_says_whose_it_was(tmp_path):
    process = other_process(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert lock.left_by(tmp_path).pid == process.pid
    held = lock.take(tmp_path, "mine")
    assert lock.left_by(tmp_path).experiment == "mine"
    held.release()
    assert lock.left_by(tmp_path) is None


def test_a_normal_end_leaves_no_name(tmp_path):
    other_process(tmp_path, "").wait()
    assert (tmp_path / NAME).read_text() == ""
    lock.take(tmp_path, "mine").release()


def test_it_cannot_be_taken_where_nothing_can_be_written(tmp_path):
    (tmp_path / "results").touch()
    with pytest.raises(UserError) as caught:
        lock.take(tmp_path / "results", "mine")
    assert "its lock cannot be taken: file exists" in one_line(caught)


def test_a_holder_that_is_just_writing_its_name(tmp_path):
    held = lock.take(tmp_path, "theirs")
    (tmp_path / NAME).write_text('{"host"')
    assert "one that has just started" in str(refusal(tmp_path))
    held.release()


def test_without_flock_a_file_takes_its_place(tmp_path, without_flock, monkeypatch):
    monkeypatch.chdir(tmp_path)
    held = lock.take(".", "theirs")
    assert f"process {os.getpid()} of " in str(refusal(tmp_path))
    monkeypatch.chdir("/")
    held.release()
    assert not (tmp_path / EXCLUSIVE).exists()
    lock.take(tmp_path, "mine").release()


@pytest.mark.parametrize("reused", [False, True])
def test_without_flock_the_lock_of_a_dead_process_is_taken_over(tmp_path, without_flock, reused):
    gone = {"born": 1} if reused else {"pid": dead_process()}
    write_holder(tmp_path / EXCLUSIVE, **gone)
    held = lock.take(tmp_path, "mine")
    assert lock.read(tmp_path / EXCLUSIVE).experiment == "mine"
    held.release()
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME]


def test_without_flock_what_another_took_over_first_is_put_back(tmp_path, without_flock):
    stale = replace(Holder.here("theirs"), pid=dead_process())
    now = write_holder(tmp_path / EXCLUSIVE)
    lock._remove(tmp_path / EXCLUSIVE, stale)
    assert lock.read(tmp_path / EXCLUSIVE) == now
    assert os.listdir(tmp_path) == [EXCLUSIVE]


def test_without_flock_a_holder_on_another_host_is_named_and_cleared(tmp_path, without_flock):
    write_holder(tmp_path / EXCLUSIVE, host="node7")
    refused = refusal(tmp_path)
    assert "on node7" in str(refused) and "if it runs no more, `frankenlab clear`" in str(refused)
    held = lock.clear(tmp_path)
    assert lock.read(tmp_path / EXCLUSIVE).host == socket.gethostname()
    held.release()


def test_clearing_never_takes_it_from_a_living_process(tmp_path, without_flock):
    write_holder(tmp_path / EXCLUSIVE)
    with pytest.raises(Held):
        lock.clear(tmp_path)
    assert (tmp_path / EXCLUSIVE).is_file()


def test_who_holds_the_locks_below_a_folder(tmp_path):
    assert lock.holders(tmp_path / "results") == []
    held = lock.take(tmp_path / "b", "running")
    lock.take(tmp_path / "a", "done").release()
    for name, changes in (("killed", {"pid": dead_process()}), ("elsewhere", {"host": "node7"})):
        write_holder(tmp_path / name / NAME, experiment=name, **changes)
    assert [h.experiment for h in lock.holders(tmp_path)] == ["running", "elsewhere"]
    assert [path.name for path in lock.folders(tmp_path)] == ["a", "b", "elsewhere", "killed"]
    held.release()


def test_a_child_does_not_give_back_what_its_parent_holds(tmp_path):
    held = lock.take(tmp_path, "mine")
    if (child := os.fork()) == 0:
        held.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert lock.left_by(tmp_path).pid == os.getpid()
    refusal(tmp_path)
    held.release()


@pytest.mark.parametrize("changes", [{"pid": "7"}, {"pid": -1}, {"pid": 2**40}, {"born": 0.5}])
def test_a_damaged_lock_file_names_nobody(tmp_path, changes):
    holder = asdict(Holder.here("e"))
    (tmp_path / "lock").write_text(json.dumps(holder))
    assert lock.read(tmp_path / "lock") == Holder(**holder)
    (tmp_path / "lock").write_text(json.dumps(holder | changes))
    assert lock.read(tmp_path / "lock") is None
