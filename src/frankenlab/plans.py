"""What a franken is: the order in which the decoder layers of one model run.

The grammar, over layer numbers that start at 0 and half-open ranges (as in Python and in
mergekit's `layer_range`):

    plan    := segment ("," segment)*
    segment := range ["x" times] ["@" part] ["*" scale]
    range   := layer | start ":" stop

`base` is the whole model in order. Two texts that mean the same list of steps are one plan:
`Plan.text` is the canonical one. A step names a layer of one model; naming a second source
model (stacking layers of two models) would be one more field of `Step`.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from frankenlab.errors import UserError
from frankenlab.files import content_hash

PARTS = ("block", "attn", "mlp")
BASE = "base"

_SEGMENT = re.compile(
    r"(?P<start>\d+)(?::(?P<stop>\d+))?"
    r"(?:x(?P<times>\d+))?"
    r"(?:@(?P<part>[A-Za-z_]+))?"
    r"(?:\*(?P<scale>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?))?"
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
    def attends(self) -> bool:
        """Whether the occurrence needs a slot in the KV cache."""
        return self.part != "mlp"


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
        """The canonical text: the plan's identity, `parse(text, n_layers)` gives the plan back."""
        if self.steps == base(self.n_layers).steps:
            return BASE
        return ",".join(_texts(self.steps))

    @cached_property
    def key(self) -> str:
        """Eight hexadecimal digits for file names and other places too small for the text."""
        return content_hash([self.n_layers, self.text], 8)

    @property
    def depth(self) -> float:
        """Layers run; an `attn` or `mlp` occurrence counts as one half."""
        return sum(1.0 if step.part == "block" else 0.5 for step in self.steps)

    @property
    def loop(self) -> tuple[int, int, int] | None:
        """(start, stop, times) if the plan is the base with one block run `times` times in a row.

        RYS's (i, j) is the loop (i, j, 2). None for the base and for every other plan.
        """
        if any(step.part != "block" or step.scale != 1.0 for step in self.steps):
            return None
        layers = [step.layer for step in self.steps]
        stop = next((i for i in range(1, len(layers)) if layers[i] != layers[i - 1] + 1), None)
        if stop is None:
            return None
        start, extra = layers[stop], len(layers) - self.n_layers
        if not start < stop or extra <= 0 or extra % (stop - start):
            return None
        times = 1 + extra // (stop - start)
        return (start, stop, times) if self == looped(start, stop, times, self.n_layers) else None

    def __str__(self) -> str:
        return self.text


def base(n_layers: int) -> Plan:
    """The unmodified model: every layer once, in order."""
    return Plan(tuple(Step(layer) for layer in range(n_layers)), n_layers)


def looped(start: int, stop: int, times: int, n_layers: int) -> Plan:
    """The base with the block `start:stop` run `times` times in a row."""
    layers = [*range(start), *list(range(start, stop)) * times, *range(stop, n_layers)]
    return Plan(tuple(map(Step, layers)), n_layers)


def from_steps(steps: Iterable[Step], n_layers: int) -> Plan:
    """The canonical plan of a list of steps."""
    merged: list[Step] = []
    for step in steps:
        if step == Step(step.layer, "mlp") and merged and merged[-1] == Step(step.layer, "attn"):
            merged[-1] = Step(step.layer)
        else:
            merged.append(step)
    return Plan(tuple(merged), n_layers)


def parse(text: str, n_layers: int) -> Plan:
    """The plan that `text` means for a model of `n_layers` layers.

    Raises:
        UserError: with the text, a caret under the fault and the model's number of layers.
    """
    if text.strip() == BASE:
        return base(n_layers)
    steps: list[Step] = []
    offset = 0
    for segment in text.split(","):
        lead = len(segment) - len(segment.lstrip())
        steps += _segment_steps(segment.strip(), text, offset + lead, n_layers)
        offset += len(segment) + 1
    return from_steps(steps, n_layers)


def _segment_steps(segment: str, text: str, offset: int, n_layers: int) -> Iterator[Step]:
    match = _SEGMENT.match(segment)
    if not match:
        raise _fault(text, offset, "a layer or start:stop is expected here", n_layers)
    if match.end() != len(segment):
        allowed = 'after a range come "x" times, "@" part and "*" scale, in this order'
        raise _fault(text, offset + match.end(), f"unexpected text; {allowed}", n_layers)
    start = int(match["start"])
    stop = start + 1 if match["stop"] is None else int(match["stop"])
    for name in ("start", "stop"):
        limit = n_layers - (name == "start")
        if match[name] is not None and int(match[name]) > limit:
            fault = f"{match[name]} is too large, at most {limit} can stand here"
            raise _fault(text, offset + match.start(name), fault, n_layers)
    if stop <= start:
        fault = f"the range {start}:{stop} is empty, its stop must be above its start"
        raise _fault(text, offset + match.start("stop"), fault, n_layers)
    times = int(match["times"] or 1)
    if times < 1:
        raise _fault(text, offset + match.start("times"), "times must be 1 or more", n_layers)
    part = match["part"] or "block"
    if part not in PARTS:
        fault = f"unknown part, one of {', '.join(PARTS)} is expected"
        raise _fault(text, offset + match.start("part"), fault, n_layers)
    scale = float(match["scale"] or 1)
    if scale == 0 or not math.isfinite(scale):
        fault = "the scale must be finite and not 0 (a step of scale 0 does nothing)"
        raise _fault(text, offset + match.start("scale"), fault, n_layers)
    return (Step(layer, part, scale) for _ in range(times) for layer in range(start, stop))


def _fault(text: str, position: int, what: str, n_layers: int) -> UserError:
    """The one error that takes three lines: the text and a caret tell more than a column number."""
    return UserError(
        f'plan "{text}": {what} (the model has {n_layers} layers, 0 to {n_layers - 1})\n'
        f"  {text}\n  {' ' * position}^"
    )


def _texts(steps: Sequence[Step]) -> Iterator[str]:
    """Canonical segments: maximal ascending runs, equal neighbours folded into `x` times."""
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
