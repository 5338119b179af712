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
from itertools import groupby
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
    def change(self) -> "Change | None":
        """Return the one range of layers whose number of runs sets the plan apart from the base.

        `0:20,10:30` is (10, 20, 2, "block", 1.0), `0:10,8:10x2@attn*0.5,10:30` is (8, 10, 3,
        "attn", 0.5), and `0:5,7:30` is (5, 7, 0, "block", 1.0): layers 5 and 6 are left out. The
        base and every other plan have None.
        """
        whole = _whole(self.n_layers)
        pairs = enumerate(zip(self.steps, whole, strict=False))
        alike = min(len(self.steps), len(whole))
        first = next((place for place, (own, step) in pairs if own != step), alike)
        found = _left_out(self, first) or _run_again(self, first)
        return found if found and found.plan(self.n_layers).steps == self.steps else None

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
        start, stop, times, part, scale = self
        layers = _whole(n_layers)
        if times == 0:
            left = [_whole(n_layers, other)[start:stop] for other in PARTS[1:] if other != part]
            kept = layers[:start] + (left[0] if part != "block" else ()) + layers[stop:]
            if not kept:
                raise UserError(f"a plan without the layers {start}:{stop} would run no layer")
            return Plan(kept, n_layers)
        count = n_layers + (stop - start) * (times - 1)
        if count > MAX_STEPS:
            raise UserError(f"a plan would run {count:,} layers, at most {MAX_STEPS:,} can be")
        again = _whole(n_layers, part, scale)[start:stop] * (times - 1)
        return Plan(layers[:stop] + again + layers[stop:], n_layers)


def looped(start: int, stop: int, times: int, n_layers: int) -> Plan:
    """Return the base with the block `start:stop` run `times` times in a row.

    Raises:
        UserError: it would run more than `MAX_STEPS` layers.
    """
    return Change(start, stop, times).plan(n_layers)


def _left_out(plan: Plan, first: int) -> Change | None:
    """Return what a plan leaves out from the step `first` on, if it leaves one range out.

    The plan's steps before `first` are the base's.
    """
    rest = plan.steps[first:]
    if len(plan.steps) < plan.n_layers:
        return Change(first, rest[0].layer if rest else plan.n_layers, 0)
    if not rest or rest[0].layer != first or rest[0].part == "block":
        return None
    kept = rest[0].part
    count = next((i for i, step in enumerate(rest) if step.part != kept), len(rest))
    return Change(first, first + count, 0, "mlp" if kept == "attn" else "attn")


def _run_again(plan: Plan, first: int) -> Change | None:
    """Return what a plan runs again from the step `first` on, if it runs one range again."""
    extra = len(plan.steps) - plan.n_layers
    if extra <= 0:
        return None
    start, part, scale = plan.steps[first].layer, plan.steps[first].part, plan.steps[first].scale
    if start >= first or extra % (first - start):
        return None
    return Change(start, first, 1 + extra // (first - start), part, scale)


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
