"""`python -m tests.fuzz`: see `docs/fuzzing.md`."""

import argparse
import importlib
import os
import random
import sys
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Part -> its module, which has `run(seed, cases)` and returns the number of failures.
PARTS = {"parity": "parity", "plans": "plans_and_configs", "files": "files"}


def main(arguments: list[str] | None = None) -> int:
    """Run the parts that are asked for; return 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=2000, help="of each part")
    parser.add_argument("--seed", type=int, help="default: a new one, which is printed")
    parts = [part for part, module in PARTS.items() if find_spec(f"{__package__}.{module}")]
    parser.add_argument("--parts", default=",".join(parts), help="default: %(default)s")
    parser.add_argument("--case", help="replay a case of the parity fuzzer: JSON, or a file of it")
    options = parser.parse_args(arguments)
    if options.case:
        from . import parity

        path = Path(options.case)
        text = options.case if options.case.lstrip().startswith("{") else path.read_text()
        return min(parity.replay(text), 1)
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    failures = 0
    for part in options.parts.split(","):
        if part not in parts:
            parser.error(f"--parts: no part '{part}'; there are {', '.join(parts)}")
        failures += importlib.import_module(f"{__package__}.{PARTS[part]}").run(seed, options.cases)
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
