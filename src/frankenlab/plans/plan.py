"""What a franken is: the order in which the decoder layers of one model run.

The grammar, over layer numbers that start at 0 and half-open ranges (as in Python and in
mergekit's `layer_range`):

    plan    := segment ("," segment)*
    segment := range ["x" times] ["@" part] ["*" scale]
    range   := layer | start ":" stop

`base` is the whole model in order. Two texts that mean the same list of steps are one plan, and
`Plan.text` is the canonical one. A plan runs at most `MAX_STEPS` layers, and a scale is between
`MIN_SCALE` and `MAX_SCALE` in size, so that a slip of a digit is refused instead of filling the
memory. A step names a layer of one model; a second source model (stacking layers of two models)
would be one more field of `Step`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby, pairwise
from typing import NamedTuple

from frankenlab.io.errors import UserError, excerpt, printable
from frankenlab.io.files import content_hash

# Far beyond what anybody means: the deepest published models have some 130 layers.
MAX_LAYERS = 1_000
MAX_STEPS = 10_000
MIN_SCALE, MAX_SCALE = 1e-9, 1e6
MAX_DIGITS = 9

PARTS = ("block", "attn", "mlp")
BASE = "base"

_SEGMENT = re.compile(
    r"(?P<start>[0-9]+)(?::(?P<stop>[0-9]+))?"
    r"(?:x(?P<times>[0-9]+))?"
    r"(?:@(?P<part>[A-Za-z_]+))?"
    r"(?:\*(?P<scale>[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?))?"
)


@dataclass(frozen=True, order=True, slots=True)
class Step:
    """One occurrence of a layer: hidden + scale * f(hidden), f being the part's residual update.

    `part` is "block" (attention, then MLP), "attn" or "mlp".
    """

    layer: int
    part: str = "block"
    scale: float = 1.0

    @property
    def parts(self) -> tuple[str, ...]:
        """Return "attn", "mlp" or both."""
        return PARTS[1:] if self.part == "block" else (self.part,)

    @property
    def attends(self) -> bool:
        """Tell whether the occurrence needs a slot in the KV cache."""
        return self.part != "mlp"

    @property
    def depth(self) -> float:
        """Return 1 for a whole layer and one half for its attention or its MLP."""
        return len(self.parts) / 2


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
        return ",".join(_texts(self.steps))

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
        from `start` to just before `stop`."""
        whole, n_steps = _whole(self.n_layers), len(self.steps)
        most = min(n_steps, self.n_layers)
        start = next((i for i in range(most) if self.steps[i] != whole[i]), most)
        alike = range(1, most - start + 1)
        after = next((i - 1 for i in alike if self.steps[-i] != whole[-i]), most - start)
        return start, self.n_layers - after, self.steps[start : n_steps - after]

    @cached_property
    def changes(self) -> "tuple[Change, ...] | None":
        """Return the ranges of layers that run more or less often than in the base, in order.

        None if the plan is more than the base with such changes of ranges that do not overlap.
        """
        found = tuple(_changes(self))
        apart = all(one.stop <= other.start for one, other in pairwise(found))
        return found if apart and changed(found, self.n_layers).steps == self.steps else None

    @property
    def change(self) -> "Change | None":
        """Return the one range of layers whose number of runs sets the plan apart from the base.

        `0:20,10:30` is (10, 20, 2, "block", 1.0), `0:10,8:10x2@attn*0.5,10:30` is (8, 10, 3,
        "attn", 0.5), and `0:5,7:30` is (5, 7, 0, "block", 1.0): layers 5 and 6 are left out. The
        base and every other plan have None.
        """
        return self.changes[0] if self.changes and len(self.changes) == 1 else None

    @property
    def loop(self) -> tuple[int, int, int] | None:
        """Return (start, stop, times) of the block that the base runs `times` times in a row.

        RYS's (i, j) is the loop (i, j, 2). The base and every other plan have None.
        """
        change = self.change
        if change is None or change.times < 2 or change[3:] != ("block", 1.0):
            return None
        return change[:3]

    def __str__(self) -> str:
        return self.text


def base(n_layers: int) -> Plan:
    """Return the unmodified model: every layer once, in order."""
    return Plan(_whole(n_layers), n_layers)


class Change(NamedTuple):
    """A range of layers, or a part of each, that runs `times` times where the base runs it once.

    The runs after the first follow the whole range and add `scale` times their update; with
    `times` 0 the range, or the part of each of its layers, is left out.
    """

    start: int
    stop: int
    times: int
    part: str = "block"
    scale: float = 1.0

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
    check_steps(n_layers + sum((c.stop - c.start) * max(c.times - 1, 0) for c in changes))
    steps = list(_whole(n_layers))
    # The last is made first: the places of the others stay.
    for start, stop, times, part, scale in changes:
        if times:
            steps[stop:stop] = _whole(n_layers, part, scale)[start:stop] * (times - 1)
        else:
            other = "mlp" if part == "attn" else "attn"
            steps[start:stop] = () if part == "block" else _whole(n_layers, other)[start:stop]
    if not steps:
        raise UserError(f"a plan without all {n_layers} layers would run none")
    return Plan(tuple(steps), n_layers)


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


def check_steps(count: int) -> None:
    """Refuse a plan that would run more than `MAX_STEPS` layers."""
    if count > MAX_STEPS:
        raise UserError(f"a plan would run {count:,} layers, at most {MAX_STEPS:,} can be")


