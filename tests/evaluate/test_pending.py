"""Results that are on their way from a GPU while the host goes on: by stand-ins for the device."""

import logging
import signal
from collections import Counter

import pytest
import torch
from torch._C import DispatchKey
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from frankenlab.engines.token_tree import TokenRequest, token_tree
from frankenlab.engines.torch import TorchEngine
from frankenlab.evaluate import missing, runner, sweep
from frankenlab.evaluate.sweep import Pending, arrived
from frankenlab.io.errors import UserError
from frankenlab.io.signals import Stopped
from frankenlab.plans.plan import Window, looped
from tests.support.engines import DOCUMENTS, Wrapped, tokens
from tests.support.models import parse_all

PLANS = [looped(i, 3, k, 4) for i in range(2) for k in (2, 3, 4)]
PLANS += [Window(1, 3, 3, 0.5).plan(4), *parse_all(["0:2", "base", "0:3,3@attn"])]
SHOTS = tokens(9, 40)
TREES = {f"d{n}": token_tree(requests) for n, requests in enumerate(DOCUMENTS)}
SHOT_TREES = {
    f"d{n}": token_tree(TokenRequest(SHOTS + r.context, r.continuation) for r in requests)
    for n, requests in enumerate(DOCUMENTS)
}


class Device:
    """Finishes a result when `lag` further ones were asked for, or when it is waited for.

    Until then there is NaN where the numbers will be.
    """

    def __init__(self, lag: int) -> None:
        self.lag, self.arrivals, self.finished, self.most = lag, [], 0, 0

    def arrival(self, *tensors: torch.Tensor) -> "Late":
        self.arrivals.append(Late(self, len(self.arrivals), tensors))
        self.finish(len(self.arrivals) - self.lag)
        self.most = max(self.most, self.on_their_way())
        return self.arrivals[-1]

    def on_their_way(self) -> int:
        return len(self.arrivals) - self.finished

    @torch.inference_mode()
    def finish(self, count: int) -> None:
        for one in self.arrivals[self.finished : count]:
            for here, there in zip(one.tensors, one.there, strict=True):
                here.copy_(there)
        self.finished = max(self.finished, count)


class Late:
    """An `Arrival` from such a device."""

    def __init__(self, device, number, tensors):
        self.device, self.number, self.there = device, number, tensors
        self.tensors = (torch.full_like(tensors[0], float("nan")), torch.zeros_like(tensors[1]))

    def is_here(self):
        return self.number < self.device.finished

    def wait(self):
        self.device.finish(self.number + 1)


@pytest.fixture
def device(request, monkeypatch):
    """Return a device with the lag that a test asks for, or 3; at most 5 results may wait."""
    monkeypatch.setattr(sweep, "MOST_PENDING", 5)
    made = Device(getattr(request, "param", 3))
    monkeypatch.setattr(sweep, "Arrival", made.arrival)
    return made


class Rows(list):
    """What a run stores: a buffer that keeps everything."""

    def add(self, rows):
        self.extend(rows)

    def flush(self):
        pass


def score(engine, plans=PLANS, budget=200, rows=None) -> Rows:
    """Score the documents in two batches as an evaluation does."""
    rows = Rows() if rows is None else rows
    work = [missing.Work(list(TREES), plans)]
    runner._score_missing(engine, work, TREES, rows, budget, "t", lambda: None)
    return rows


def pairs(rows: Rows) -> Counter:
    return Counter((row.plan, row.requests) for row in rows)


class Spy(Wrapped):
    """Notes how many results are on their way when a batch begins, and may fail at a score."""

    def __init__(self, engine, device, fail_at=0, fail=lambda: None):
        super().__init__(engine)
        self.pending, self.at_begin, self.scores = device, [], 0
        self.fail_at, self.fail = fail_at, fail

    def place(self, batch):
        self.at_begin.append(self.pending.on_their_way())
        return super().place(batch)

    def score(self, hidden, batch):
        self.scores += 1
        if self.scores == self.fail_at:
            self.fail()
        return super().score(hidden, batch)


