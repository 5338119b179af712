"""The page of all measurements: what they come to, then their tables."""

import json
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.speed.setting import ROOT
from benchmarks.speed.tables import (
    IN_MEMORY,
    KB,
    MB,
    MERGE,
    PRODUCTS,
    SWEEP,
    Found,
    peer_seconds,
    section,
    share_of_peak,
    table,
)


def page(results: Path, parts: Sequence[str], threads: int) -> str:
    """All parts whose results there are."""
    files = {part: results / f"{part}.json" for part in parts}
    kept = {part: json.loads(file.read_text()) for part, file in files.items() if file.is_file()}
    head = ["# Speed, beside peers", f"{machine(threads)} {_commits(kept)}", *_summary(kept)]
    return "\n\n".join([*head, *(section(part, kept[part]) for part in kept)]) + "\n"


def _summary(kept: Mapping[str, Any]) -> list[str]:
    """What the parts come to, of those that there are."""
    found = {part: result["found"] for part, result in kept.items()}
    texts = [_ratios(found["peers"]["rounds"], found.get("sweep", []))] if "peers" in found else []
    lines = _lines(found)
    return ["## In short", *texts, "\n".join(lines)] if lines else []


def _ratios(rounds: Sequence[Found], sweeps: Sequence[Found]) -> str:
    """How many times longer than the sweep the others take, on every grid that was swept."""
    header, rows = ["task"], []
    grids = [len(rounds[0]["sweep"]["plans"]), *(len(s["plans"]) for s in sweeps[1:])]
    for plans in grids:
        header += [f"{MERGE}, / the sweep of {plans} plans", f"{IN_MEMORY}, / it"]
        header += ["of its time, its products at the peak"]
    for name in rounds[0]["sweep"]["tasks"]:
        peers = peer_seconds(name, rounds)
        ours = [(min(peers[SWEEP]), min(peers[PRODUCTS]))]
        for swept in sweeps[1:]:
            task, plans = swept["tasks"][name], len(swept["plans"])
            ours.append((task["seconds"] / plans, task["least_seconds"] / plans))
        row = [name]
        for seconds, least in ours:
            row += [f"{min(peers[way]) / seconds:.1f}" for way in (MERGE, IN_MEMORY)]
            row.append(f"{least / seconds:.0%}")
        rows.append(row)
    return table(header, rows)


def _lines(found: Mapping[str, Any]) -> list[str]:
    lines = []
    if "sweep" in found:
        tasks = [(t, len(s["plans"])) for s in found["sweep"] for t in s["tasks"].values()]
        memory = max(task["memory_peak"] - task["memory_before"] for task, _ in tasks)
        disk = max(task["bytes_written"] / plans for task, plans in tasks)
        lines.append(f"- Most memory above the loaded model: {memory / MB:.0f} MB.")
        lines.append(f"- Most written per plan and task: {disk / KB:.1f} kB.")
    if "split" in found:
        shares = []
        for name, task in found["split"]["tasks"].items():
            rest = 1 - task["part_seconds"]["layers"] / task["plain_seconds"]
            shares.append(f"{name} {share_of_peak(task):.0%} and {rest:.0%}")
        text = "Layers' share of the matrix peak, and share of time outside of the layers: "
        lines.append(f"- {text}{'; '.join(shares)}.")
    if "start" in found:
        fastest = min(start["total"] for start in found["start"]["starts"])
        lines.append(f"- From start to the first batch: {fastest:.1f} s.")
    if "agreement" in found:
        worst = max(t["decisions_that_differ"] for t in found["agreement"]["tasks"].values())
        lines.append(f"- Decisions that bf16 changes, of the worst task: {worst:.1%}.")
    return lines


def machine(threads: int) -> str:
    """What the measurements are made on."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    name = models[0] if models else platform.processor()
    return (
        f"{len(models)} cores ({name}), {threads} threads, Python {platform.python_version()}, "
        f"torch {version('torch')}, transformers {version('transformers')}."
    )


def commit() -> str:
    """What is measured, and when; the pages are not part of it."""
    sources = (".", ":(exclude)benchmarks/*.md")
    changed = " with changes" if _git("status", "--porcelain", "-uno", "--", *sources) else ""
    return f"{_git('rev-parse', '--short', 'HEAD')}{changed}, {time.strftime('%Y-%m-%d')}"


def _commits(kept: Mapping[str, Any]) -> str:
    """Which parts are of which commit: they need not be run together."""
    parts: dict[str, list[str]] = {}
    for part, result in kept.items():
        parts.setdefault(result["commit"], []).append(part)
    texts = (f"{made} ({', '.join(names)})" for made, names in parts.items())
    return f"Commits: {'; '.join(texts)}."


def _git(*given: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *given], capture_output=True, text=True)
    return done.stdout.strip()
