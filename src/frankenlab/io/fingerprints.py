"""Fingerprints of code: hashes that change when the code does, and not with its comments.

Snakemake's own `code` trigger looks at a script's time of modification, which any checkout changes,
and not at the modules that the script imports. A fingerprint covers a module and everything of this
package that it imports, without comments and docstrings. So an edit makes exactly that stale which
depends on it.
"""

import ast
import hashlib
import json
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = "frankenlab"
ROOT = Path(__file__).resolve().parents[1]

# Libraries that take part in every number.
NUMERIC_LIBRARIES = ("torch", "transformers", "tokenizers", "lm-eval")

# Libraries that take part in the numbers of one engine only.
ENGINE_LIBRARIES = {"exllamav2": ("exllamav2",)}


def library_versions(names: tuple[str, ...] = NUMERIC_LIBRARIES) -> dict[str, str]:
    """Return the installed versions without importing the libraries; "none" where one is absent."""
    return {name: _version(name) for name in names}


def engine_libraries(engine: str) -> dict[str, str]:
    """Return the installed versions of the libraries that take part in an engine's numbers."""
    return library_versions((*NUMERIC_LIBRARIES, *ENGINE_LIBRARIES.get(engine, ())))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def code_fingerprint(*sources: str | Path, length: int = 16) -> str:
    """Return a hash of the sources and of every module of the package that they import.

    Args:
        sources: names of modules (`frankenlab.io.files`), or paths of Python files or notebooks.
    """
    pending = [_locate(source) for source in sources]
    seen: dict[str, str] = {}
    while pending:
        path = pending.pop()
        name = _name(path)
        if name not in seen:
            seen[name], imported = _normalized(path, path.stat().st_mtime_ns)
            pending += imported
    digest = hashlib.sha256()
    for name in sorted(seen):
        digest.update(f"{name}\n{seen[name]}\n".encode())
    return digest.hexdigest()[:length]


def _locate(source: str | Path) -> Path:
    if isinstance(source, str) and source.split(".")[0] == PACKAGE:
        path = ROOT.joinpath(*source.split(".")[1:])
        return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return Path(source)


def _name(path: Path) -> str:
    """Return a name that does not depend on where the checkout is."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


@cache
def _normalized(path: Path, _mtime: int) -> tuple[str, list[Path]]:
    """Return the source without comments and docstrings, and the package's files it needs: those
    that it imports, and the assets of its name, `assets/page.css` of `page.py`."""
    source = path.read_text(encoding="utf-8")
    if path.suffix not in (".py", ".ipynb"):
        return source, []
    assets = sorted((path.parent / "assets").glob(f"{path.stem}.*"))
    if path.suffix == ".ipynb":
        cells = (cell for cell in json.loads(source)["cells"] if cell["cell_type"] == "code")
        source = "\n".join("".join(cell["source"]) for cell in cells)
    tree = ast.parse(source)
    imported = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.append(node.module)
            imported += [f"{node.module}.{alias.name}" for alias in node.names]
        body: list[ast.stmt] | None = getattr(node, "body", None)
        if isinstance(body, list):
            # A body must not be empty; `pass` stands for a docstring that was all of it.
            rest = [part for part in body if not _is_docstring(part)]
            node.body = rest or [ast.Pass()]  # type: ignore[attr-defined]
    ours = [
        _locate(reached)
        for name in imported
        if name.split(".")[0] == PACKAGE
        for reached in _with_packages(name)
    ]
    tree.body = [node for node in tree.body if not _names_what_is_public(node)] or [ast.Pass()]
    return ast.unparse(tree), [*assets, *(path for path in ours if path.is_file())]


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
