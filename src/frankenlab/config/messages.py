"""What is wrong with a config, in one line: the place, the value, and what is allowed."""

import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError

from frankenlab.config.settings import Settings
from frankenlab.io.errors import excerpt

_BOUNDS = {
    "exclusiveMinimum": "above",
    "minimum": "from",
    "maximum": "to",
    "exclusiveMaximum": "below",
}
# What YAML calls these.
_WORDS = {"None": "null", "True": "true", "False": "false"}
# The types of a JSON schema in words.
_TYPES = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "object": "a mapping of keys to values",
    "string": "a text",
}


def message(failure: ValidationError) -> str:
    """Return the line that says what is wrong with a config.

    An unknown key comes first: one that is misspelt is missing under its right name too.
    """
    errors = failure.errors(include_url=False)
    if not errors[0]["loc"] and not isinstance(errors[0]["input"], Mapping):
        whole = errors[0]["input"]
        what = "it is empty" if whole is None else f"it is {_shown(whole)}"
        return f"{what}; a mapping of keys to values is expected"
    error = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    kind, value = error["type"], error["input"]
    place, schema = _place(error["loc"])
    if kind == "extra_forbidden":
        key = excerpt(place.pop())
        known = list(_place(error["loc"][:-1])[1]["properties"])
        near = difflib.get_close_matches(key, known, 1)
        hint = f'did you mean "{near[0]}"?' if near else f"allowed: {', '.join(known)}"
        text = f'unknown key "{key}"; {hint}'
    elif kind == "missing":
        text = f"{place.pop()!r} is a required key"
    elif kind == "union_tag_not_found":
        text = f"{error['ctx']['discriminator']} is a required key"
    elif kind == "union_tag_invalid":
        tag = schema["discriminator"]["propertyName"]
        place.append(tag)
        text = _not_one_of(value[tag], schema["discriminator"]["mapping"])
    elif kind == "literal_error":
        text = _not_one_of(value, schema["enum"])
    elif kind == "null":
        text = error["msg"]
    else:
        text = _shown(value) + _fault(kind, error["msg"], schema)
    where = ".".join(excerpt(part) for part in place)
    return f"{where + ': ' if where else ''}{text}"


def place_of(location: tuple[int | str, ...]) -> list[int | str]:
    """Return the keys that lead to the place of an error in a config."""
    return _place(location)[0]


def _not_one_of(value: Any, allowed: Iterable[Any]) -> str:
    return f"{_shown(value)} is not one of {', '.join(map(str, allowed))}"


def _shown(value: Any) -> str:
    return _WORDS.get(repr(value)) or excerpt(repr(value))


def _fault(kind: str, pydantics: str, schema: Mapping[str, Any]) -> str:
    """Return what is wrong with a value of this schema, after the value itself."""
    if kind == "none_of_these":
        return f" is none of these: {pydantics}"
    allowed = _allowed(schema)
    if kind.endswith("_type"):
        # A section of several kinds has no type of its own.
        what = f" is not {_TYPES[schema.get('type', 'object')]}"
    elif allowed:
        what = " is out of bounds"
    elif kind == "string_pattern_mismatch":
        what = " does not have the right form"
    else:
        what = f": {pydantics[0].lower()}{pydantics[1:]}".replace(" after validation", "")
    description = " ".join(schema.get("description", "").split())
    notes = "; ".join(note for note in (allowed, description) if note)
    return what + (f" ({notes})" if notes else "")


def _allowed(schema: Mapping[str, Any]) -> str:
    """Return in words which numbers a schema allows; "" where it is not one number."""
    words = [f"{word} {schema[key]:,}" for key, word in _BOUNDS.items() if key in schema]
    return f"allowed: {schema['type']} {' '.join(words)}" if words else ""


@cache
def _root() -> dict[str, Any]:
    return Settings.model_json_schema()


def _place(location: tuple[int | str, ...]) -> tuple[list[int | str], dict[str, Any]]:
    """Return the keys that lead to the place of an error, and the schema of the value there."""
    if location[-1:] == ("[key]",):
        keys, schema = _place(location[:-2])
        return keys, schema["propertyNames"]
    keys, schema = [], _resolved(_root())
    for part in location:
        if "discriminator" in schema:
            schema = _resolved({"$ref": schema["discriminator"]["mapping"][part]})
        else:
            keys.append(part)
            named = schema.get("patternProperties", {}).values()
            others: dict[str, Any] = schema.get("items") or next(iter(named), {})
            schema = _resolved(schema.get("properties", {}).get(part, others))
    return keys, schema


def _resolved(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema that a reference means, or the one of a key that may be absent, with the
    description that stands nearest to the key."""
    members = [member for member in schema.get("anyOf", []) if member.get("type") != "null"]
    if "$ref" in schema:
        inner = _root()["$defs"][schema["$ref"].rpartition("/")[2]]
    elif len(members) == 1:
        inner = _resolved(members[0])
    else:
        return dict(schema)
    description = schema.get("description", inner.get("description", ""))
    return {**inner, "description": description}
