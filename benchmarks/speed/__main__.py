"""Measures the sweep beside its peers and writes the tables.

    python -m benchmarks.speed --parts sweep split start peers agreement growth

Every measurement runs in a process of its own with the same number of threads; what it found is
kept under --scratch, so that parts can be run one by one and still make one page.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.setting import TASKS, Setting, thread_variables
from benchmarks.speed.tables import page, section

ROOT = Path(__file__).resolve().parents[2]

# Part -> the (file, function, argument) that it runs, in this order, each in its own process.
PARTS: dict[str, list[tuple[str, str, str]]] = {
    "sweep": [("ours", "run_sweeps", "blocks"), ("ours", "run_sweeps", "config")],
    "split": [("ours", "run_split", "blocks")],
}


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    default = Setting()
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--config", default=default.config, help="model, tasks and data are its")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--documents", type=int, help="most documents of a task")
    parser.add_argument("--plans", type=int, help="most plans of a grid")
    parser.add_argument("--peer-plans", type=int, default=default.peer_plans)
    parser.add_argument("--repeats", type=int, default=default.repeats, help="rounds of the peers")
    parser.add_argument("--threads", type=int, default=default.threads)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/speed.md"))
    parser.add_argument("--scratch", type=Path, default=Path("results/bench"))
    return parser.parse_args(given)


def measure(setting: Setting, step: tuple[str, str, str], scratch: Path) -> Any:
    """Runs one function of one file in a process of its own."""
    result = scratch / "result.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.speed.worker", *step, setting.to_json(), result]
    subprocess.run(command, check=True, cwd=ROOT, env=thread_variables(setting.threads))
    return json.loads(result.read_text())


def main(given: Sequence[str] = sys.argv[1:]) -> int:
    found = arguments(given)
    setting = Setting(
        config=found.config,
        tasks=tuple(found.tasks),
        documents=found.documents,
        plans=found.plans,
        peer_plans=found.peer_plans,
        repeats=found.repeats,
        threads=found.threads,
    )
    scratch = found.scratch.resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    for part in (name for name in PARTS if name in found.parts):
        begun = time.monotonic()
        results = [measure(setting, step, scratch) for step in PARTS[part]]
        kept = {"setting": json.loads(setting.to_json()), "results": results}
        (scratch / f"{part}.json").write_text(json.dumps(kept, indent=1) + "\n")
        print(f"\n{section(part, kept)}\n({part}: {time.monotonic() - begun:.0f} s)", flush=True)
    pieces = {p: json.loads(f.read_text()) for p in PARTS if (f := scratch / f"{p}.json").is_file()}
    found.out.write_text(page(pieces, setting.threads))
    print(found.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
