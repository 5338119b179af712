"""The steps of a plan, and the text that stands for them.

The grammar, over layer numbers that start at 0 and half-open ranges (as in Python and in
mergekit's `layer_range`):

    plan    := item ("," item)*
    item    := segment | window
    segment := range ["x" times] ["@" part] ["*" scale]
    window  := "(" segment ("," segment)* ")" ["x" times] ["*" scale]
    range   := layer | start ":" stop

A segment's scale damps each of its steps by itself: with f for the update of one step, each step
gives h + scale * f(h). A window's scale damps all steps in the parentheses together: with g for
the window from its first step to its last, each of the `times` passes, the first among them, gives
h + scale * (g(h) - h). That is how Chen et al. 2026 (Training-Free Looped Transformers,
arXiv:2605.23872) loop a window, with 1 / times for the scale. Where the first pass counts in full
and only what follows is damped, it stands outside: `0:14,(10:14)x2*0.5,14:30`.

A window of one step is that step with a scale of its own, and one whose scale is 1 is its steps:
`(10)x3*0.5` is `10x3*0.5`, and `(10:14)x3` is `10:14x3`. No scale stands inside a window, and no
window inside another.

A plan runs at most `MAX_STEPS` layers, and a scale is between `MIN_SCALE` and `MAX_SCALE` in size,
so that a slip of a digit is refused instead of filling the memory. A step names a layer of one
model; a second source model (stacking layers of two models) would be one more field of `Step`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby

from frankenlab.io.errors import UserError, excerpt, printable

# Far beyond what anybody means: the deepest published models have some 130 layers.
MAX_LAYERS = 1_000
MAX_STEPS = 10_000
MIN_SCALE, MAX_SCALE = 1e-9, 1e6
MAX_DIGITS = 9

PARTS = ("block", "attn", "mlp")

_TIMES = r"(?:x(?P<times>[0-9]+))?"
_SCALE = r"(?:\*(?P<scale>[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?))?"
_SEGMENT = re.compile(
    rf"(?P<start>[0-9]+)(?::(?P<stop>[0-9]+))?{_TIMES}(?:@(?P<part>[A-Za-z_]+))?{_SCALE}"
)
_WINDOW = re.compile(rf"\((?P<body>[^()]*)\){_TIMES}{_SCALE}")
# Commas in parentheses divide the segments of a window.
_COMMA = re.compile(r"\([^()]*\)|(?P<comma>,)")


@dataclass(frozen=True, order=True, slots=True)
class Step:
    """One occurrence of a layer: hidden + scale * f(hidden), f being the part's residual update.

    Attributes:
        part: "block" (attention, then MLP), "attn" or "mlp".
        span: number of steps, this one and those before it, that `scale` damps together: above 1
            the step ends a window, and `hidden` above is the state before the window.
    """

    layer: int
    part: str = "block"
    scale: float = 1.0
    span: int = 1

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


def damped(steps: Sequence[Step], scale: float) -> tuple[Step, ...]:
    """Return one pass of a window of canonical steps: `scale` damps them together."""
    *before, last = steps
    return (*before, last if scale == 1 else replace(last, scale=scale, span=len(steps)))


def canonical(steps: Iterable[Step]) -> tuple[Step, ...]:
    """Return the steps with an `attn` and the `mlp` of the same layer that follows it merged into
    the `block` that they are, unless a window begins between them.

    Raises:
        ValueError: a window begins before the first step, or has a scale inside.
    """
    given = list(steps)
    starts = _window_starts(given)
    merged: list[Step] = []
    # For each step the number of the merged step that it becomes or is part of.
    places: list[int] = []
    for number_given, step in enumerate(given):
        joins = (
            step.part == "mlp"
            and (step.scale == 1 or step.span > 1)
            and number_given not in starts
            and bool(merged)
            and merged[-1] == Step(step.layer, "attn")
        )
        if joins:
            merged.pop()
            step = replace(step, part="block")
        places.append(len(merged))
        if step.span > 1:
            step = replace(step, span=len(merged) - places[number_given + 1 - step.span] + 1)
        merged.append(step)
    return tuple(merged)


def _window_starts(steps: Sequence[Step]) -> dict[int, int]:
    """Return the place of the first step of each window, and of the one after its last."""
    found = {}
    for last, step in enumerate(steps):
        if step.span > 1:
            start = last + 1 - step.span
            inner = steps[max(start, 0) : last]
            if start < 0 or step.scale == 1 or any(s.scale != 1 or s.span > 1 for s in inner):
                raise ValueError(f"step {last} ends no window: {step}")
            found[start] = last + 1
    return found


def read(text: str, n_layers: int) -> Iterator[Step]:
    """Yield the steps that a text means for a model of `n_layers` layers.

    Raises:
        UserError: with the text, a caret under the fault and the model's number of layers.
    """
    reader = _Reader(text, n_layers)
    for item, place in _divided(text):
        yield from reader.window(item, place) if item.startswith("(") else reader.run(item, place)


def _divided(text: str, place: int = 0) -> Iterator[tuple[str, int]]:
    """Yield what stands between commas, without the spaces around it, and its place.

    Args:
        place: of the text itself.
    """
    start = 0
    commas = (match.start() for match in _COMMA.finditer(text) if match["comma"])
    for end in chain(commas, [len(text)]):
        item = text[start:end]
        yield item.strip(), place + start + len(item) - len(item.lstrip())
        start = end + 1


class _Reader:
    """Reads the segments and windows of a text one after the other, up to `MAX_STEPS` steps.

    Their methods take what to read and its place in the text.
    """

    def __init__(self, text: str, n_layers: int) -> None:
        self.text, self.n_layers = text, n_layers
        self.room = MAX_STEPS

    def window(self, item: str, place: int) -> tuple[Step, ...]:
        match = _WINDOW.match(item)
        if not match:
            inner = self.text.find("(", place + 1)
            if inner < 0:
                raise self.fault(place, "this is never closed")
            what = "the window before this is not closed, and no window stands inside another"
            raise self.fault(inner, what)
        if match.end() != len(item):
            allowed = 'after a window come "x" times and "*" scale, in this order'
            raise self.fault(place + match.end(), f"unexpected text; {allowed}")
        body: list[Step] = []
        for segment, where in _divided(match["body"], place + 1):
            steps = self.run(segment, where)
            if steps[0].scale != 1:
                what = "no scale stands inside a window, the one after it damps all of its steps"
                raise self.fault(where + segment.index("*"), what)
            body += steps
        self.room += len(body)
        times = self.times(match, len(body), place)
        return damped(canonical(body), self.scale(match, place)) * times

    def run(self, segment: str, place: int) -> tuple[Step, ...]:
        match = _SEGMENT.match(segment)
        if not match:
            raise self.fault(place, "a layer or start:stop is expected here")
        if match.end() != len(segment):
            allowed = 'after a range come "x" times, "@" part and "*" scale, in this order'
            raise self.fault(place + match.end(), f"unexpected text; {allowed}")
        start = number(match["start"])
        stop = start + 1 if match["stop"] is None else number(match["stop"])
        limits = (("start", start, self.n_layers - 1), ("stop", stop, self.n_layers))
        for name, value, limit in limits:
            if match[name] is not None and value > limit:
                what = f"{excerpt(match[name])} is too large, at most {limit} can stand here"
                raise self.fault(place + match.start(name), what)
        if stop <= start:
            what = f"the range {start}:{stop} is empty, its stop must be above its start"
            raise self.fault(place + match.start("stop"), what)
        times = self.times(match, stop - start, place)
        part = match["part"] or "block"
        if part not in PARTS:
            what = f"unknown part, one of {', '.join(PARTS)} is expected"
            raise self.fault(place + match.start("part"), what)
        scale = self.scale(match, place)
        return tuple(Step(layer, part, scale) for layer in range(start, stop)) * times

    def times(self, match: re.Match[str], length: int, place: int) -> int:
        """Return how often `length` steps run, for which there must be room."""
        times = number(match["times"] or "1")
        place += match.start("times" if match["times"] else 0)
        if times < 1:
            raise self.fault(place, "times must be 1 or more")
        if times * length > self.room:
            raise self.fault(place, f"this is too much, a plan runs at most {MAX_STEPS:,} layers")
        self.room -= times * length
        return times

    def scale(self, match: re.Match[str], place: int) -> float:
        scale = float(match["scale"] or 1)
        if not MIN_SCALE <= abs(scale) <= MAX_SCALE:
            what = "the scale must be finite and not 0 (a step of scale 0 does nothing)"
            what = f"{what}, in size from {MIN_SCALE:g} to {MAX_SCALE:g}"
            raise self.fault(place + match.start("scale"), what)
        return scale

    def fault(self, place: int, what: str) -> UserError:
        """Return the error whose second and third line are the text and a caret under its fault.

        A long text is shown around the fault only.
        """
        shown, n_layers = printable(self.text), self.n_layers
        start, stop = 0, len(shown)
        if stop > 80:
            start, stop = max(0, place - 40), min(stop, place + 40)
        head, tail = "..." if start else "", "..." if stop < len(shown) else ""
        part = f"{head}{shown[start:stop]}{tail}"
        has = f"the model has {n_layers} layers, 0 to {n_layers - 1}"
        return UserError(
            f'plan "{excerpt(shown)}": {what} ({has})\n'
            f"  {part}\n  {' ' * (len(head) + place - start)}^"
        )


def number(digits: str) -> int:
    """Return the number, or one that is too large everywhere if it has too many digits."""
    significant = digits.lstrip("0")
    # Python refuses to read a number of thousands of digits.
    return 10**MAX_DIGITS if len(significant) > MAX_DIGITS else int(significant or 0)


def texts(steps: Sequence[Step]) -> Iterator[str]:
    """Yield canonical segments and windows: maximal ascending runs, equal neighbours folded into
    `x` times."""
    for (before, after), group in groupby(_runs(steps)):
        times = len(list(group))
        yield before + (f"x{times}" if times > 1 else "") + after


def _runs(steps: Sequence[Step]) -> Iterator[tuple[str, str]]:
    """Yield the text of each run and of each pass of a window: what stands before and after the
    `x`."""
    windows = _window_starts(steps)
    start = 0
    while start < len(steps):
        first = steps[start]
        if start in windows:
            stop = windows[start]
            closing = steps[stop - 1]
            body = [*steps[start : stop - 1], replace(closing, scale=1.0, span=1)]
            yield f"({','.join(texts(body))})", _scale_text(closing.scale)
        else:
            stop = start + 1
            while stop < len(steps) and stop not in windows and _goes_on(steps, stop):
                stop += 1
            end = steps[stop - 1].layer + 1
            layers = f"{first.layer}" if end == first.layer + 1 else f"{first.layer}:{end}"
            part = f"@{first.part}" if first.part != "block" else ""
            yield layers, part + _scale_text(first.scale)
        start = stop


def _goes_on(steps: Sequence[Step], place: int) -> bool:
    """Tell whether a step goes on an ascending run."""
    last = steps[place - 1]
    return steps[place] == Step(last.layer + 1, last.part, last.scale)


def _scale_text(scale: float) -> str:
    return f"*{scale!r}".removesuffix(".0") if scale != 1 else ""
