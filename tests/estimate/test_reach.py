"""A dry run says which verdicts the documents of a config can reach."""

import pytest

from frankenlab.config import experiment as config
from frankenlab.estimate.reach import reach, reach_lines
from frankenlab.estimate.work import Workload
from tests.support.paths import ROOT

DEFAULT = ROOT / "config" / "config.yaml"
FLIPS = 30.0  # deviation in points where 9 % of the answers flip


def lines_of(**limits) -> dict[str, str]:
    """The lines of the default experiment with other limits, by task."""
    raw = config.load(DEFAULT).settings.plain()
    for task, limit in limits.items():
        raw["tasks"][task]["limit"] = limit
    lines = reach_lines(Workload(config.check(raw)), "smollm2-135m-instruct")
    return {line.strip().split(":")[0]: line for line in lines}


def test_more_documents_show_smaller_changes_and_reach_equivalence():
    few, many = (reach(n, FLIPS, "mean", 3.0, 0.004) for n in (300, 2000))
    assert few.change > many.change > 0
    assert (few.equivalent, many.equivalent) == (False, True)
    assert few.needed == many.needed and 300 < few.needed < 2000


def test_what_is_needed_is_enough():
    needed = reach(100, FLIPS, "mean", 3.0, 0.004).needed
    assert reach(needed, FLIPS, "mean", 3.0, 0.004).equivalent
    assert not reach(int(0.9 * needed), FLIPS, "mean", 3.0, 0.004).equivalent


def test_too_few_documents_show_nothing():
    assert reach(5, FLIPS, "mean", 3.0, 0.004).change is None


@pytest.mark.slow
def test_each_task_has_a_line_and_the_level_is_that_of_the_verdicts():
    lines = lines_of(piqa=1838)
    assert "8 tests at 0.5 % each" in lines["verdicts"]
    assert "1838 documents show a change of 2.6 and 3.2 points" in lines["piqa"]
    assert "only with the fewer flips (needs 1491 and 2318 documents)" in lines["piqa"]
    few = lines_of(piqa=100)["piqa"]
    assert "out of reach" in few and "100 documents" in few
    assert "log-percent" in lines["boolq_passages"]
    assert "can be reached" in lines_of(piqa=5000)["piqa"]