def looped(start: int, stop: int, times: int, n_layers: int) -> Plan:
    """Return the base with the block `start:stop` run `times` times in a row.

    Raises:
        UserError: it would run more than `MAX_STEPS` layers.
    """
    return Change(start, stop, times).plan(n_layers)


@cache
def _whole(n_layers: int, part: str = "block", scale: float = 1.0) -> tuple[Step, ...]:
    """Return a step for every layer; the plans of a grid share them, which saves memory."""
    return tuple(Step(layer, part, scale) for layer in range(n_layers))


def from_steps(steps: Iterable[Step], n_layers: int) -> Plan:
    """Return the canonical plan of a list of steps."""
    merged: list[Step] = []
    for step in steps:
        if step == Step(step.layer, "mlp") and merged and merged[-1] == Step(step.layer, "attn"):
            merged[-1] = Step(step.layer)
        else:
            merged.append(step)
    return Plan(tuple(merged), n_layers)


def parse(text: str, n_layers: int) -> Plan:
    """Return the plan that `text` means for a model of `n_layers` layers.

    Raises:
        UserError: with the text, a caret under the fault and the model's number of layers.
    """
    if text.strip() == BASE:
        return base(n_layers)
    steps: list[Step] = []
    offset = 0
    for segment in text.split(","):
        lead = len(segment) - len(segment.lstrip())
        room = MAX_STEPS - len(steps)
        steps += _segment_steps(segment.strip(), text, offset + lead, n_layers, room)
        offset += len(segment) + 1
    return from_steps(steps, n_layers)


def _segment_steps(
    segment: str, text: str, offset: int, n_layers: int, room: int
) -> Iterator[Step]:
    """Return the steps of one segment, at most `room` of them."""
    match = _SEGMENT.match(segment)
    if not match:
        raise _fault(text, offset, "a layer or start:stop is expected here", n_layers)

    def fault(name: str, what: str) -> UserError:
        return _fault(text, offset + match.start(name), what, n_layers)

    if match.end() != len(segment):
        allowed = 'after a range come "x" times, "@" part and "*" scale, in this order'
        raise _fault(text, offset + match.end(), f"unexpected text; {allowed}", n_layers)
    start = number(match["start"])
    stop = start + 1 if match["stop"] is None else number(match["stop"])
    for name, value, limit in (("start", start, n_layers - 1), ("stop", stop, n_layers)):
        if match[name] is not None and value > limit:
            given = excerpt(match[name])
            raise fault(name, f"{given} is too large, at most {limit} can stand here")
    if stop <= start:
        raise fault("stop", f"the range {start}:{stop} is empty, its stop must be above its start")
    times = number(match["times"] or "1")
    if times < 1:
        raise fault("times", "times must be 1 or more")
    if times * (stop - start) > room:
        name = "times" if match["times"] else "start"
        raise fault(name, f"this is too much, a plan runs at most {MAX_STEPS:,} layers")
    part = match["part"] or "block"
    if part not in PARTS:
        raise fault("part", f"unknown part, one of {', '.join(PARTS)} is expected")
    scale = float(match["scale"] or 1)
    if not MIN_SCALE <= abs(scale) <= MAX_SCALE:
        what = "the scale must be finite and not 0 (a step of scale 0 does nothing)"
        raise fault("scale", f"{what}, in size from {MIN_SCALE:g} to {MAX_SCALE:g}")
    return (Step(layer, part, scale) for _ in range(times) for layer in range(start, stop))


def number(digits: str) -> int:
    """Return the number, or one that is too large everywhere if it has too many digits."""
    significant = digits.lstrip("0")
    # Python refuses to read a number of thousands of digits.
    return 10**MAX_DIGITS if len(significant) > MAX_DIGITS else int(significant or 0)


def _fault(text: str, position: int, what: str, n_layers: int) -> UserError:
    """Return the error whose second and third line are the text and a caret under its fault.

    A long text is shown around the fault only.
    """
    shown = printable(text)
    start, stop = 0, len(shown)
    if stop > 80:
        start, stop = max(0, position - 40), min(stop, position + 40)
    head, tail = "..." if start else "", "..." if stop < len(shown) else ""
    part = f"{head}{shown[start:stop]}{tail}"
    return UserError(
        f'plan "{excerpt(shown)}": {what} (the model has {n_layers} layers, 0 to {n_layers - 1})\n'
        f"  {part}\n  {' ' * (len(head) + position - start)}^"
    )


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
    return excerpt(",".join(_texts([Step(layer) for layer in layers])), 40)


def _texts(steps: Sequence[Step]) -> Iterator[str]:
    """Yield canonical segments: maximal ascending runs, equal neighbours folded into `x` times."""
    for (start, stop, part, scale), group in groupby(_runs(steps)):
        times = len(list(group))
        yield (
            (f"{start}" if stop == start + 1 else f"{start}:{stop}")
            + (f"x{times}" if times > 1 else "")
            + (f"@{part}" if part != "block" else "")
            + (f"*{scale!r}".removesuffix(".0") if scale != 1 else "")
        )


def _runs(steps: Sequence[Step]) -> Iterator[tuple[int, int, str, float]]:
    start = 0
    for i in range(1, len(steps) + 1):
        last = steps[i - 1]
        if i == len(steps) or steps[i] != Step(last.layer + 1, last.part, last.scale):
            yield steps[start].layer, last.layer + 1, last.part, last.scale
            start = i
