"""`frankenlab` with clocks, ended when the first batch is about to be run.

python -m benchmarks.speed.first_batch STAMPS.json evaluate ...
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

stamps = {"Python": time.time()}


class FirstBatchError(BaseException):
    """No Exception: nothing on the way is to catch it."""


def main(result: str, *given: str) -> None:
    from frankenlab import cli
    from frankenlab.config import experiment
    from frankenlab.evaluate import runner as evaluation
    from frankenlab.evaluate import sweep

    stamps["imports"] = time.time()
    _stamp(experiment, "load", "config")
    _stamp(evaluation.ModelSpec, "for_directory", "model's hash")
    _stamp(evaluation, "DrawnTask", "task")
    _stamp(evaluation, "encoder_of", "documents and tokenizer")
    load = evaluation.ModelSpec.load_engine

    def loaded(spec: Any) -> Any:
        stamps["tokenizing"] = time.time()
        engine = load(spec)
        stamps["loading the model"] = time.time()
        return engine

    def first(*_: object) -> NoReturn:
        stamps["first batch made"] = time.time()
        raise FirstBatchError

    evaluation.ModelSpec.load_engine = loaded
    sweep.sweep = first
    try:
        cli.main(given)
    except FirstBatchError:
        Path(result).write_text(json.dumps(stamps))


def _stamp(owner: Any, name: str, stamp: str) -> None:
    """Note the time at which a function of a module or class has returned."""
    function: Callable[..., Any] = getattr(owner, name)

    def call(*given: Any, **named: Any) -> Any:
        made = function(*given, **named)
        stamps[stamp] = time.time()
        return made

    setattr(owner, name, staticmethod(call) if isinstance(owner, type) else call)


if __name__ == "__main__":
    main(*sys.argv[1:])
