"""What code reaches by its imports: as fingerprints see it, without importing anything."""

import ast
from collections.abc import Iterable
from pathlib import Path

from frankenlab.io import fingerprints


def reached(sources: Iterable[str | Path]) -> list[Path]:
    """Return the sources (names of modules, or files) and all files of the package they reach."""
    pending = [fingerprints._locate(source) for source in sources]
    seen: dict[Path, None] = {}
    while pending:
        path = pending.pop()
        if path not in seen:
            seen[path] = None
            pending += fingerprints._normalized(path, path.stat().st_mtime_ns).imported
    return list(seen)


def libraries(path: Path) -> set[str]:
    """Return the top-level names of everything that a file imports, at whatever place."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found
