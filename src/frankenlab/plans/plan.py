"""What a franken is: the order in which the decoder layers of one model run.

`steps` has the grammar of the texts. `base` is the whole model in order. Two texts that mean the
same list of steps are one plan, and `Plan.text` is the canonical one.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import NamedTuple

from frankenlab.io.errors import UserError, excerpt
from frankenlab.io.files import content_hash
from frankenlab.plans.steps import MAX_STEPS, PARTS, Step, canonical, damped, read, texts

BASE = "base"


@dataclass(frozen=True)
class Plan:
    """A list of steps over a model of `n_layers` decoder layers, in canonical form.

    Equality is equality of steps: build it with `parse` or `from_steps`, which merge an `attn`
    followed by the `mlp` of the same layer into the `block` that they are.
    """

    steps: tuple[Step, ...]
    n_layers: int

    @cached_property
    def text(self) -> str:
        """Return the canonical text, of which `parse(text, n_layers)` makes the same plan."""
        if self.steps == base(self.n_layers).steps:
            return BASE
        return ",".join(texts(self.steps))

    @cached_property
    def key(self) -> str:
        """Return eight hexadecimal digits, for places that are too small for the text."""
        return content_hash([self.n_layers, self.text], 8)

    @property
    def depth(self) -> float:
        """Return how many layers run; an `attn` or `mlp` occurrence counts as one half."""
        return sum(step.depth for step in self.steps)

    @cached_property
    def edit(self) -> tuple[int, int, tuple[Step, ...]]:
        """Return (start, stop, steps): the plan is the base with `steps` instead of its layers
        from `start` to just before `stop`. No window begins before `start`."""
        whole, n_steps = _whole(self.n_layers), len(self.steps)
        most = min(n_steps, self.n_layers)
        start = next((i for i in range(most) if self.steps[i] != whole[i]), most)
        alike = range(1, most - start + 1)
        after = next((i - 1 for i in alike if self.steps[-i] != whole[-i]), most - start)
        windows = (i + 1 - step.span for i, step in enumerate(self.steps) if step.span > 1)
        start = min(start, *windows, self.n_layers)
        return start, self.n_layers - after, self.steps[start : n_steps - after]

    @cached_property
    def changes(self) -> "tuple[Change, ...] | None":
        """Return the ranges of layers that run more or less often than in the base, in order.

        None if the plan is more than the base with such changes of ranges that do not overlap, and
        for ranges whose layers run again at their places.
        """
        found = tuple(_changes(self))
        apart = all(one.stop <= other.start for one, other in pairwise(found))
        return found if apart and changed(found, self.n_layers).steps == self.steps else None

    @cached_property
    def change(self) -> "Change | None":
        """Return the one range of layers whose number of runs sets the plan apart from the base.

        `0:20,10:30` is (10, 20, 2, "block", 1.0, False), `0:10,8:10x2@attn*0.5,10:30` is (8, 10, 3,
        "attn", 0.5, False), and `0:5,7:30` is (5, 7, 0, "block", 1.0, False): layers 5 and 6 are
        left out. The base and every other plan have None.
        """
        if self.changes is not None and len(self.changes) < 2:
            return self.changes[0] if self.changes else None
        found = _in_place(self)
        return found if found and found.plan(self.n_layers).steps == self.steps else None

    @property
    def loop(self) -> tuple[int, int, int] | None:
        """Return (start, stop, times) of the block that the base runs `times` times in a row.

        RYS's (i, j) is the loop (i, j, 2). The base and every other plan have None.
        """
        change = self.change
        if change is None or change.times < 2 or change[3:] != ("block", 1.0, False):
            return None
        return change[:3]

    @cached_property
    def window(self) -> "Window | None":
        """Return the one window of layers whose damped passes set the plan apart from the base.

        `0:10,(10:14)x3*0.5,14:30` is (10, 14, 3, 0.5). The base and every other plan have None.
        """
        closing = [step for step in self.steps if step.scale != 1]
        if not closing:
            return None
        last, times = closing[0], len(closing)
        found = Window(last.layer + 1 - last.span, last.layer + 1, times, last.scale)
        if found.start < 0 or len(self.steps) != self.n_layers + last.span * (times - 1):
            return None
        return found if found.plan(self.n_layers).steps == self.steps else None

    def __str__(self) -> str:
        return self.text


def base(n_layers: int) -> Plan:
    """Return the unmodified model: every layer once, in order."""
    return Plan(_whole(n_layers), n_layers)


class Change(NamedTuple):
    """A range of layers, or a part of each, that runs `times` times where the base runs it once.

    The runs after the first follow the whole range and add `scale` times their update; with
    `times` 0 the range, or the part of each of its layers, is left out. With `in_place` each layer
    runs again before the next one runs, and its attention before its MLP.
    """

    start: int
    stop: int
    times: int
    part: str = "block"
    scale: float = 1.0
    in_place: bool = False

    def plan(self, n_layers: int) -> Plan:
        """Return the base with this change.

        Raises:
            UserError: it would run more than `MAX_STEPS` layers, or none.
        """
        return changed([self], n_layers)


def changed(changes: Iterable[Change], n_layers: int) -> Plan:
    """Return the base with changes of ranges that do not overlap.

    Raises:
        UserError: it would run more than `MAX_STEPS` layers, or none.
    """
    changes = sorted(changes, reverse=True)
    _check_steps(n_layers + sum((c.stop - c.start) * max(c.times - 1, 0) for c in changes))
    steps = list(_whole(n_layers))
    # The last is made first: the places of the others stay.
    for start, stop, times, part, scale, in_place in changes:
        again = _whole(n_layers, part, scale)
        if times and in_place:
            steps[start:stop] = [
                step
                for layer in range(start, stop)
                for step in _repeated(layer, [again[layer]] * (times - 1))
            ]
        elif times:
            steps[stop:stop] = again[start:stop] * (times - 1)
        else:
            other = "mlp" if part == "attn" else "attn"
            steps[start:stop] = () if part == "block" else _whole(n_layers, other)[start:stop]
    if not steps:
        raise UserError(f"a plan without all {n_layers} layers would run none")
    return Plan(tuple(steps), n_layers)


def _repeated(layer: int, again: Sequence[Step]) -> list[Step]:
    """Return the canonical steps of one layer with more runs at its place."""
    if not again or again[0].part != "attn":
        return [Step(layer), *again]
    if again[0].scale == 1:
        return [*again, Step(layer)]
    return [Step(layer, "attn"), *again, Step(layer, "mlp")]


class Window(NamedTuple):
    """A range of layers that runs `times` times where the base runs it once, with each pass damped
    as a whole: h + beta * (g(h) - h), with g for the range (see `steps`)."""

    start: int
    stop: int
    times: int
    beta: float

    def plan(self, n_layers: int) -> Plan:
        """Return the base with this window.

        Raises:
            UserError: it would run more than `MAX_STEPS` layers.
        """
        start, stop, times, beta = self
        _check_steps(n_layers + (stop - start) * (times - 1))
        layers = _whole(n_layers)
        passes = damped(layers[start:stop], beta) * times
        return Plan(layers[:start] + passes + layers[stop:], n_layers)


def _check_steps(count: int) -> None:
    """Check how many layers a plan would run.

    Raises:
        UserError: more than `MAX_STEPS`.
    """
    if count > MAX_STEPS:
        raise UserError(f"a plan would run {count:,} layers, at most {MAX_STEPS:,} can be")


def looped(start: int, stop: int, times: int, n_layers: int) -> Plan:
    """Return the base with the block `start:stop` run `times` times in a row.

    Raises:
        UserError: it would run more than `MAX_STEPS` layers.
    """
    return Change(start, stop, times).plan(n_layers)


def _changes(plan: Plan) -> Iterator[Change]:
    """Yield the changes that make the plan from its base, as far as there are any that do."""
    steps, whole = plan.steps, _whole(plan.n_layers)
    place = layer = 0  # of the plan's next step, and of the base's
    while place < len(steps):
        step = steps[place]
        start = layer
        if step.layer < layer:
            again = _whole(plan.n_layers, step.part, step.scale)[step.layer : layer]
            times = 1
            while steps[place : place + len(again)] == again:
                place, times = place + len(again), times + 1
            if times == 1:
                return
            yield Change(step.layer, layer, times, step.part, step.scale)
        elif step.layer > layer:
            layer = step.layer
            yield Change(start, layer, 0)
        elif step == whole[layer]:
            place, layer = place + 1, layer + 1
        else:
            while layer < plan.n_layers and steps[place : place + 1] == (Step(layer, step.part),):
                place, layer = place + 1, layer + 1
            if layer == start:
                return
            yield Change(start, layer, 0, "mlp" if step.part == "attn" else "attn")
    if layer < plan.n_layers:
        yield Change(layer, plan.n_layers, 0)


def _in_place(plan: Plan) -> Change | None:
    """Return the change at their place that would explain a plan's steps, if there is one."""
    layers = [step.layer for step in plan.edit[2]]
    if not layers:
        return None
    start, stop = min(layers), max(layers) + 1
    counts = [sum(part in step.parts for step in plan.steps) for part in PARTS[1:]]
    extra = max(counts) - plan.n_layers
    if extra <= 0 or extra % (stop - start):
        return None
    part = "block" if counts[0] == counts[1] else PARTS[1 + counts.index(max(counts))]
    scale = next((step.scale for step in plan.steps if step.scale != 1), 1.0)
    return Change(start, stop, 1 + extra // (stop - start), part, scale, in_place=True)


@cache
def _whole(n_layers: int, part: str = "block", scale: float = 1.0) -> tuple[Step, ...]:
    """Return a step for every layer; the plans of a grid share them, which saves memory."""
    return tuple(Step(layer, part, scale) for layer in range(n_layers))


def from_steps(steps: Iterable[Step], n_layers: int) -> Plan:
    """Return the canonical plan of a list of steps (see `steps.canonical`)."""
    return Plan(canonical(steps), n_layers)


def parse(text: str, n_layers: int) -> Plan:
    """Return the plan that `text` means for a model of `n_layers` layers.

    Raises:
        UserError: with the text, a caret under the fault and the model's number of layers.
    """
    if text.strip() == BASE:
        return base(n_layers)
    return from_steps(read(text, n_layers), n_layers)


def omissions(plan: Plan) -> str:
    """Return in words which layers or parts a plan never runs and whether it ends before the last
    layer; "" if neither.

    Such a plan is legal and usually a slip: `0:20,10:30` was written for a model of 30 layers.
    """
    run = {(step.layer, part) for step in plan.steps for part in step.parts}
    skipped: dict[str, list[int]] = {"": [], "attention of ": [], "MLP of ": []}
    for layer in range(plan.n_layers):
        attends, feeds = (layer, "attn") in run, (layer, "mlp") in run
        if not (attends and feeds):
            kind = "attention of " if feeds else "MLP of " if attends else ""
            skipped[kind].append(layer)
    found = [
        f"never runs the {kind}{'layers' if len(layers) > 1 else 'layer'} {_listed(layers)}"
        for kind, layers in skipped.items()
        if layers
    ]
    last = plan.steps[-1].layer
    if last != plan.n_layers - 1:
        found.append(f"ends with layer {last}")
    if not found:
        return ""
    return f"{' and '.join(found)} (the model has {plan.n_layers} layers, 0 to {plan.n_layers - 1})"


def _listed(layers: Sequence[int]) -> str:
    """Return the layers as the ranges of a plan, the first few of them."""
    return excerpt(",".join(texts([Step(layer) for layer in layers])), 40)
