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
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.speed.page import commit, page
from benchmarks.speed.setting import TASKS, Setting, environment
from benchmarks.speed.tables import section

# Runs a function of a file of this package in a process of its own: (file, function, argument).
Run = Callable[[str, str, str], Any]


def sweep_part(run: Run, setting: Setting) -> Any:
    return [run("ours", "run_sweeps", grid) for grid in ("blocks", "config")]


def split_part(run: Run, setting: Setting) -> Any:
    return run("ours", "run_split", "blocks")


def start_part(run: Run, setting: Setting) -> Any:
    return run("start", "run_start", setting.tasks[0])


def peers_part(run: Run, setting: Setting) -> Any:
    """All ways take turns, so that what else the machine does falls on all of them."""
    tuned = run("peers", "run_in_memory", "tune")["tasks"]
    best = {name: min(seconds, key=seconds.get) for name, seconds in tuned.items()}
    sizes = ",".join(f"{name}={size}" for name, size in best.items())
    rounds = [
        {
            "sweep": run("ours", "run_sweeps", "blocks"),
            "in memory": run("peers", "run_in_memory", sizes),
            "written": run("peers", "run_written", sizes),
            "layer-scan": run("peers", "run_layer_scan", ""),
        }
        for _ in range(setting.repeats)
    ]
    return {"tuned": tuned, "best": best, "rounds": rounds}


def agreement_part(run: Run, setting: Setting) -> Any:
    return run("agreement", "run_agreement", "blocks")


def growth_part(run: Run, setting: Setting) -> Any:
    return [run("growth", "run_growth", axis) for axis in ("plans", "documents", "depth")]


PARTS = {
    "sweep": sweep_part,
    "split": split_part,
    "start": start_part,
    "peers": peers_part,
    "agreement": agreement_part,
    "growth": growth_part,
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
    parser.add_argument("--documents", type=int, help="documents of each task")
    parser.add_argument("--plans", type=int, help="most plans of a grid")
    parser.add_argument("--peer-plans", type=int, default=default.peer_plans)
    parser.add_argument("--repeats", type=int, default=default.repeats, help="rounds of the peers")
    parser.add_argument("--threads", type=int, default=default.threads)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/speed.md"))
    parser.add_argument("--scratch", default=default.scratch, help="folder for what is made")
    return parser.parse_args(given)


def measure(setting: Setting, file: str, function: str, argument: str) -> Any:
    result = setting.scratch_folder("results") / "result.json"
    result.unlink(missing_ok=True)
    call = [file, function, argument, setting.to_json(), str(result)]
    command = [sys.executable, "-m", "benchmarks.speed.worker", *call]
    print(f"{time.strftime('%H:%M:%S')} {file}.{function}({argument!r})", flush=True)
    subprocess.run(command, check=True, env=environment(setting.threads))
    return json.loads(result.read_text())


def main(given: Sequence[str] = sys.argv[1:]) -> int:
    found = vars(arguments(given))
    parts, out = found.pop("parts"), found.pop("out")
    setting = Setting(**(found | {"tasks": tuple(found["tasks"])}))
    results = setting.scratch_folder("results")
    for name in (part for part in PARTS if part in parts):
        begun = time.monotonic()
        kept = {
            "commit": commit(),
            "setting": json.loads(setting.to_json()),
            "found": PARTS[name](partial(measure, setting), setting),
            "minutes": (time.monotonic() - begun) / 60,
        }
        (results / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
        print(f"\n{section(name, kept)}\n", flush=True)
        out.write_text(page(results, list(PARTS), setting.threads))
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
