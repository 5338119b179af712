"""The speed of this machine's processor, kept for later processes.

To measure it torch has to be imported, which takes longer than all else in a small dry run.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from frankenlab.engines.devices import processor_name
from frankenlab.io.errors import UserError
from frankenlab.io.files import cache_folder, write_json
from frankenlab.io.fingerprints import library_versions

# Another load of the machine gives another speed: what is kept is not kept for long.
KEPT_SECONDS = 24 * 3600


def kept_speed(precision: str, measure: Callable[[], float]) -> float:
    """Return what `measure` found at a precision on this machine within the last day."""
    path = cache_folder() / "matrix-speed.json"
    found, now = _read(path), time.time()
    own = {
        "host": platform.node(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        **library_versions(("torch",)),
        "precision": precision,
    }
    key = json.dumps(own)
    with suppress(KeyError, TypeError, ValueError):
        speed, when = map(float, found[key])
        if speed > 0 and 0 <= now - when < KEPT_SECONDS:
            return speed
    speed = measure()
    with suppress(OSError, UserError):  # a home that cannot be written to
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**found, key: [speed, now]})
    return speed


def _read(path: os.PathLike[str]) -> Mapping[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
