"""The tables of `error_rates.py`."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from error_rates_experiments import Sizes

Column = Callable[[pd.DataFrame], str]

# At most one experiment in twenty may make any of these false claims.
BUDGET = 0.05
FALSE = (
    *("any false claim", "false verdicts", "false improved", "false harmed", "false equivalent"),
    *("false search", "false controls", "false bits"),
)
POWER = (
    *("search finds", "shortlist finds", "planted frozen", "gain improved", "equivalent reached"),
)
ERRORS = ("search error", "select error", "shrunken error", "confirm error")
COVERAGE = (
    *("search coverage", "select coverage", "shrunken coverage"),
    *("accuracies, 95 %", "accuracies, verdict's level"),
    *("perplexities, 95 %", "perplexities, verdict's level"),
)


def share(values: pd.Series) -> str:
    """Return a mean of shares as per cent, with its Monte Carlo error; a dash where there is
    none."""
    known = values.dropna().to_numpy(dtype=float)
    if not known.size:
        return "–"
    error = known.std() / math.sqrt(known.size)
    return f"{100 * known.mean():.1f} ± {100 * error:.1f}"


def points(values: pd.Series) -> str:
    """Return a mean error in points, with its Monte Carlo error."""
    known = values.dropna().to_numpy(dtype=float)
    if not known.size:
        return "–"
    return f"{known.mean():+.2f} ± {known.std() / math.sqrt(known.size):.2f}"


def over_budget(values: pd.Series) -> bool:
    """Tell whether a rate is above the budget by more than two Monte Carlo errors."""
    rate = values.mean()
    return bool(rate - 2 * np.sqrt(rate * (1 - rate) / len(values)) > BUDGET)


def table(found: Mapping[str, pd.DataFrame], columns: Mapping[str, Column]) -> str:
    """Return a Markdown table with a row for each setting."""
    lines = [f"| setting | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, rows in found.items():
        cells = [column(rows) for column in columns.values()]
        if set(cells) != {"–"}:
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shares(names: Sequence[str]) -> dict[str, Column]:
    """Return columns that show shares."""
    return {name: partial(cell, name=name, words=share) for name in names}


def cell(rows: pd.DataFrame, name: str, words: Callable[[pd.Series], str]) -> str:
    """Return what a column of the experiments amounts to."""
    return words(rows[name]) if name in rows else "–"


def page(
    found: Mapping[str, pd.DataFrame],
    sizes: Sizes,
    command: str,
    commit: str,
    seconds: float,
    workers: int,
) -> str:
    """Return the page."""
    draws = len(next(iter(found.values())))
    loud = [name for name, rows in found.items() if over_budget(rows["any false claim"])]
    errors = {name: partial(cell, name=name, words=points) for name in ERRORS}
    words = sorted(set().union(*(rows["outcome"] for rows in found.values())))
    outcomes = {
        name: rows.assign(**{word: (rows["outcome"] == word) * 1.0 for word in words})
        for name, rows in found.items()
    }
    return f"""# Error rates of whole experiments

`{command}` at commit {commit}: {draws} experiments of each setting, {seconds / 60:.0f} minutes
with {workers} processes. Documents of the two search tasks: search {sizes.search}, rounds of a race
{sizes.rounds or "none"}, select {sizes.select}, confirm {sizes.confirm}; of the guard tasks
{sizes.guard}, or {sizes.passages} passages. Per cent of experiments ± Monte Carlo error.

Above the budget of {100 * BUDGET:.0f} %: {", ".join(loud) or "no setting"}.

## False claims

{table(found, shares(FALSE))}

## Power

{table(found, shares(POWER))}

## Error of the frozen plan's effect on the search tasks, in points

{table(found, errors)}

## Coverage of the truth by the frozen plan's intervals

Search, select and shrunken: 95 % intervals of its mean effect over the search tasks.

{table(found, shares(COVERAGE))}

## Outcome of the headline

{table(outcomes, shares(words))}
"""
