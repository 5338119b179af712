"""The small JSON files that one job writes and another reads, checked before they are used.

A file that was cut short, edited or taken from elsewhere is refused by its name and the place in
it, in one line, and not by whatever the first line of code that stumbles over it says.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frankenlab.io.errors import UserError

TEXT = {"type": "string"}
NUMBER = {"type": "number"}
COUNT = {"type": "integer", "minimum": 0}
SOME = {"type": "integer", "minimum": 1}
ANY: Mapping[str, Any] = {}


def list_of(item: Mapping[str, Any], **more: int) -> dict[str, Any]:
    """Return the JSON Schema of an array; `more` are limits such as minItems."""
    return {"type": "array", "items": item, **more}


def object_of(**properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of an object that has all these keys, and maybe others."""
    return {"type": "object", "required": list(properties), "properties": properties}


def table_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of an object whose keys are names."""
    return {"type": "object", "additionalProperties": value}


# A model's shape in a manifest: the fields of `models.ModelInfo`.
MODEL_SHAPE = object_of(
    architecture=TEXT,
    n_layers=SOME,
    hidden_size=SOME,
    intermediate_size=SOME,
    n_heads=SOME,
    n_kv_heads=SOME,
    head_dim=SOME,
    vocab_size=SOME,
    max_position_embeddings=SOME,
    tied_embeddings={"type": "boolean"},
    norm_eps=NUMBER,
    rope={"type": "object"},
    parameters_per_layer=SOME,
    parameters_mlp=SOME,
    parameters_embeddings=SOME,
    parameters_head=COUNT,
    dtype=TEXT,
)
# What `frankens.manifest` makes; the steps of the plans are checked by `frankens.plans_of`.
FRANKENS = object_of(
    model=TEXT,
    quantization=TEXT,
    n_layers=SOME,
    frankens=list_of(
        object_of(
            plan=TEXT,
            key=TEXT,
            group=TEXT,
            loop=ANY,
            depth=NUMBER,
            relative_depth=NUMBER,
            parameters=COUNT,
            stored_parameters=COUNT,
            kv_bytes_per_token=COUNT,
            occurrences={"type": "array"},
        )
    ),
)
# What `race_rounds.decide` makes of a round.
RACE = object_of(
    model=TEXT,
    round=SOME,
    documents=table_of(COUNT),
    passes=NUMBER,
    leaders=list_of(TEXT),
    leader=TEXT,
    kept=list_of(TEXT),
    dropped=table_of(object_of(behind=NUMBER, ahead_at_most=NUMBER)),
)
# What `selection.freeze` makes.
FROZEN = object_of(
    model=TEXT,
    frozen=TEXT,
    group=TEXT,
    controls=list_of(TEXT),
    reference_quantization=TEXT,
    reason=TEXT,
)
# The report reads these parts of `provenance.json`, and shows those that are there.
TABLES = ("data", "code", "versions")
PROVENANCE = {
    "type": "object",
    "properties": {
        "models": table_of({"type": "object"}),
        **{name: {"type": "object"} for name in ("grid", "precisions", "machine", *TABLES)},
    },
}
SHORTLIST = object_of(plans=list_of(object_of(plan=TEXT, group=TEXT)))
PLANS = list_of(list_of(TEXT, minItems=2, maxItems=2))


def read_record(path: str | os.PathLike, schema: Mapping[str, Any]) -> Any:
    """Return what is in a JSON file.

    Raises:
        UserError: the file is missing, is not JSON, or is not of the schema's shape.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: damaged, not JSON ({_one_line(error)}); remove it and run again"
        ) from None
    check_record(path, value, schema)
    return value


def is_record(value: Any, schema: Mapping[str, Any]) -> bool:
    """Tell whether a value has the schema's shape."""
    return _first_fault(value, schema) is None


def check_record(path: str | os.PathLike, value: Any, schema: Mapping[str, Any]) -> None:
    """Checks that a value read from a file has the schema's shape.

    Raises:
        UserError: it has not; with the place in the file.
    """
    error = _first_fault(value, schema)
    if error is None:
        return
    where = ".".join(str(part) for part in error.absolute_path)
    place = f"{where}: " if where else ""
    raise UserError(
        f"{path}: not what a job wrote there ({place}{_one_line(error.message)}); remove it and "
        "run again"
    ) from None


def _first_fault(value: Any, schema: Mapping[str, Any]) -> Any:
    # Imported here: it takes a tenth of a second, and most commands read no record.
    import jsonschema

    # JSON Schema calls 4.0 an integer, Python's range() does not.
    draft = jsonschema.Draft202012Validator
    checker = draft.TYPE_CHECKER.redefine("integer", lambda _, number: type(number) is int)
    validator = jsonschema.validators.extend(draft, type_checker=checker)
    return next(validator(schema).iter_errors(value), None)


def _one_line(what: object, longest: int = 200) -> str:
    text = " ".join(str(what).split())
    return text if len(text) <= longest else text[:longest] + "…"
