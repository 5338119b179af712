"""A config against its JSON Schema: defaults filled in, a mistake told in one line."""

import difflib
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import jsonschema

from frankenlab.errors import UserError


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
    validator = jsonschema.Draft202012Validator(schema)
    error = jsonschema.exceptions.best_match(validator.iter_errors(config))
    if error is None:
        return
    where = ".".join(str(part) for part in error.absolute_path)
    raise UserError(f"config: {where + ': ' if where else ''}{_explain(error)}") from None


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref")
    return {**root["$defs"][reference.rpartition("/")[2]], **schema} if reference else schema


def _explain(error: jsonschema.ValidationError) -> str:
    """What is wrong and what is allowed, on one line."""
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        unknown = next(key for key in error.instance if key not in known)
        near = difflib.get_close_matches(unknown, known, 1)
        hint = f'did you mean "{near[0]}"?' if near else f"allowed: {', '.join(known)}"
        return f'unknown key "{unknown}"; {hint}'
    if error.validator == "enum":
        return f"{error.instance!r} is not one of {', '.join(map(str, error.validator_value))}"
    return error.message + (
        f" ({error.schema['description']})" if "description" in error.schema else ""
    )
