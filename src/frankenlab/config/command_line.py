"""Values of a config that stand on Snakemake's command line.

Snakemake merges `--config 'stages={search: {limit: 10}}'` into what the config file says, key by
key, but reads what is inside of braces and brackets as text, "10" for 10. The schema says which of
them are numbers, booleans and nulls.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from frankenlab.config.messages import place_of
from frankenlab.config.settings import Settings

# Some faults are seen only when others are gone.
ROUNDS = 5


def with_types(raw: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config in which values of the command line have the types that the schema asks for.

    A text is replaced by what it means in YAML, and a number by its text, where it is not what the
    schema asks for. All other faults stay, for `experiment.check` to name.

    Args:
        raw: the whole config.
        given: the part of it that stands on the command line.
    """
    typed = copy.deepcopy(dict(raw))
    for _ in range(ROUNDS if given else 0):
        try:
            Settings.model_validate(typed)
        except ValidationError as failure:
            for error in failure.errors(include_url=False):
                *above, last = place_of(error["loc"]) or [""]
                section, value = _at(typed, above), _at(typed, [*above, last])
                if value is not None:
                    to_text = error["type"] == "string_type"
                    section[last] = _retyped(value, _at(given, [*above, last]), to_text)
        else:
            break
    return typed


def _retyped(value: Any, given: Any, to_text: bool) -> Any:
    """Return what a value, or what is in a list or mapping, means; only what was given as it is."""
    if isinstance(value, list) and isinstance(given, list) and len(value) == len(given):
        return [_retyped(*pair, to_text) for pair in zip(value, given, strict=True)]
    if isinstance(value, dict) and isinstance(given, dict):
        return {key: _retyped(value[key], given.get(key), to_text) for key in value}
    if type(value) is not type(given) or value != given:
        return value
    if to_text:
        return str(value) if type(value) in (int, float) else value
    if not isinstance(value, str):
        return value
    try:
        meant = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):
        return value
    return meant if meant is None or type(meant) in (bool, int, float) else value


def _at(value: Any, keys: Sequence[int | str]) -> Any:
    """Return what is at a place of a config; None where there is no such place."""
    for key in keys:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value
