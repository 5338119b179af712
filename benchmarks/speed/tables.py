"""The measurements as Markdown tables."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

MB, KB = 1e6, 1e3

# The ways to score a plan.
SWEEP, PRODUCTS = "the sweep", "its matrix products at the peak"
IN_MEMORY, MERGE = "lm-eval on a model in memory", "mergekit, then lm-eval"

PEAK = (
    "The peak is that of matrix products of the sweep's own shapes, measured beside it with its "
    "clock stopped: no sweep of these plans and tokens can take less."
)

Found = Any


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def sweep_section(found: Found) -> str:
    """(a) alone."""
    header = ["task", "documents", "plans", "layer passes a plan", "s per plan"]
    header += ["its products at the peak", "layers", "head", "rest", "padding"]
    header += ["MB above the model", "kB written per plan", "task, s", "model, s"]
    rows = []
    for result in found:
        plans = len(result["plans"])
        for name, task in result["tasks"].items():
            seconds, parts = task["seconds"], task["part_seconds"]
            layers, head = parts["layers"] / seconds, parts["head"] / seconds
            rows.append(
                [
                    *(name, task["documents"], plans, f"{result['passes'] / plans:.1f}"),
                    *(f"{seconds / plans:.3f}", f"{task['least_seconds'] / plans:.3f}"),
                    *(f"{layers:.0%}", f"{head:.0%}", f"{1 - layers - head:.0%}"),
                    f"{1 - task['tokens'] / task['tokens_padded']:.1%}",
                    f"{(task['memory_peak'] - task['memory_before']) / MB:.0f}",
                    f"{task['bytes_written'] / plans / KB:.1f}",
                    *(f"{task['task_seconds']:.1f}", f"{result['load_seconds']:.1f}"),
                ]
            )
    note = (
        "The whole of `evaluate`, its store on: seconds of all plans over their number. Loading "
        f"the task and the model is not in it. {PEAK}"
    )
    return f"## The sweep alone\n\n{note}\n\n{table(header, rows)}"


def split_section(found: Found) -> str:
    """By torch's profiler."""
    tasks = found["tasks"]
    rows = []
    for part in next(iter(tasks.values()))["split"]:
        shares = [t["split"][part] / t["profiled_seconds"] for t in tasks.values()]
        rows.append([part, *(f"{share:.1%}" for share in shares)])
    rows.append(["profiled run", *(f"{t['profiled_seconds']:.2f} s" for t in tasks.values())])
    plain = [f"{t['plain_seconds']:.2f} s" for t in tasks.values()]
    rows.append(["the same, not profiled", *plain])
    speeds: dict[str, list[str]] = {}
    for task in tasks.values():
        for name, value in _speeds(task).items():
            speeds.setdefault(name, []).append(value)
    rows += [[name, *values] for name, values in speeds.items()]
    note = (
        f"Blocks, {found['plans']} plans. GFLOP/s of the layers are their matrix products' "
        "operations, padding included, over all the time in them, not profiled; the peak was "
        "measured every few seconds of the same sweep."
    )
    return f"## Where the time goes\n\n{note}\n\n{table(['part', *tasks], rows)}"


def share_of_peak(task: Found) -> float:
    """The layers' operations a second, over all the time in them, of the peak at their shapes."""
    layers = task["flops"]["layers"] / task["part_seconds"]["layers"]
    return layers / task["peaks"]["layer"]


def _speeds(task: Found) -> dict[str, str]:
    peaks, flops, split = task["peaks"], task["flops"], task["split"]
    layers = flops["layers"] / task["part_seconds"]["layers"]
    products = flops["layers"] / (split["layers: matrix products"] or 1.0)
    head = flops["head"] / (split["head: matrix product"] or 1.0)
    return {
        "padding": f"{1 - task['tokens'] / task['tokens_padded']:.1%}",
        "tokens of a batch": f"{task['tokens_padded'] / task['batches']:.0f}",
        "layers, GFLOP/s": f"{layers / 1e9:.0f}",
        "of the peak at the same shapes": f"{share_of_peak(task):.0%}",
        "of the peak of one large product": f"{layers / peaks['large']:.0%}",
        "their matrix products alone, GFLOP/s": f"{products / 1e9:.0f}",
        "peak at the same shapes, GFLOP/s": f"{peaks['layer'] / 1e9:.0f}",
        "peak of 4096 x 576 x 1536, GFLOP/s": f"{peaks['large'] / 1e9:.0f}",
        "head's product, GFLOP/s": f"{head / 1e9:.0f}",
        "head's peak, 512 positions, GFLOP/s": f"{peaks['head'] / 1e9:.0f}",
    }


