"""Show the scores of `evaluate` as a table, and write them to files of three kinds."""

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from frankenlab import __version__
from frankenlab.analyse.comparisons import comparisons
from frankenlab.analyse.settings import Statistics
from frankenlab.io.errors import UserError, excerpt
from frankenlab.io.files import atomic_path, write_json
from frankenlab.io.parquet import write_parquet
from frankenlab.plans.plan import BASE
from frankenlab.tasks.index import TaskSettings

EXPLANATION = """\
change: against the base on the same documents; above 0 is better; in percentage points, or in
log-percent (100 times the logarithm of a ratio of perplexities)"""
EXPLANATION_OF_Q = "q: p corrected for the number of plans (Benjamini-Hochberg)"


def compared(scores: pd.DataFrame, settings: TaskSettings, statistics: Statistics) -> pd.DataFrame:
    """Return every plan of one task with the base, metric by metric, the primary one first.

    Args:
        scores: a table of `runner.evaluate_task` with the base among its plans.

    Returns:
        The rows of `analyse.comparisons` for each metric.
    """
    groups = dict.fromkeys(scores["plan"].unique(), "")
    tables = [
        comparisons(scores, name, settings.role, groups, statistics)
        for name in _metrics(scores, settings.metric)
    ]
    order = {plan: number for number, plan in enumerate(groups)}
    return pd.concat(
        [table.sort_values("plan", key=lambda plans: plans.map(order)) for table in tables],
        ignore_index=True,
    )


def _metrics(scores: pd.DataFrame, primary: str) -> list[str]:
    """Return the metrics of a task's table, which stand behind its other columns."""
    columns = list(scores.columns)
    behind = columns[columns.index("target") + 1 :]
    others = [
        name
        for name in behind
        if name not in (primary, "available") and not name.endswith(("_weight", "_sign"))
    ]
    return [primary, *others]


def printed(table: pd.DataFrame) -> str:
    """Return comparisons as a table for the terminal, which `EXPLANATION` explains."""
    several = table["plan"].nunique() > 2
    head = ["task", "metric", "plan", "n", "value", "stderr", "change", "95 % interval", "p"]
    rows = [head + ["q"] * several]
    for row in table.to_dict("records"):
        is_base = row["plan"] == BASE
        change = [
            f"{row['effect']:+.2f} {row['unit']}",
            f"[{_signed(row['low'])}, {_signed(row['high'])}]",
            _p(row["p"]),
            *([_p(row["q"])] if several else []),
        ]
        shown = [f"{row['value']:.4f}", _or_dash(row["value_stderr"], "{:.4f}".format)]
        named = [row["task"], row["metric"], excerpt(row["plan"], 40), str(row["n"])]
        rows.append([*named, *shown, *([""] * len(change) if is_base else change)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _signed(value: float) -> str:
    return _or_dash(value, "{:+.2f}".format)


def _p(value: float) -> str:
    return _or_dash(value, lambda p: "<.001" if p < 0.001 else f"{p:.3f}")


def _or_dash(value: float, form: Callable[[float], str]) -> str:
    """Return a number; a dash where a single document leaves it open."""
    return form(value) if math.isfinite(value) else "-"


def check_output(path: Path, force: bool) -> None:
    """Check a file's name before anything is computed for it.

    Raises:
        UserError: its ending says nothing, it exists and `force` is not given, or it cannot be
            written.
    """
    if path.suffix not in WRITERS:
        known = ", ".join(WRITERS)
        raise UserError(f"--output {path}: its ending must be one of {known}")
    if path.is_dir():
        raise UserError(f"--output {path}: is a directory")
    if path.exists() and not force:
        raise UserError(f"--output {path}: exists already; name another file, or add --force")
    check_folder(path.absolute().parent, f"--output {path}")


def check_folder(path: Path, where: str) -> None:
    """Check that files can be written to a folder, which may not be there yet.

    Raises:
        UserError: they cannot.
    """
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    try:
        # Permissions alone do not tell whether a file can be written here.
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{where}: nothing can be written to {there} ({reason})") from None


def write_scores(
    path: Path, scores: Sequence[pd.DataFrame], tables: Sequence[pd.DataFrame], run: Mapping
) -> None:
    """Write what the ending of the name says.

    Args:
        scores: rows of documents, a table for each task.
        tables: the same tasks' comparisons.
        run: for lm-eval's results, see `harness_results`.
    """
    WRITERS[path.suffix](path, scores, tables, run)


def _parquet(path: Path, scores: Sequence[pd.DataFrame], *_: Any) -> None:
    write_parquet(pd.concat(scores, ignore_index=True), path)


def _csv(path: Path, scores: Sequence[pd.DataFrame], *_: Any) -> None:
    with atomic_path(path) as temporary:
        pd.concat(scores, ignore_index=True).to_csv(temporary, index=False)


def _json(path: Path, _: Any, tables: Sequence[pd.DataFrame], run: Mapping) -> None:
    write_json(path, harness_results(tables, run))


WRITERS: dict[str, Callable[..., None]] = {".parquet": _parquet, ".csv": _csv, ".json": _json}


def harness_results(tables: Sequence[pd.DataFrame], run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results as lm-evaluation-harness writes them.

    Its file is of one model. Here the base stands under the name of the task, and another plan
    under `task [plan]`, with its change, the change's limits and p beside each metric.

    Args:
        run: `config` (of the run), and by task `versions` and `n-shot`.
    """
    found: dict[str, Any] = {"results": {}, "n-samples": {}, "versions": {}, "n-shot": {}}
    for table in tables:
        for row in table.to_dict("records"):
            task, plan, metric = row["task"], row["plan"], row["metric"]
            name = task if plan == BASE else f"{task} [{plan}]"
            if name not in found["results"]:
                found["results"][name] = {"alias": name, "plan": plan, "sample_len": row["n"]}
                found["n-samples"][name] = {"original": row["available"], "effective": row["n"]}
                for key in ("versions", "n-shot"):
                    found[key][name] = run[key][task]
            own = {metric: row["value"], f"{metric}_stderr": row["value_stderr"]}
            if plan != BASE:
                own |= {f"{metric}_change": row["effect"], f"{metric}_change_unit": row["unit"]}
                own |= {f"{metric}_change_{end}": row[end] for end in ("low", "high", "p")}
            # The filter, which is none for log-likelihoods.
            found["results"][name] |= {f"{key},none": _plain(value) for key, value in own.items()}
    found |= {"config": run["config"], "frankenlab_version": __version__, "date": time.time()}
    return found


def _plain(value: Any) -> Any:
    """Return a value that JSON has; lm-eval writes "N/A" where there is no number."""
    return "N/A" if isinstance(value, float) and not math.isfinite(value) else value
