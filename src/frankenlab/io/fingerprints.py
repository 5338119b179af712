"""Fingerprints of code: hashes that change when the code does, and not with its comments.

Snakemake's own `code` trigger looks at a script's time of modification, which any checkout changes,
and not at the modules that the script imports. A fingerprint covers a module and everything of this
package that it imports, without comments and docstrings. So an edit makes exactly that stale which
depends on it.
"""

import ast
import hashlib
import json
from collections.abc import Collection
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from frankenlab.io import code_cache

PACKAGE = "frankenlab"
ROOT = Path(__file__).resolve().parents[1]

# Libraries that take part in every number.
NUMERIC_LIBRARIES = ("torch", "transformers", "tokenizers", "lm-eval")

# Libraries that take part in the numbers of one engine only.
ENGINE_LIBRARIES: dict[str, tuple[str, ...]] = {"torch": (), "exllamav2": ("exllamav2",)}

# Engines whose code takes part in the numbers of another one.
ENGINES_WITHIN: dict[str, tuple[str, ...]] = {"torch": (), "exllamav2": ("torch",)}

# Libraries that take part in the numbers of every engine, on CUDA only.
CUDA_LIBRARIES = ("triton",)

# Libraries that take part in every statistic.
STATISTICS_LIBRARIES = ("numpy", "scipy", "pandas")

# Libraries that take part in converting a GGUF file.
CONVERSION_LIBRARIES = ("gguf", "transformers", "tokenizers", "numpy")

# Functions that make texts of what they get, and change nothing.
_FOR_TEXTS = ("describe", "excerpt", "join", "len", "map", "one_line", "repr", "sorted", "str")

# Modules that say how something goes on, and never what comes out.
MESSAGES = ("frankenlab.io.errors", "frankenlab.io.progress", "frankenlab.io.signals")

# These and the rooms that read the config, predict, and surround jobs. What they decide reaches a
# job by its stamp: as a setting, a file or a wildcard.
SURROUNDINGS = (*MESSAGES, "frankenlab.config", "frankenlab.estimate", "frankenlab.runtime")


def library_versions(names: tuple[str, ...] = NUMERIC_LIBRARIES) -> dict[str, str]:
    """Return the installed versions without importing the libraries; "none" where one is absent."""
    return {name: _version(name) for name in names}


def engine_module(engine: str) -> str:
    """Return the name of the module that holds an engine."""
    return f"{PACKAGE}.engines.{engine}"


def other_engines(engine: str) -> list[str]:
    """Return the names of the modules of all engines that take no part in one's numbers."""
    taking_part = (engine, *ENGINES_WITHIN[engine])
    return [engine_module(other) for other in ENGINE_LIBRARIES if other not in taking_part]


def engine_libraries(engine: str, device: str) -> dict[str, str]:
    """Return the installed versions of the libraries that take part in an engine's numbers on a
    device."""
    on_cuda = CUDA_LIBRARIES if device.startswith("cuda") else ()
    return library_versions((*NUMERIC_LIBRARIES, *ENGINE_LIBRARIES[engine], *on_cuda))


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def code_fingerprint(*sources: str | Path, without: Collection[str] = (), length: int = 16) -> str:
    """Return a hash of the sources and of every module of the package that they import.

    Args:
        sources: names of modules (`frankenlab.io.files`), or paths of Python files or notebooks.
        without: names of modules and of packages that are left out, with what only they import.
    """
    pending = [_locate(source) for source in sources]
    left_out = {_locate(name).with_suffix("") for name in without}
    seen: dict[str, str] = {}
    known: set[Path] = set()
    while pending:
        path = pending.pop()
        if path in known:
            continue
        known.add(path)
        if not (left_out and _is_in(path, left_out)):
            code = _normalized(path, path.stat().st_mtime_ns)
            seen[code.name] = code.digest
            pending += code.imported
    digest = hashlib.sha256()
    for name in sorted(seen):
        digest.update(f"{name}\n{seen[name]}\n".encode())
    return digest.hexdigest()[:length]


def _is_in(path: Path, modules: Collection[Path]) -> bool:
    """Tell whether a file is one of the modules, or in one of the packages."""
    return path.with_suffix("") in modules or any(
        folder / "__init__" in modules for folder in path.parents
    )


def _locate(source: str | Path) -> Path:
    if isinstance(source, str) and source.split(".")[0] == PACKAGE:
        path = ROOT.joinpath(*source.split(".")[1:])
        return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return Path(source)