def start_section(found: Found) -> str:
    """Process start to first batch."""
    starts = found["starts"]
    header = ["part", "fastest, s", "median, s"]
    rows = [
        [part, f"{min(s[part] for s in starts):.2f}", f"{median(s[part] for s in starts):.2f}"]
        for part in starts[0]
    ]
    packages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in found["imports"].items())
    note = f"`frankenlab evaluate` on {found['task']}, {len(starts)} starts."
    imports = f"Modules' own time by package, where each import is timed: {packages}."
    return f"## From start to the first batch\n\n{note}\n\n{table(header, rows)}\n\n{imports}"


def peers_section(found: Found) -> str:
    """(a) to (d) side by side."""
    rounds = found["rounds"]
    names = list(rounds[0]["sweep"]["tasks"])
    rows = [row for name in names for row in _peer_rows(name, rounds)]
    header = ["task", "way", "s per plan, fastest", "median", "of the sweep's (fastest)", "parts"]
    best = ", ".join(f"{name} {size}" for name, size in found["best"].items())
    tried = ", ".join(next(iter(found["tuned"].values())))
    note = (
        f"{len(rounds)} rounds in which the ways took turns. The harness runs as many rows at once "
        f"as was fastest for it of {tried}: {best}. Imports and reading the task's data are in no "
        f"way's time, and the sweep's model is loaded once for all plans. {PEAK}"
    )
    scan = _scan_lines(rounds)
    accuracies = _accuracy_table(names, rounds)
    return (
        f"## Beside peers\n\n{note}\n\n{table(header, rows)}\n\n{scan}\n\n"
        f"Accuracy of the same plans on the same documents, bf16 in all:\n\n{accuracies}"
    )


def peer_seconds(name: str, rounds: Sequence[Found]) -> dict[str, list[float]]:
    """Way -> seconds per plan of a task in each round, the mean over the way's plans."""
    merges = [sum(_merge_parts(name, r)) for r in rounds]
    memory = [_mean(x["seconds"] for x in r["in memory"]["tasks"][name].values()) for r in rounds]
    return {
        SWEEP: _of_sweeps(name, "seconds", rounds),
        PRODUCTS: _of_sweeps(name, "least_seconds", rounds),
        IN_MEMORY: memory,
        MERGE: merges,
    }


def _merge_parts(name: str, found: Found) -> tuple[float, float, float]:
    """Seconds to write a merge, to load it and to score it."""
    plans = found["written"]["plans"].values()
    scoring = _mean(x["seconds"] for x in found["written"]["tasks"][name].values())
    return _mean(p["write"] for p in plans), _mean(p["load"] for p in plans), scoring


def _peer_rows(name: str, rounds: Sequence[Found]) -> list[list[str]]:
    write, load, scoring = min((_merge_parts(name, r) for r in rounds), key=sum)
    size = _mean(p["bytes"] for p in rounds[0]["written"]["plans"].values())
    parts = f"{write:.1f} write ({size / MB:.0f} MB) + {load:.1f} load + {scoring:.1f} score"
    seconds = peer_seconds(name, rounds)
    sweep = min(seconds[SWEEP])
    return [
        [
            *(name, way, f"{min(times):.2f}", f"{median(times):.2f}"),
            *(f"{min(times) / sweep:.1f}", parts if way == MERGE else ""),
        ]
        for way, times in seconds.items()
    ]


def _of_sweeps(name: str, what: str, rounds: Sequence[Found]) -> list[float]:
    """Of each round, seconds per plan."""
    sweeps = [r["sweep"] for r in rounds]
    return [s["tasks"][name][what] / len(s["plans"]) for s in sweeps]


