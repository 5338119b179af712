"""The benchmark of what jobs import."""

import pytest

from benchmarks.start import ROOT, beginning, main, scripts


def test_every_script_has_a_beginning_without_its_job():
    for name in scripts(ROOT):
        code = beginning(ROOT, name)
        assert "from frankenlab.runtime.job import job" in code and "with job" not in code


@pytest.mark.slow
def test_the_page_has_a_row_for_each_script(tmp_path):
    out = tmp_path / "start.md"
    assert main(["--scripts", "freeze", "--rounds", "1", "--out", str(out)]) == 0
    row = out.read_text().splitlines()[-1]
    assert row.startswith("| freeze | ") and "pandas" in row
