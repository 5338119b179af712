"""How long Snakemake takes to see the whole of a large experiment: time and memory of a dry run.

Prints a Markdown table. Nothing is downloaded: sources are commits of the hub that a dry run only
names.

    python benchmarks/dag.py
"""

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
TASKS = ("arc_easy", "hellaswag", "piqa", "sst2", "winogrande", "sciq")
LAYERS = 32
SHAPES = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "n_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}

# (plans, models, tasks, shards)
SIZES = ((500, 1, 4, 8), (10_000, 3, 6, 8), (10_000, 3, 6, 64))
MOST_SECONDS, MOST_MB = 60, 1000


@dataclass(frozen=True)
class Cost:
    """Of a dry run: jobs, wall-clock and processor seconds, largest resident memory in MB."""

    jobs: int
    seconds: float
    processor: float
    memory_mb: float


def plans(count: int) -> list[str]:
    """Distinct plans that go back twice: layers up to j, from i to m, from k to the end."""
    draw, found = random.Random(1), {}
    while len(found) < count:
        (i, j), (k, m) = (sorted(draw.sample(range(LAYERS + 1), 2)) for _ in range(2))
        if i < m:
            found[f"0:{j},{i}:{m},{k}:{LAYERS}"] = None
    return list(found)


def experiment(n_plans: int, n_models: int, n_tasks: int, shards: int) -> dict[str, Any]:
    """A config of that size."""
    source = {"hub": "organisation/model", "revision": "0" * 40}
    return {
        "experiment": "dag",
        "device": "cuda",
        "planning": {"gpu_tflops": 165},
        "models": {
            f"model-{number}": {"source": source, "n_layers": LAYERS, "shapes": SHAPES}
            for number in range(n_models)
        },
        "tasks": {name: {"metric": "acc"} for name in TASKS[:n_tasks]},
        "plans": [{"generator": "explicit", "plans": plans(n_plans)}],
        "stages": {"search": {"limit": 100, "shards": shards}},
    }


def dry_run(config: dict[str, Any], folder: Path) -> Cost:
    """Of Snakemake in an empty folder, summary included."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "reason", "rules"]
    command += ["--snakefile", str(ROOT / "Snakefile"), "--configfile", "config.yaml"]
    start = time.perf_counter()
    with (folder / "out").open("w") as out:
        process = subprocess.Popen(
            [*command, "--cores", "1"],
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        )
        _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    text = (folder / "out").read_text()
    total = re.search(r"^total\s+(\d+)$", text, re.MULTILINE)
    if status or total is None:
        raise SystemExit(f"the dry run failed:\n{text[-3000:]}")
    return Cost(int(total[1]), seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.parse_args()
    print("| plans | models | tasks | shards | jobs | seconds | processor seconds | MB |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    over = False
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            cost = dry_run(experiment(*size), Path(folder))
        over = over or cost.processor > MOST_SECONDS or cost.memory_mb > MOST_MB
        row = (*size, cost.jobs, *(f"{x:.0f}" for x in (cost.seconds, cost.processor)))
        cells = " | ".join(f"{x:,}" if isinstance(x, int) else x for x in row)
        print(f"| {cells} | {cost.memory_mb:.0f} |", flush=True)
    if over:
        raise SystemExit(f"more than {MOST_SECONDS} s or {MOST_MB} MB")


if __name__ == "__main__":
    main()
