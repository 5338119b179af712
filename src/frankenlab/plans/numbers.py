"""Numbers in a config's `plans`: one or many, whole numbers of layers or shares of the depth.

A number without a point counts layers. A number with a point is a share of the model's depth, from
0.0 to 1.0, so that one design serves models of any depth. A position is the layer that its share
falls in (rounded down; 1.0 is the last layer). A length is the nearest number of layers (a half
rounds up), and at least one. A block whose start and length add up to 1.0 or less always fits.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

from frankenlab.io.errors import UserError, excerpt
from frankenlab.plans.steps import MAX_LAYERS, MAX_SCALE, MAX_STEPS, MIN_SCALE, number

# 0.29 of 100 layers is 28.999999999999996 in floating point.
_ROUNDING = 1e-9


def one_error(allowed: str) -> WrapValidator:
    """Return what raises one error, with what is allowed, where each member of a union would have
    its own."""

    def check(value: Any, union: ValidatorFunctionWrapHandler) -> Any:
        try:
            return union(value)
        except ValidationError:
            raise PydanticCustomError("none_of_these", "{allowed}", {"allowed": allowed}) from None

    return WrapValidator(check)


# A list becomes a tuple, so that a generator can be the key of a cache.
_Several = Field(min_length=1, max_length=MAX_STEPS, strict=False)
_Number = Annotated[int, Field(ge=0, le=MAX_STEPS)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Range = Annotated[str, Field(pattern="^[0-9]+:[0-9]+(:[0-9]+)?$")]
_RANGE = 'a list of these, or "start:stop[:step]" as in Python'

_NUMBERS = f"a number from 0 to {MAX_STEPS:,}, {_RANGE}"
Numbers = Annotated[
    _Number | Annotated[tuple[_Number, ...], _Several] | _Range,
    one_error(_NUMBERS),
    Field(description=_NUMBERS),
]

_LAYER_NUMBERS = (
    f"a whole number from 0 to {MAX_STEPS:,}, a share of the depth from 0.0 to 1.0, {_RANGE}"
)
# Positions or lengths, counted in layers.
LayerNumbers = Annotated[
    _Number | _Share | Annotated[tuple[_Number | _Share, ...], _Several] | _Range,
    one_error(_LAYER_NUMBERS),
    Field(description=_LAYER_NUMBERS),
]

LayerCount = Annotated[int, Field(ge=1, le=MAX_LAYERS)]
_LENGTH = f"a number of layers from 1 to {MAX_LAYERS:,}, a share of the depth above 0.0 up to 1.0"
Length = Annotated[
    LayerCount | Annotated[float, Field(gt=0, le=1)],
    one_error(_LENGTH),
    Field(description=_LENGTH),
]

Part = Literal["block", "attn", "mlp"]
_PARTS = "block, attn, mlp, a list of these"
Parts = Annotated[
    Part | Annotated[tuple[Part, ...], _Several], one_error(_PARTS), Field(description=_PARTS)
]

_Scale = (
    Annotated[float, Field(ge=MIN_SCALE, le=MAX_SCALE)]
    | Annotated[float, Field(ge=-MAX_SCALE, le=-MIN_SCALE)]
)
_SCALES = f"a number from {MIN_SCALE:g} to {MAX_SCALE:g} in size, above or below 0, a list of these"
Scales = Annotated[
    _Scale | Annotated[tuple[_Scale, ...], _Several],
    one_error(_SCALES),
    Field(description=_SCALES),
]


def numbers(value: Numbers) -> Sequence[int]:
    """Return the whole numbers that a config means by `Numbers`.

    Raises:
        UserError: the step of a range is 0, or a number is above `MAX_STEPS`.
    """
    if isinstance(value, int):
        return [value]
    if not isinstance(value, str):
        return value
    start, stop, step = [*map(number, value.split(":")), 1][:3]
    if step == 0:
        raise UserError(f'"{value}": its step is 0, at least 1 is expected')
    found = range(start, stop, step)
    if found and found[-1] > MAX_STEPS:
        raise UserError(f"{excerpt(value)} is too large, the largest number here is {MAX_STEPS:,}")
    return found


def positions(value: LayerNumbers | None, n_layers: int, name: str = "start") -> Sequence[int]:
    """Return the layers that a config means, for a model of `n_layers` layers; None means all.

    Raises:
        UserError: the model lacks one of them, or there is none.
    """
    if value is None:
        return range(n_layers)
    found = [
        min(math.floor(item * n_layers + _ROUNDING), n_layers - 1)
        if isinstance(item, float)
        else item
        for item in _items(value, name)
    ]
    wrong = next((layer for layer in found if layer >= n_layers), None)
    if wrong is not None:
        raise UserError(f"{name} {wrong}: the model has {n_layers} layers, 0 to {n_layers - 1}")
    return found


def lengths(
    value: LayerNumbers, n_layers: int, name: str = "length", least: int = 1
) -> Sequence[int]:
    """Return the numbers of layers that a config means, for a model of `n_layers` layers.

    Raises:
        UserError: one is below `least` or more than the model has, or there is none.
    """
    found = [
        max(1, math.floor(item * n_layers + 0.5 + _ROUNDING)) if isinstance(item, float) else item
        for item in _items(value, name)
    ]
    wrong = next((length for length in found if not least <= length <= n_layers), None)
    if wrong is not None:
        raise UserError(f"{name} {wrong}: the model has {n_layers} layers")
    return found


def counts(value: Numbers) -> Sequence[int]:
    """Return how many times something runs.

    Raises:
        UserError: one is 0, or there is none.
    """
    times = _items(value, "times")
    if min(times) < 1:
        raise UserError("times must be 1 or more")
    return times


def parts(value: Parts) -> Sequence[Part]:
    """Return the parts that a config means."""
    return value if isinstance(value, tuple) else (value,)


def scales(value: Scales) -> Sequence[float]:
    """Return the scales that a config means."""
    return value if isinstance(value, tuple) else (value,)


def _items(value: Any, name: str) -> Sequence[Any]:
    """Return the numbers of a key.

    Raises:
        UserError: there is none. Thousands of combinations with nothing would be tried in vain.
    """
    found = [value] if isinstance(value, float) else numbers(value)
    if not found:
        raise UserError(f'{name} "{value}" has no numbers')
    return found
