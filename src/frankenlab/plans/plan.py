"""What a franken is: the order in which the decoder layers of one model run.

`steps` has the grammar of the texts. `base` is the whole model in order. Two texts that mean the
same list of steps are one plan, and `Plan.text` is the canonical one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
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
        _check_steps(n_layers + (stop - start) * (times - 1))
        again = _whole(n_layers, part, scale)[start:stop] * (times - 1)
        return Plan(layers[:stop] + again + layers[stop:], n_layers)


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