def _scan_lines(rounds: Sequence[Found]) -> str:
    scans = [r["layer-scan"] for r in rounds]
    seconds = min(_mean(x["seconds"] for x in s["plans"].values()) for s in scans)
    tokens = scans[0]["tokens"]
    name = next(iter(rounds[0]["sweep"]["tasks"]))
    ours = min(_of_sweeps(name, "seconds", rounds))
    distinct = rounds[0]["sweep"]["tasks"][name]["tokens"]
    scan, sweep = seconds / tokens * 1e3, ours / distinct * 1e3
    return (
        f"layer-scan needs {seconds:.2f} s per plan for the {tokens} tokens of its probe, "
        f"{scan:.2f} ms a token, of which it scores one in a text; the sweep on {name} "
        f"{sweep:.3f} ms a distinct token ({scan / sweep:.0f} times less), scoring every answer."
    )


def _accuracy_table(names: Sequence[str], rounds: Sequence[Found]) -> str:
    first, rows = rounds[0], []
    for name in names:
        ours = first["sweep"]["tasks"][name]["means"]
        for plan, row in first["in memory"]["tasks"][name].items():
            other = first["written"]["tasks"][name][plan]["mean"]
            rows.append([name, plan, *(f"{x:.3f}" for x in (ours[plan], row["mean"], other))])
    return table(["task", "plan", "sweep", "in memory", "mergekit, then lm-eval"], rows)


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def agreement_section(found: Found) -> str:
    """bf16 beside float32, float32 beside the harness."""
    rows = [
        [
            *(name, row["pairs"], f"{row['decisions_that_differ']:.1%}"),
            *(f"{row['by_plan']['base']:.1%}", f"{max(row['by_plan'].values()):.1%}"),
            f"{row['bf16_median_difference']:.3f}",
            f"{row['bf16_largest_difference']:.2f}",
            f"{row['harness_largest_difference']:.1e}",
            row["harness_documents"],
        ]
        for name, row in found["tasks"].items()
    ]
    header = ["task", "plan-documents", "decisions that bf16 changes", "of the base"]
    header += ["of the worst plan", "median difference, nats", "largest"]
    header += ["largest difference to lm-eval, both float32", "on documents"]
    note = (
        f"Plans {'; '.join(found['plans'])}; beside lm-eval {'; '.join(found['harness_plans'])}. "
        "A difference is of one answer's log-likelihood."
    )
    return f"## Agreement\n\n{note}\n\n{table(header, rows)}"


def growth_section(found: Found) -> str:
    """Along each axis, the others fixed."""
    header = ["layers", "plans", "documents", "trie nodes", "tokens", "s", "ns per node and token"]
    header += ["head, us per plan and position", "rest, us per plan and document"]
    header += ["MB above the model", "`make plan` says, s", "of measured"]
    pieces = []
    for axis in found:
        rows = [_growth_row(row) for row in axis["rows"]]
        pieces.append(f"### {axis['axis'].capitalize()}\n\n{table(header, rows)}")
    note = (
        "ARC-Easy; plans are evenly spread over all blocks (i, j). Depth grows on models with "
        "random weights, 192 wide. The prediction is without the start of a job, and from the "
        "matrix product that `make plan` measures once, here measured every few seconds."
    )
    return "\n\n".join([f"## Growth\n\n{note}", *pieces])


def _growth_row(row: Mapping[str, Any]) -> list[str]:
    parts, seconds = row["part_seconds"], row["seconds"]
    per_node = parts["layers"] / (row["passes"] * row["tokens"])
    per_position = parts["head"] / (row["plans"] * row["positions_scored"])
    rest = (seconds - parts["layers"] - parts["head"]) / (row["plans"] * row["documents"])
    predicted = row.get("predicted_seconds")
    said = ["", ""] if predicted is None else [f"{predicted:.1f}", f"{predicted / seconds:.2f}"]
    return [
        *(f"{row[name]:.0f}" for name in ("layers", "plans", "documents", "passes", "tokens")),
        *(f"{seconds:.1f}", f"{per_node * 1e9:.0f}", f"{per_position * 1e6:.0f}"),
        *(f"{rest * 1e6:.0f}", f"{row['memory'] / MB:.0f}", *said),
    ]


SECTIONS: dict[str, Callable[[Found], str]] = {
    "sweep": sweep_section,
    "split": split_section,
    "start": start_section,
    "peers": peers_section,
    "agreement": agreement_section,
    "growth": growth_section,
}


def section(part: str, kept: Mapping[str, Any]) -> str:
    return SECTIONS[part](kept["found"])
