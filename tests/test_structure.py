"""The house: rooms on floors, imports that point down, and facts that stand in one module."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SOURCE = ROOT / "src" / "frankenlab"

# From the ground up. A room imports only from floors below its own; rooms of one floor do not know
# each other. docs/architecture.md says what each is for.
FLOORS = (
    ("io",),
    ("plans",),
    ("models",),
    ("engines", "analyse"),
    ("tasks",),
    ("config",),
    ("quantize", "estimate"),
    ("evaluate", "report", "runtime"),
)
ROOMS = [room for floor in FLOORS for room in floor]

# `python -m frankenlab` and the command line stand on the roof.
ROOF = ("cli", "__main__")

LONGEST, SHORTEST = 400, 25

FILES = sorted(SOURCE.rglob("*.py"))
MODULES = {".".join(p.relative_to(SOURCE.parent).with_suffix("").parts): p for p in FILES}


def name_of(path: Path) -> str:
    """Return the path below the package, as the name of a test."""
    return str(path.relative_to(SOURCE))


@cache
def tree(path: Path) -> ast.Module:
    """Return the parsed source."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> frozenset[str]:
    """Return the dotted names of the package's modules that a file imports."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                longer = f"{node.module}.{alias.name}"
                is_module = longer in MODULES or f"{longer}.__init__" in MODULES
                found.add(longer if is_module else node.module)
    return frozenset(name for name in found if name.startswith("frankenlab."))


def room(dotted: str) -> str:
    """Return the room that a module of the package is in."""
    return dotted.split(".")[1]


def own_name(path: Path) -> str:
    """Return a file's dotted name."""
    name = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
    return name.removesuffix(".__init__")


def test_the_house_has_the_rooms_of_the_list_and_nothing_beside_them() -> None:
    found = {p.stem for p in SOURCE.iterdir() if p.name not in ("__pycache__", "py.typed")}
    assert found == {*ROOMS, *ROOF, "__init__"}
    assert len(ROOMS) <= 12 and len(FLOORS) <= 8


def test_the_map_of_the_house_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [name for name in ROOMS if f"`{name}/`" not in text] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own in (*ROOF, "__init__"):
        return
    level = next(i for i, floor in enumerate(FLOORS) if own in floor)
    below = {name for floor in FLOORS[:level] for name in floor} | {own}
    assert {room(name) for name in imports(path)} <= below


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {own_name(path): imports(path) - {own_name(path)} for path in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_room_is_entered_by_the_modules_that_it_names(path: Path) -> None:
    """A room's `__all__` lists what other rooms may import."""
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    hidden = []
    for name in imports(path):
        if room(name) in (own, *ROOF) or name.count(".") < 2:
            continue
        if name.split(".")[2] not in public(room(name)):
            hidden.append(name)
    assert hidden == []


@cache
def public(name: str) -> list[str]:
    """Return what a room's `__init__.py` names in `__all__`."""
    assigned = [
        node.value
        for node in tree(SOURCE / name / "__init__.py").body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    return ast.literal_eval(assigned[0])


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_says_what_it_is_for_and_names_modules_that_exist(name: str) -> None:
    assert ast.get_docstring(tree(SOURCE / name / "__init__.py"))
    found = {p.stem for p in (SOURCE / name).iterdir()}
    assert set(public(name)) <= found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_can_be_read_in_one_go_and_does_something(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST
    if path.name not in ("__init__.py", "__main__.py"):
        defines = any(isinstance(n, ast.FunctionDef | ast.ClassDef) for n in tree(path).body)
        assert lines >= SHORTEST or defines


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_docstring_begins_with_a_capital_and_ends_its_sentence(path: Path) -> None:
    """Fragments that need their neighbour to be understood often begin with a small letter."""
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        text = ast.get_docstring(node)
        if text is None:
            continue
        first = text.split("\n\n")[0]
        assert not re.match(r"(Of|As|Whether|With|From|In|At|To|By)\b", first), first
        assert first[-1] in ".:?", first


def test_every_rule_says_on_one_line_what_it_does() -> None:
    """`snakemake --list-rules` shows it in brackets behind the name."""
    text = "".join(
        p.read_text("utf-8")
        for p in sorted((ROOT / "workflow").rglob("*"))
        if p.name == "Snakefile" or p.suffix == ".smk"
    )
    heads = re.findall(r"^(?:rule|checkpoint) (\w+):\n(.*)", text, re.M)
    assert len(heads) > 20
    assert not [name for name, line in heads if not re.fullmatch(r' {4}""".+\."""', line)]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_one_module_says_which_files_are_the_weights(path: Path) -> None:
    """Whoever lists a directory for weights himself finds others than transformers does."""
    listings = re.findall(
        r"glob\([^)]*(?:safetensors|WEIGHTS)|\*[\w.-]*\.safetensors",
        path.read_text(encoding="utf-8"),
    )
    assert not listings or path == SOURCE / "models" / "files.py"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_text_is_read_and_written_as_utf_8_in_any_locale(path: Path) -> None:
    for call in ast.walk(tree(path)):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if isinstance(call.func, ast.Name):
            name = call.func.id
        modes = [a.value for a in call.args if isinstance(a, ast.Constant)]
        as_text = name == "open" and any(m in ("r", "w", "a", "a+", "x") for m in modes)
        if name in ("read_text", "write_text") or as_text:
            assert any(k.arg == "encoding" for k in call.keywords), f"line {call.lineno}"


# Jobs of seconds, of which an experiment has dozens.
SHORT_JOBS = (
    *("aggregate", "construct_frankens", "freeze", "plot", "provenance", "race", "shortlist"),
    "tables",
)
HEAVY = ("torch", "transformers", "datasets", "lm_eval", "statsmodels", "scipy.stats")


def test_jobs_that_run_no_model_do_not_load_the_libraries_that_run_models() -> None:
    scripts = [ROOT / "workflow" / "scripts" / f"{name}.py" for name in SHORT_JOBS]
    nodes = [node for path in scripts for node in tree(path).body]
    imported = [
        ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert len(imported) > len(SHORT_JOBS)
    read = "import sys; from frankenlab.config.experiment import load; load('config/config.yaml')"
    code = "\n".join([*imported, read, f"print([n for n in {HEAVY} if n in sys.modules])"])
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert result.stdout == "[]\n"
