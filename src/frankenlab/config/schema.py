"""A config against its JSON Schema: defaults filled in, a mistake told in one line."""

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import jsonschema

from frankenlab.io.errors import UserError, excerpt


def with_defaults(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """A copy of `value` with the schema's defaults where keys are missing; `$ref` is looked up in
    `root`'s `$defs`."""
    schema = _resolved(schema, root)
    if not isinstance(value, Mapping):
        return deepcopy(value)
    properties = schema.get("properties", {})
    filled = {}
    for key, sub in properties.items():
        resolved = _resolved(sub, root)
        if key in value:
            filled[key] = with_defaults(value[key], sub, root)
        elif "default" in resolved:
            filled[key] = with_defaults(resolved["default"], sub, root)
    others = schema.get("additionalProperties")
    for key in value:
        if key not in properties:
            known = isinstance(others, Mapping)
            filled[key] = with_defaults(value[key], others if known else {}, root)
    return filled


def check_schema(config: Any, schema: Mapping[str, Any]) -> None:
    """Checks a config against its schema.

    Raises:
        UserError: one line with the key, what is wrong and what is allowed.
    """
    error = jsonschema.exceptions.best_match(_Validator(schema).iter_errors(config))
    if error is None:
        return
    where = ".".join(excerpt(part) for part in error.absolute_path)
    raise UserError(f"config: {where + ': ' if where else ''}{_explain(error)}") from None


def _matches(_: Any, pattern: str, value: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
    """Yield the error of a text that is not all of the pattern: its "$" would let an end of line
    pass."""
    if isinstance(value, str) and not re.fullmatch(pattern, value):
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")


def _is_integer(_: Any, value: Any) -> bool:
    """Return whether it is written as an integer; JSON Schema takes 4.0 for one too."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(_: Any, value: Any) -> bool:
    """Return whether it is a finite number; NaN passes every comparison of a schema."""
    return _is_integer(_, value) or (isinstance(value, float) and math.isfinite(value))


_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    validators={"pattern": _matches},
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _is_integer, "number": _is_number}
    ),
)


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref")
    return {**root["$defs"][reference.rpartition("/")[2]], **schema} if reference else schema


def _explain(error: jsonschema.ValidationError) -> str:
    """What is wrong and what is allowed, on one line."""
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        unknown = excerpt(next(key for key in error.instance if key not in known))
        near = difflib.get_close_matches(unknown, known, 1)
        hint = f'did you mean "{near[0]}"?' if near else f"allowed: {', '.join(known)}"
        return f'unknown key "{unknown}"; {hint}'
    shown = excerpt(repr(error.instance))
    if error.validator == "enum":
        return f"{shown} is not one of {', '.join(map(str, error.validator_value))}"
    # The message repeats the value, which may be a whole config.
    message = error.message.replace(repr(error.instance), shown)
    allowed = _bounds(error.schema) if error.validator in ("type", *_BOUNDS) else ""
    description = error.schema.get("description", "")
    notes = "; ".join(note for note in (allowed, description) if note)
    return excerpt(message, 400) + (f" ({notes})" if notes else "")


_BOUNDS = {
    "exclusiveMinimum": "above",
    "minimum": "from",
    "maximum": "to",
    "exclusiveMaximum": "below",
}


def _bounds(schema: Mapping[str, Any]) -> str:
    """Return in words which numbers a schema allows."""
    words = [f"{word} {schema[key]:,}" for key, word in _BOUNDS.items() if key in schema]
    kind = schema.get("type")
    kinds = " or ".join([kind] if isinstance(kind, str) else kind or [])
    return f"allowed: {kinds} {' '.join(words)}" if words else ""
