"""The documents that lack rows are tokenized in time, and for a GPU ahead of it."""

import threading
from dataclasses import dataclass, field, replace

import pytest

from frankenlab.engines.torch import TorchEngine
from frankenlab.evaluate import missing
from frankenlab.evaluate.missing import prepared_in_turn
from frankenlab.evaluate.model_spec import ModelSpec
from frankenlab.evaluate.runner import TaskPlans, evaluate_tasks
from frankenlab.io.errors import UserError
from tests.support.evaluation import FEW, spec_of
from tests.support.task_rows import task_settings

SECONDS = 20


@dataclass
class Asked:
    """Stands in for plans and documents; `go` lets it be prepared."""

    error: bool = False
    begun: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)

    def prepared(self) -> "Asked":
        self.begun.set()
        assert self.go.wait(SECONDS)
        self.done.set()
        if self.error:
            raise UserError("document 3: an empty choice")
        return self


@pytest.fixture
def three() -> list[Asked]:
    asked = [Asked(), Asked(), Asked()]
    for each in asked:
        each.go.set()
    return asked


def test_the_next_is_prepared_while_the_caller_works(three):
    found = prepared_in_turn(three, ahead=True)
    assert next(found) is three[0]
    assert three[1].done.wait(SECONDS)
    assert list(found) == three[1:]


def test_on_a_cpu_nothing_is_prepared_that_is_not_asked_for(three):
    found = prepared_in_turn(three, ahead=False)
    assert next(found) is three[0]
    assert not three[1].done.is_set()
    assert list(found) == three[1:]


@pytest.mark.parametrize("ahead", [True, False])
def test_an_error_comes_in_its_turn(three, ahead):
    three[1].error = True
    found = prepared_in_turn(three, ahead)
    assert next(found) is three[0]
    with pytest.raises(UserError, match="empty choice"):
        next(found)


def test_who_goes_early_does_not_wait_for_the_rest(three):
    three[1].go.clear()
    found = prepared_in_turn(three, ahead=True)
    assert next(found) is three[0]
    assert three[1].begun.wait(SECONDS)
    found.close()
    three[1].go.set()
    assert three[1].done.wait(SECONDS)
    assert not three[2].begun.wait(0.1)


def test_tokens_made_ahead_give_the_same_scores(tiny, tmp_path, monkeypatch):
    work = [TaskPlans(task_settings(tmp_path), FEW[:2], limit) for limit in (3, 5)]
    spec, threads = spec_of(tiny()), []
    expected = list(evaluate_tasks(spec, work, None, tmp_path / "cpu"))
    make = missing.document_trees

    def trees(*given):
        threads.append(threading.current_thread())
        return make(*given)

    monkeypatch.setattr(missing, "document_trees", trees)
    monkeypatch.setattr(
        ModelSpec, "load_engine", lambda self: TorchEngine(self.directory, self.precision)
    )
    gpu = replace(spec, device="cuda:0")
    found = list(evaluate_tasks(gpu, work, None, tmp_path / "gpu"))
    assert threads and threading.main_thread() not in threads
    for one, other in zip(found, expected, strict=True):
        assert one.drop(columns="device").equals(other.drop(columns="device"))
