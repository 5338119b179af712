"""From the start of `frankenlab evaluate` to its first batch, and what takes that time."""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.speed.setting import Setting

STARTS = 3
_LINE = re.compile(r"^import time:\s*(\d+) \|\s*\d+ \|\s*([\w.]+)$", re.M)


def run_start(setting: Setting, task: str) -> dict[str, Any]:
    """Several starts, the first with whatever the file cache held; one more with `-X importtime`,
    for the shares of the packages in the imports."""
    starts = [_start(setting, task, [])[0] for _ in range(STARTS)]
    _, log = _start(setting, task, ["-X", "importtime"])
    packages: Counter[str] = Counter()
    for microseconds, module in _LINE.findall(log):
        packages[module.partition(".")[0]] += int(microseconds) * 1e-6
    return {"task": task, "starts": starts, "imports": dict(packages.most_common(8))}


def _start(setting: Setting, task: str, options: list[str]) -> tuple[dict[str, float], str]:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "stamps.json"
        command = [sys.executable, *options, "-m", "benchmarks.speed.first_batch", str(result)]
        given = [str(setting.model), "--plan", "base", "--task", task, "--config", setting.config]
        given += ["--limit", str(setting.limit(task)), "--store", f"{folder}/store"]
        begun = time.time()
        done = subprocess.run(
            [*command, "evaluate", *given, "--output", f"{folder}/scores.parquet"],
            check=True,
            capture_output=True,
            text=True,
        )
        stamps = json.loads(result.read_text())
    return _parts(begun, stamps), done.stderr


def _parts(begun: float, stamps: dict[str, float]) -> dict[str, float]:
    """Seconds between one stamp and the next."""
    times = [begun, *stamps.values()]
    parts = {name: b - a for name, a, b in zip(stamps, times, times[1:], strict=False)}
    return {**parts, "total": times[-1] - begun}
