"""The measurements as a Markdown page."""

import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MB = 1e6

Found = Mapping[str, Any]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def sweep_section(found: Found) -> str:
    header = [
        "task",
        "documents",
        "plans",
        "layer passes a plan",
        "s per plan",
        "first run",
        "layers",
    ]
    header += [
        "head",
        "rest",
        "padding",
        "MB above model",
        "kB written per plan",
        "task s",
        "load s",
    ]
    rows = []
    for result in found["results"]:
        plans = len(result["plans"])
        for name, task in result["tasks"].items():
            first, again = task["seconds"]
            parts = task["part_seconds"]
            layers, head = parts["layers"] / again, parts["head"] / again
            rows.append(
                [
                    *(name, task["documents"], plans, f"{result['passes'] / plans:.1f}"),
                    *(f"{again / plans:.3f}", f"{first / plans:.3f}"),
                    *(f"{layers:.0%}", f"{head:.0%}", f"{1 - layers - head:.0%}"),
                    f"{1 - task['tokens'] / task['tokens_padded']:.1%}",
                    f"{(task['memory_peak'] - task['memory_before']) / MB:.0f}",
                    f"{task['bytes_written'] / plans / 1e3:.1f}",
                    *(f"{task['task_seconds']:.1f}", f"{result['load_seconds']:.1f}"),
                ]
            )
    return f"## The sweep alone\n\n{table(header, rows)}"


def split_section(found: Found) -> str:
    result = found["results"][0]
    tasks = result["tasks"]
    rows = []
    for part in next(iter(tasks.values()))["split"]:
        shares = [t["split"][part] / t["profiled_seconds"] for t in tasks.values()]
        rows.append([part, *(f"{share:.1%}" for share in shares)])
    rows.append(["sum", *(f"{sum(t['split'].values()):.2f} s" for t in tasks.values())])
    rows.append(["profiled run", *(f"{t['profiled_seconds']:.2f} s" for t in tasks.values())])
    rows.append(
        ["same run, not profiled", *(f"{t['plain_seconds']:.2f} s" for t in tasks.values())]
    )
    speeds: dict[str, list[str]] = {}
    for task in tasks.values():
        for name, value in _speeds(task).items():
            speeds.setdefault(name, []).append(value)
    rows += [[name, *values] for name, values in speeds.items()]
    head = f"## Where the time goes\n\n{result['plans']} plans.\n\n"
    return head + table(["part", *tasks], rows)


def _speeds(task: Found) -> dict[str, str]:
    peaks, flops = task["peaks"], task["flops"]
    layers = flops["layers"] / task["part_seconds"]["layers"]
    split = task["split"]
    profiled = sum(value for name, value in split.items() if name.startswith("layers"))
    products = flops["layers"] / split["layers: matrix products"] if profiled else 0.0
    head = flops["head"] / (split["head: matrix product"] or 1.0)
    return {
        "layers, GFLOP/s": f"{layers / 1e9:.0f}",
        "of the peak at the same shapes": f"{layers / peaks['layer']:.0%}",
        "of the peak of one large product": f"{layers / peaks['large']:.0%}",
        "layers' products alone, GFLOP/s": f"{products / 1e9:.0f}",
        "tokens of a batch": f"{peaks['tokens']}",
        "peak at the same shapes, GFLOP/s": f"{peaks['layer'] / 1e9:.0f}",
        "peak of 4096 x 576 x 1536, GFLOP/s": f"{peaks['large'] / 1e9:.0f}",
        "head's product, GFLOP/s": f"{head / 1e9:.0f}",
        "head's peak, 512 positions, GFLOP/s": f"{peaks['head'] / 1e9:.0f}",
    }


SECTIONS: dict[str, Callable[[Found], str]] = {"sweep": sweep_section, "split": split_section}


def section(part: str, found: Found) -> str:
    return SECTIONS[part](found)


def page(pieces: Mapping[str, Found], threads: int) -> str:
    sections = [section(part, found) for part, found in pieces.items()]
    return "\n\n".join(["# Speed, beside peers", machine(threads), *sections]) + "\n"


def machine(threads: int) -> str:
    """Where and of what the measurements are."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run(
        [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True
    )
    dirty = " with changes" if changed.stdout.strip() else ""
    name = models[0] if models else platform.processor()
    return (
        f"{len(models)} cores ({name}), {threads} threads, "
        f"Python {platform.python_version()}, torch {version('torch')}, transformers "
        f"{version('transformers')}; commit {commit.stdout.strip()}{dirty}, "
        f"{time.strftime('%Y-%m-%d')}."
    )
