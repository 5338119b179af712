"""Files that experiments share: one workflow makes them, and another waits for it."""

import threading
from pathlib import Path

import pytest

from frankenlab.io.errors import UserError
from frankenlab.runtime import lock, making, places
from frankenlab.runtime.making import Making
from tests.support.processes import one_line

MODEL = Path("resources/models/m-12/manifest.json")
DATA = Path("resources/data/d-34/manifest.json")


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(making, "LOOK_SECONDS", 0.01)


def make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def waiting(other: Making, capsys) -> threading.Thread:
    """The other, which claims both files and has to wait."""
    thread = threading.Thread(target=other.claim, args=([MODEL, DATA], "two"), daemon=True)
    thread.start()
    said = ""
    while "waiting for" not in said:
        said += capsys.readouterr().err
    assert f"waiting for {DATA}: experiment one, process " in one_line(said)
    return thread


def test_the_second_waits_until_the_file_is_there(capsys):
    one, two = Making(), Making()
    one.claim([MODEL, DATA], "one")
    thread = waiting(two, capsys)
    make(DATA)
    make(MODEL)
    thread.join(10)
    assert not thread.is_alive()
    # The first may make both, and the second neither: it would delete what is there.
    assert set(one._rights) == {MODEL, DATA} and not two._rights


def test_the_second_makes_what_the_first_does_not(capsys):
    one, two = Making(), Making()
    one.claim([MODEL, DATA], "one")
    thread = waiting(two, capsys)
    one.plan([MODEL, "results/one/report/index.html"], "one", whole=False)
    assert set(one._rights) == {MODEL, DATA}
    one.plan([MODEL], "one", whole=True)
    make(MODEL)
    thread.join(10)
    assert not thread.is_alive()
    assert set(one._rights) == {MODEL} and set(two._rights) == {DATA}


def test_what_is_there_is_claimed_by_nobody():
    make(DATA)
    one = Making()
    one.claim([DATA], "one")
    assert not one._rights and not making.RIGHTS.exists()
    one.plan([], "one", whole=True)


def test_what_is_there_is_not_made_again_while_another_experiment_runs(monkeypatch):
    make(MODEL)
    # A process may run several.
    held = [lock.take(f"results/{name}", name) for name in ("one", "two")]
    one = Making()
    one.plan([MODEL], "one", whole=True)
    # What starts now waits for it, and finds the new one.
    MODEL.unlink()
    with pytest.raises(UserError, match=f"^{MODEL} is being made by experiment one, process "):
        Making().plan([MODEL], "two", whole=True)
    make(MODEL)
    monkeypatch.setattr(making.os, "getpid", lambda: 1)
    with pytest.raises(UserError) as caught:
        Making().plan([MODEL], "three", whole=True)
    assert one_line(caught).startswith(f"{MODEL} is to be made again, and experiment one, process ")
    monkeypatch.undo()
    for each in held:
        each.release()


def test_an_experiment_below_a_prefix_may_be_using_it_too(monkeypatch):
    make(MODEL)
    places.note(Path("moved/results"))
    held = lock.take("moved/results/two", "two")
    monkeypatch.setattr(making.os, "getpid", lambda: 1)
    with pytest.raises(UserError, match=f"^{MODEL} is to be made again, and experiment two, "):
        Making().plan([MODEL], "three", whole=True)
    monkeypatch.undo()
    held.release()


def test_what_was_made_between_two_looks_is_not_claimed(monkeypatch):
    take = lock.take

    def late(*arguments):
        make(MODEL)
        return take(*arguments)

    monkeypatch.setattr(lock, "take", late)
    one = Making()
    one.claim([MODEL], "one")
    assert not one._rights