def _name(path: Path) -> str:
    """Return a name that does not depend on where the checkout is."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


class _Code(NamedTuple):
    """The name and the hash of a source, and the package's files that it needs: those that it
    imports, and the assets of its name, `assets/page.css` of `page.py`."""

    name: str
    digest: str
    imported: list[Path]


@cache
def _normalized(path: Path, _mtime: int) -> _Code:
    """Return what there is to know of a source, without comments, docstrings and messages."""
    source = path.read_text(encoding="utf-8")
    if path.suffix not in (".py", ".ipynb"):
        return _Code(_name(path), _digest(source), [])
    assets = sorted((path.parent / "assets").glob(f"{path.stem}.*"))
    if path.suffix == ".ipynb":
        cells = (cell for cell in json.loads(source)["cells"] if cell["cell_type"] == "code")
        source = "\n".join("".join(cell["source"]) for cell in cells)
    digest, imported = code_cache.of(source, _parsed)
    ours = [
        _locate(reached)
        for name in imported
        if name.split(".")[0] == PACKAGE
        for reached in _with_packages(name)
    ]
    return _Code(_name(path), digest, [*assets, *(path for path in ours if path.is_file())])


def _parsed(source: str) -> code_cache.Parsed:
    """Return the hash of a source without what does not count, and the names that it imports."""
    tree = ast.parse(source)
    imported = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.append(node.module)
            imported += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Raise):
            _drop_message(node)
        body: list[ast.stmt] | None = getattr(node, "body", None)
        if isinstance(body, list):
            # A body must not be empty; `pass` stands for a docstring that was all of it.
            rest = [part for part in body if not _is_docstring(part)]
            node.body = rest or [ast.Pass()]  # type: ignore[attr-defined]
    tree.body = [node for node in tree.body if not _names_what_is_public(node)] or [ast.Pass()]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            _drop_words(node)
    return _digest(ast.unparse(tree)), imported


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _drop_message(node: ast.Raise) -> None:
    """Take the message off a raised UserError, which ends what would have made a number."""
    error = node.exc
    if isinstance(error, ast.Call) and ast.unparse(error.func) == "UserError":
        error.args, error.keywords = [], []


def _drop_words(function: ast.FunctionDef) -> None:
    """Take off the texts that a function puts together for messages alone, which are gone."""
    if any(isinstance(node, ast.Global | ast.Nonlocal) for node in ast.walk(function)):
        return
    while True:
        read = {
            node.id
            for node in ast.walk(function)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        }
        dropped = False
        for node in ast.walk(function):
            for field in ("body", "orelse", "finalbody"):
                body = getattr(node, field, None)
                if isinstance(body, list) and any(_is_unread_text(part, read) for part in body):
                    rest = [part for part in body if not _is_unread_text(part, read)]
                    setattr(node, field, rest or [ast.Pass()])
                    dropped = True
        if not dropped:
            return


def _is_unread_text(node: ast.AST, read: Collection[str]) -> bool:
    """Tell whether a statement gives a text to a name that nothing reads.

    Nothing that does more than make a text counts as one: it calls only functions for texts.
    """
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
    elif isinstance(node, ast.AugAssign):
        target = node.target
    else:
        return False
    if not isinstance(target, ast.Name) or target.id in read or node.value is None:
        return False
    parts = list(ast.walk(node.value))
    calls = [ast.unparse(part.func) for part in parts if isinstance(part, ast.Call)]
    acts = any(isinstance(part, ast.NamedExpr | ast.Await | ast.Yield) for part in parts)
    texts = any(isinstance(part, ast.JoinedStr | ast.Constant) for part in parts)
    return texts and not acts and all(name.split(".")[-1] in _FOR_TEXTS for name in calls)


def _with_packages(name: str) -> list[str]:
    """Return a module and the packages that hold it: importing it runs their `__init__.py` too.

    This package itself is left out. Its `__init__.py` holds the version, and a new version alone
    makes nothing stale.
    """
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(2, len(parts) + 1)]


def _is_docstring(node: ast.stmt) -> bool:
    """Tell whether a statement is a text alone: of a body, or of the attribute above it."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _names_what_is_public(node: ast.stmt) -> bool:
    """Tell whether a statement assigns `__all__`, which no other code reads."""
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
