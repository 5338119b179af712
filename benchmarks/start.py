"""Measures the processor's seconds that jobs spend on imports before their work, by library.

    python -m benchmarks.start --out benchmarks/start.md
    python -m benchmarks.start --beside OTHER_CHECKOUT

Scripts take turns, and so do checkouts, for the machine's speed changes. How long it takes from the
start of a command that scores to its first batch is a part of `python -m benchmarks.speed`.
"""

import argparse
import ast
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_LINE = re.compile(r"^import time:\s*(\d+) \|\s*\d+ \|\s*([\w.]+)$", re.M)
# Packages that a row names, and the least seconds that it names one for.
NAMED, LEAST = 4, 0.05

# Jobs import these later, where a row is missing or a model is run.
ENGINE = "from frankenlab.engines import torch"
LATER = {
    "aggregate": "import scipy.stats",
    "evaluate": f"import transformers; {ENGINE}; from frankenlab.evaluate import sweep",
    "measure_cost": ENGINE,
    "probe": f"import transformers; {ENGINE}",
    "tables": "import scipy.stats",
}


def scripts(checkout: Path) -> list[str]:
    """Return the names of the rules' scripts."""
    return sorted(path.stem for path in (checkout / "workflow" / "scripts").glob("*.py"))


def beginning(checkout: Path, script: str) -> str:
    """Return the code of a script before its job, and what its job imports later."""
    tree = ast.parse((checkout / "workflow" / "scripts" / f"{script}.py").read_text("utf-8"))
    end = next(i for i, node in enumerate(tree.body) if isinstance(node, ast.With))
    return "\n".join([*map(ast.unparse, tree.body[:end]), LATER.get(script, "")])


def seconds(checkout: Path, code: str) -> float:
    """Return the processor's seconds of a process that runs some code with a checkout's package:
    other processes change them less than the clock's."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _run(checkout, [], code)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def shares(checkout: Path, code: str) -> Counter[str]:
    """Return package -> seconds of its own modules, among everything that some code imports."""
    found: Counter[str] = Counter()
    for microseconds, module in _LINE.findall(_run(checkout, ["-X", "importtime"], code)):
        found[module.partition(".")[0]] += int(microseconds) * 1e-6
    return found


def _run(checkout: Path, options: Sequence[str], code: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        cwd=checkout,
    ).stderr


def page(checkouts: Sequence[Path], names: Sequence[str], rounds: int) -> str:
    """Return the page: a row for each script, the median seconds of each checkout."""
    codes = {(c, n): beginning(c, n) for c in checkouts for n in names}
    times: dict[tuple[Path, str], list[float]] = {key: [] for key in codes}
    bare: list[float] = []
    for _ in range(rounds):
        bare.append(seconds(checkouts[0], ""))
        for name in names:
            for checkout in checkouts:
                key = checkout, name
                times[key].append(seconds(checkout, codes[key]))
    columns = ["s"] if len(checkouts) == 1 else ["s", "s, the other checkout", "ratio"]
    lines = [
        "# Start of a job",
        "",
        f"Processor seconds: the median of {rounds} starts of Python with the imports of a rule's "
        "job, in turns. Python alone",
        f"takes {statistics.median(bare):.2f} s. {os.cpu_count()} cores, "
        f"Python {platform.python_version()}. Made by `python -m benchmarks.start`.",
        "",
        f"| script | {' | '.join(columns)} | of it (seconds, under a profiler) |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for name in names:
        taken = [statistics.median(times[c, name]) for c in checkouts]
        cells = [f"{each:.2f}" for each in taken]
        if len(taken) > 1:
            cells.append(f"{taken[1] / taken[0]:.2f}")
        parts = shares(checkouts[0], codes[checkouts[0], name]).most_common(NAMED)
        named = ", ".join(f"{package} {s:.2f}" for package, s in parts if s >= LEAST)
        lines.append(f"| {name} | {' | '.join(cells)} | {named} |")
    return "\n".join(lines) + "\n"


def main(given: Sequence[str] = sys.argv[1:]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scripts", nargs="+", choices=scripts(ROOT), default=scripts(ROOT))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beside", type=Path, help="another checkout, which takes turns")
    parser.add_argument("--out", type=Path, help="a file for the page; else it is printed")
    options = parser.parse_args(given)
    checkouts = [ROOT, *([options.beside.resolve()] if options.beside else [])]
    text = page(checkouts, options.scripts, options.rounds)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