@pytest.mark.parametrize("device", [1, 3, 1000], indirect=True)
def test_late_results_are_the_same_in_the_same_order_and_batches_begin_meanwhile(tiny, device):
    spy = Spy(TorchEngine(tiny(), "float32"), device)
    found = score(spy)
    assert len(device.arrivals) == len(PLANS) * len(spy.at_begin)
    assert spy.at_begin[0] == 0 and set(spy.at_begin[1:]) == {min(device.lag, 5)}
    assert device.most == min(device.lag, 6)
    assert len(found) == len(PLANS) * len(TREES) and device.on_their_way() == 0


def test_late_results_are_those_of_a_device_that_does_not_lag(tiny, monkeypatch):
    engine = TorchEngine(tiny(), "float32")
    expected = score(engine)
    monkeypatch.setattr(sweep, "Arrival", Device(5).arrival)
    assert score(engine) == expected


def test_on_a_cpu_every_result_is_there_before_the_next_is_asked_for(tiny):
    engine = TorchEngine(tiny(), "float32")
    results = sweep.score_documents(engine, PLANS[:3], TREES)
    assert all(pending.is_here() for _, pending in results)
    given, taken = [], []
    for plan, _ in arrived(
        (given.append(p) or p, r) for p, r in sweep.score_documents(engine, PLANS[:3], TREES)
    ):
        taken.append(plan)
        assert given == taken


def no_memory():
    raise torch.OutOfMemoryError("no memory")


@pytest.mark.parametrize("fail_at", [1, 6, len(PLANS), len(PLANS) + 1, len(PLANS) + 6])
def test_memory_that_runs_out_with_results_on_their_way_loses_and_doubles_none(
    tiny, device, caplog, fail_at
):
    engine = TorchEngine(tiny(), "float32")
    with caplog.at_level(logging.WARNING):
        found = score(Spy(engine, device, fail_at, no_memory))
    assert "out of memory" in caplog.text
    assert pairs(found) == Counter({(p.text, name): 1 for p in PLANS for name in TREES})
    assert device.on_their_way() == 0


def test_what_was_asked_for_before_an_error_is_kept(tiny, device):
    def fail():
        raise ZeroDivisionError("by zero")

    rows, count = Rows(), len(PLANS) + 6
    spy = Spy(TorchEngine(tiny(), "float32"), device, count, fail)
    with pytest.raises(ZeroDivisionError, match="by zero"):
        score(spy, rows=rows)
    assert len({(r.plan, r.requests) for r in rows}) == len(rows)
    assert len(Counter(row.plan for row in rows)) == len(PLANS)
    assert device.finished == count - 1


def test_a_signal_keeps_what_is_there_and_waits_for_nothing(tiny, device):
    """A batch of all documents; the fifth plan is asked for when the signal comes."""

    def stop():
        raise Stopped(signal.SIGTERM)

    rows = Rows()
    with pytest.raises(Stopped) as stopped:
        score(Spy(TorchEngine(tiny(), "float32"), device, 5, stop), budget=10_000, rows=rows)
    # Four were asked for, of which the device has finished one.
    assert len(rows) == len(TREES) and device.finished == 1
    assert stopped.value.kept.startswith(f"{len(rows)} of ")


def test_a_signal_during_the_waiting_loses_no_result_that_is_there():
    class Interrupted:
        waited = 0

        def is_here(self):
            return self.waited > 0

        def wait(self):
            self.waited += 1
            if self.waited == 1:
                raise KeyboardInterrupt

    found = []
    with pytest.raises(KeyboardInterrupt):
        for key, value in arrived([("a", Pending(lambda: 1, Interrupted()))]):
            found.append((key, value))
    assert found == [("a", 1)]


