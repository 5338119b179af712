"""A job that evaluates imports what scoring needs: no quantizer, no figure, no notebook."""

import pytest

from frankenlab.io.fingerprints import ROOT as PACKAGE
from tests.support.imports import libraries, reached
from tests.support.paths import ROOT

SCRIPT = ROOT / "workflow" / "scripts" / "evaluate.py"

# The module of `quantize` that keeps calibration texts away from evaluated documents.
CALIBRATION = {"quantize/__init__.py", "quantize/calibration.py"}


@pytest.fixture(scope="module")
def files() -> set[str]:
    """Return the files of the package that the script of an evaluation reaches."""
    found = reached([SCRIPT])
    return {str(path.relative_to(PACKAGE)) for path in found if path.is_relative_to(PACKAGE)}


def test_the_graph_of_imports_is_followed(files):
    assert {"evaluate/sweep.py", "engines/torch.py", "engines/exllamav2.py"} <= files
    assert files >= CALIBRATION


def test_an_evaluation_imports_no_quantizer(files):
    assert {file for file in files if file.startswith("quantize/")} == CALIBRATION


def test_an_evaluation_imports_no_figures(files):
    assert not {file for file in files if file.startswith("report/")}
    heavy = {"altair", "vl_convert", "papermill", "nbconvert"}
    assert not {path for path in reached([SCRIPT]) if libraries(path) & heavy}


def test_rows_do_not_depend_on_code_that_only_keeps_or_shows_them():
    """The fingerprint of rows reaches neither the store nor the config nor the jobs."""
    from frankenlab.evaluate.model_spec import ENGINES, SCORING_MODULES

    for engine in ENGINES.values():
        found = reached([*SCORING_MODULES, engine])
        rooms = {path.relative_to(PACKAGE).parts[0] for path in found}
        assert rooms == {"io", "plans", "models", "engines", "tasks", "evaluate"}
        own = {path.name for path in found if path.parent.name == "evaluate"}
        assert own == {"sweep.py"}
