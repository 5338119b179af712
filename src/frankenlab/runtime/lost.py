"""Files of results that were damaged or lost, which Snakemake is to make again.

Snakemake itself would use a damaged file. It notices that a file is lost only if the file is a
target, or if a job that reads it runs.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from frankenlab.io.parquet import damaged

# It is written when all tables are there.
LAST = "provenance.json"


def to_make_again(results: str, shown: Iterable[str]) -> set[str]:
    """Return the damaged tables of an experiment, and what its finished results lack.

    Snakemake leaves alone what none of its jobs makes.

    Args:
        results: the folder of its results.
        shown: the files that finished results have.
    """
    found = {str(path) for path in damaged(results)}
    for path in sorted(found):
        print(
            f"warning: {path} is damaged: made again, if it is an output of this workflow",
            file=sys.stderr,
        )
    if Path(results, LAST).is_file():
        found |= {path for path in shown if not Path(path).is_file()}
    return found
