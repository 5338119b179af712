"""One measurement: `python -m benchmarks.speed.worker FILE FUNCTION ARGUMENT SETTING RESULT`."""

import importlib
import json
import logging
import sys
from pathlib import Path

from benchmarks.speed.setting import Setting


def main(file: str, function: str, argument: str, setting: str, result: str) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    measure = getattr(importlib.import_module(f"benchmarks.speed.{file}"), function)
    found = measure(Setting.from_json(setting), argument)
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
