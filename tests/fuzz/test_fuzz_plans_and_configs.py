"""A seeded share of the fuzzer of plans and configs; `python -m tests.fuzz` runs more of it."""

import pytest

from tests.fuzz.plans_and_configs import check_config, check_plan, fuzz

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("what", "check", "cases"), [("plans", check_plan, 1000), ("configs", check_config, 30)]
)
def test_random_input_is_taken_or_refused_by_one_error(what, check, cases, capsys):
    failures = fuzz(what, check, seed=12, cases=cases)
    said = capsys.readouterr().out
    assert failures == 0, said
    # Both happen, or the fuzzer tries nothing.
    assert "refused" in said and "taken" in said