def test_nan_on_its_way_names_its_plan_and_step_and_is_not_stored(tiny, device):
    engine = TorchEngine(tiny(), "float32")
    engine.layers[3].down[0, 0] = float("nan")
    healthy, *poisoned = parse_all(["0:3", "0:3,3", "0:3,3,3"])
    later = [looped(0, 2, k, 4) for k in range(2, 9)]
    rows = Rows()
    with pytest.raises(UserError, match=r'plan "base": NaN .* step 4 of 4, layer 3 \(block\)'):
        score(engine, [healthy, *poisoned, *later], budget=10_000, rows=rows)
    assert {row.plan for row in rows} == {"0:3"}


class Synchronized(AssertionError):
    """The host would have waited for the device."""


class Asynchronous(TorchDispatchMode):
    """Fails where the host would wait for the device, for which "meta" stands.

    Of copies it lets pass those to the device that do not block.
    """

    WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "item", "masked_select")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd):
            # As it comes in inference mode: made of others, which are looked at.
            with self:
                return function.decompose(*args, **kwargs)
        name = function.name().removeprefix("aten::").partition(".")[0]
        tensors = [x for x in tree_leaves((args, kwargs)) if torch.is_tensor(x)]
        given = {x.device.type for x in tensors}
        by_booleans = name == "index" and any(x.dtype == torch.bool for x in tensors[1:])
        if "meta" in given and (name in self.WAITING or by_booleans):
            raise Synchronized(name)
        made = function(*args, **kwargs)
        if name in ("_to_copy", "copy_"):
            target = made.device.type
            sent = target == "meta" and "cpu" in given
            goes_on = kwargs.get("non_blocking") or (name == "copy_" and args[2:] == (True,))
            if (target == "cpu" and "meta" in given) or (sent and not goes_on):
                raise Synchronized(f"{name} to {target}")
        return made


class Anywhere:
    """An `Arrival` of a device without numbers."""

    made = 0

    def __init__(self, *given):
        assert all(x.device.type == "meta" for x in given)
        type(self).made += 1
        self.tensors = tuple(torch.zeros(x.shape, dtype=x.dtype) for x in given)

    def is_here(self):
        return False

    def wait(self):
        pass


@pytest.fixture
def without_numbers(tiny, monkeypatch):
    """Return a function: a layout -> an engine on the device that has no numbers to wait for."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(sweep, "Arrival", Anywhere)
    monkeypatch.setattr(Anywhere, "made", 0)

    def make(layout, variant="all-biases"):
        engine = TorchEngine(tiny(variant), "bfloat16", "meta")
        engine.layout = layout
        return engine

    return make


@pytest.mark.parametrize("layout", ["rows", "flat"])
@pytest.mark.parametrize("trees", [TREES, SHOT_TREES], ids=["alone", "after shots"])
def test_nothing_in_a_sweep_waits_for_the_device(without_numbers, layout, trees):
    engine = without_numbers(layout)
    plans = [*PLANS[-4:], *parse_all(["0:3,1:4", "0,1@attn*0.5,1:4"])]
    work, rows = [missing.Work(list(trees), plans)], Rows()
    with Asynchronous():
        runner._score_missing(engine, work, trees, rows, 200, "t", lambda: None)
    assert len(rows) == len(plans) * len(trees) and Anywhere.made >= 2 * len(plans)


def looks(hidden):
    bool((hidden > 0).any())


def selects(hidden):
    hidden[torch.ones(len(hidden), dtype=torch.bool, device=hidden.device)]


def fetches(hidden):
    hidden.cpu()


def sends(hidden):
    hidden[torch.zeros(2, dtype=torch.int64).to(hidden.device)]


@pytest.mark.parametrize("wait", [looks, selects, fetches, sends])
def test_waiting_for_the_device_would_be_seen(without_numbers, wait):
    class Waiting(Wrapped):
        def finish(self, step, hidden, batch, start=None):
            wait(hidden)
            return super().finish(step, hidden, batch, start)

    with Asynchronous(), pytest.raises(Synchronized):
        score(Waiting(without_numbers("rows")), PLANS[:1])
