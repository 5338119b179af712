"""How the chance of any false claim is shared out, once, before there are results.

`statistics.alpha` holds for everything that a page claims together. Each question has a share of
it, divided equally among the question's tests (Bonferroni). The tests of a map are exploration and
stand outside: Benjamini and Hochberg's correction is theirs.
"""

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from frankenlab.analyse.paired_tests import Floats

Family = Literal["verdicts", "search", "controls", "bits"]

SHARES: Mapping[Family, float] = {
    "verdicts": 0.80,  # frozen plans against the base, on every task, model and quantization
    "search": 0.08,  # does any plan of the grid beat the base; `SEARCH_TESTS` a model
    "controls": 0.08,  # is a frozen plan better than random plans of the same cost
    "bits": 0.04,  # interactions with quantizing, and bases that cost the same
}

# One on the search documents, for all plans, and one on the select documents, for the shortlist.
SEARCH_TESTS = 2


def level(alpha: float, family: Family, tests: int) -> float:
    """Return the level of each of a family's tests: all of them together have the family's share
    of alpha."""
    return alpha * SHARES[family] / max(tests, 1)


def corrected(p: Floats, alpha: float, at: float) -> Floats:
    """Return p on the scale of alpha: it is at most alpha where p is at most the test's level."""
    return np.minimum(1.0, np.asarray(p, dtype=float) * (alpha / at))


def resamples(least: int, at: float) -> int:
    """Return how many random sign flips a test at this level needs, so that 20 of them are as far
    from 0 as what was seen where p is the level."""
    return max(least, math.ceil(20 / at))
