"""The house: a module imports only from floors below its own, and some facts are in one module."""

import ast
import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SOURCE = ROOT / "src" / "frankenlab"

# From the ground up. A room imports only from floors below its own; rooms on one floor do not know
# each other.
FLOORS = (
    {"io"},
    {"plans"},
    {"models"},
    {"engines", "analyse"},
    {"tasks"},
    {"config"},
    {"quantize", "estimate"},
    {"evaluate", "report", "runtime"},
    {"cli"},
    {"__main__"},
)


def module_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, by their name at the top of the package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "frankenlab":
                names = [f"frankenlab.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("frankenlab.")}
    return found - {"__version__"}


FILES = sorted(p for p in SOURCE.rglob("*.py") if p.parent != SOURCE or p.stem != "__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    own = module_of(path)
    level = next(i for i, floor in enumerate(FLOORS) if own in floor)
    below = set().union(*FLOORS[:level]) | {own}
    assert imports(path) <= below


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_one_module_says_which_files_are_the_weights(path: Path) -> None:
    """Whoever lists a directory for weights himself finds others than transformers does."""
    listings = re.findall(
        r"glob\([^)]*(?:safetensors|WEIGHTS)|\*[\w.-]*\.safetensors", path.read_text()
    )
    assert not listings or path == SOURCE / "models" / "files.py"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_text_is_read_and_written_as_utf_8_in_any_locale(path: Path) -> None:
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if isinstance(call.func, ast.Name):
            name = call.func.id
        modes = [a.value for a in call.args if isinstance(a, ast.Constant)]
        as_text = name == "open" and any(m in ("r", "w", "a", "a+", "x") for m in modes)
        if name in ("read_text", "write_text") or as_text:
            assert any(k.arg == "encoding" for k in call.keywords), f"line {call.lineno}"
