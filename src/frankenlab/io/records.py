"""The small JSON files that one job writes and another reads, checked before they are used.

The code that writes such a file describes it beside itself: as a `TypedDict` (other keys are
allowed), a dataclass, or another type that pydantic can check.
"""

import json
import os
from pathlib import Path
from typing import Any

from frankenlab.io.errors import UserError, excerpt, one_line


def read_record(path: str | os.PathLike, shape: Any) -> Any:
    """Return what is in a JSON file, as `json.loads` gives it.

    Raises:
        UserError: the file is missing, is not JSON, or does not have the shape.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: damaged, not JSON ({excerpt(one_line(error), 200)}); remove it and run again"
        ) from None
    check_record(path, value, shape)
    return value


def is_record(value: Any, shape: Any) -> bool:
    """Tell whether a value has the shape."""
    return _first_fault(value, shape) is None


def check_record(path: str | os.PathLike, value: Any, shape: Any) -> None:
    """Check that a value read from a file has the shape.

    Raises:
        UserError: it does not; the message names the place in the file.
    """
    fault = _first_fault(value, shape)
    if fault is not None:
        raise UserError(
            f"{path}: not what a job wrote there ({excerpt(fault, 200)}); remove it and run again"
        )


def _first_fault(value: Any, shape: Any) -> str | None:
    """Return the place and the reason of the first fault."""
    # Imported here: it takes a tenth of a second, and most commands read no record.
    from pydantic import TypeAdapter, ValidationError

    try:
        # In JSON's strict mode an array can be a tuple, and 4.0 is no integer.
        TypeAdapter(shape).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        found = "" if fault["type"] == "missing" else f", not {excerpt(repr(fault['input']))}"
        return f"{place}: {fault['msg']}{found}" if place else f"{fault['msg']}{found}"
    except RecursionError:
        return "nested too deeply"
    return None
