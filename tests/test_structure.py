"""The house: a module imports only from floors below its own."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "frankenlab"

# From the ground up. Modules of one floor do not know each other.
FLOORS = (
    {
        "errors",
        "words",
        "fingerprints",
        "statistics",
        "racing",
        "progress",
        "stopping",
        "accounting",
    },
    {"files", "quantization", "rounds", "schema", "yaml_file", "lock", "orphans"},
    {
        "plans",
        "exl2",
        "directories",
        "task_index",
        "stamps",
        "store",
        "ledger",
        "figures",
        "report",
        "batches",
    },
    {"sources", "models", "tasks", "grid", "trie", "memory", "clearing"},
    {
        "config",
        "gguf",
        "frankens",
        "engines",
        "encoding",
        "analysis",
        "calibration",
        "layerwise",
        "footprints",
    },
    {"bits", "fetching", "sweep", "generation", "export", "conversion", "quantizer"},
    {"efficiency", "capacity", "quantizing", "races", "shards"},
    {"scorer", "speeds", "random_models"},
    {"evaluation", "planning"},
    {"schedule", "speed_test"},
    {"requests"},
    {"plan_summary", "usage"},
    {"provenance", "job", "cli"},
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
