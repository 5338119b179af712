"""Bits x duplication: what repeated layers cost at several bitrates of the same model.

Signs and units are those of `comparisons`: an effect above 0 is better.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from frankenlab.analyse import error_budget
from frankenlab.analyse.comparisons import INTERVAL, concatenated, paired
from frankenlab.analyse.outcomes import UNITS, Outcomes, Task, metric_value, outcomes, shared
from frankenlab.analyse.paired_effects import PairedEffects
from frankenlab.analyse.settings import Statistics
from frankenlab.analyse.verdicts import judge
from frankenlab.models.footprint import Footprint
from frankenlab.plans.plan import BASE, Plan, parse

# A franken is compared with the base at the bitrate at which that takes at least as many bytes.
RIVALS: dict[str, Callable[[Footprint, Plan], int]] = {
    "read": Footprint.read_bytes,
    "memory": Footprint.materialized_bytes,
}

# Column of an effect -> what its interval's and its p's columns begin with.
PREFIXES = {"effect": "", "shift": "shift_", "interaction": "interaction_"} | {
    f"{kind}_effect": f"{kind}_" for kind in RIVALS
}
TESTED = ("interaction", *(f"{kind}_effect" for kind in RIVALS))

Key = tuple[str, str]  # plan, quantization


@dataclass(frozen=True)
class _Cells:
    """Scores [documents] of every (plan, quantization), on the documents that all of them saw."""

    measured: Outcomes
    scores: Mapping[Key, np.ndarray]

    def difference(self, one: Key, other: Key) -> np.ndarray:
        return self.scores[one] - self.scores[other]


@dataclass(frozen=True)
class TaskBitrates:
    """One model on one task at all quantizations, before any correction.

    Attributes:
        table: a row a plan and quantization.
        tested: name of an effect that is tested -> the (plan, quantization) that have it, in the
            order of their paired effects.
    """

    table: pd.DataFrame
    tested: Mapping[str, tuple[list[Key], PairedEffects]]


def bitrates(
    scores: pd.DataFrame,
    tasks: Mapping[str, Task],
    frozen: Mapping[str, Mapping[str, Any]],
    footprints: Mapping[str, Mapping[str, Footprint]],
    depths: Mapping[str, int],
    rules: Statistics,
) -> pd.DataFrame:
    """Compare every confirmed plan at all bitrates of its model, with corrections and verdicts.

    Args:
        scores: of the confirm stage, all models.
        frozen: model -> what `selection.freeze` made.
        footprints: model -> quantization -> what the weights take; only these models are compared.
        depths: model -> its number of layers.
    """
    found = []
    scores = scores[scores["model"].isin(list(footprints))]
    # No plan on a task has more tests than it has kinds of them.
    tests = len(TESTED) * len(scores[["model", "task", "plan", "quantization"]].drop_duplicates())
    smallest = error_budget.level(rules.alpha, "bits", tests)
    flips = error_budget.resamples(rules.resamples, smallest)
    for model, sizes in footprints.items():
        plan, reference = frozen[model]["frozen"], frozen[model]["reference_quantization"]
        own = scores[scores["model"] == model]
        for name, rows in own.groupby("task", sort=False, observed=True):
            found.append(
                task_bitrates(
                    rows, tasks[name], plan, reference, sizes, depths[model], rules, flips
                )
            )
    return corrected(found, rules)


def task_bitrates(
    scores: pd.DataFrame,
    task: Task,
    frozen: str,
    reference: str,
    footprints: Mapping[str, Footprint],
    n_layers: int,
    rules: Statistics,
    flips: int | None = None,
) -> TaskBitrates:
    """Compare one model's confirmed plans on one task at all of its quantizations.

    Every comparison is paired, over the documents that were scored at all quantizations:

    - `effect`: against the base at the same quantization, as in `verdicts`.
    - `shift`: against the base at the reference quantization.
    - `interaction`: effect here - effect at the reference, from each document's difference of
      differences: what quantizing adds to what repeating costs.
    - `read_effect`, `memory_effect`: against the base at `read_rival`, `memory_rival`, the
      quantization of the fewest bytes at which the base reads (holds) as many as this plan or
      more, the plan being a standalone checkpoint as far as it must be held. None where there is
      no such quantization, as for a deeper franken at the highest bitrate.

    p are uncorrected: `corrected` takes those of all models and tasks.

    Args:
        scores: of the confirm stage, all quantizations.
        frozen: the frozen plan; every other but the base is a control.
        reference: where the plan was frozen.
        footprints: quantization -> what the weights take.
        flips: how many random sign flips a test has, where the rules' are too few.
    """
    cells = _cells(scores, task.metric)
    sizes = {name: size for name, size in footprints.items() if (BASE, name) in cells.scores}
    texts = sorted({plan for plan, _ in cells.scores}, key=lambda t: (t != BASE, t != frozen, t))
    plans = {text: parse(text, n_layers) for text in texts}
    keys = [(text, name) for name in sizes for text in texts if (text, name) in cells.scores]
    frankens = [key for key in keys if key[0] != BASE]
    tested: dict[str, tuple[list[Key], PairedEffects]] = {}
    rows = {key: _facts(cells, key, plans[key[0]], sizes[key[1]], task.metric) for key in keys}

    def add(name: str, differences: Mapping[Key, np.ndarray]) -> None:
        if differences:
            stacked = np.array(list(differences.values()))
            found = paired(stacked, cells.measured, rules, flips)
            columns = (found.effect, *found.interval(0.95), found.p)
            for place, key in enumerate(differences):
                rows[key] |= dict(zip(_columns_of(name), (c[place] for c in columns), strict=True))
            if name in TESTED:
                tested[name] = list(differences), found

    effects = {key: cells.difference(key, (BASE, key[1])) for key in frankens}
    add("effect", effects)
    home = (BASE, reference)
    add("shift", {key: cells.difference(key, home) for key in keys if key != home})
    at_reference = {plan: effect for (plan, name), effect in effects.items() if name == reference}
    add(
        "interaction",
        {
            (plan, name): effects[plan, name] - at_reference[plan]
            for plan, name in frankens
            if name != reference and plan in at_reference
        },
    )
    for kind, cost in RIVALS.items():
        costs = {name: cost(size, plans[BASE]) for name, size in sizes.items()}
        against = {}
        for plan, name in frankens:
            rival = _rival(cost(sizes[name], plans[plan]), costs)
            if rival is not None:
                rows[plan, name] |= {f"{kind}_rival": rival, f"{kind}_rival_bytes": costs[rival]}
                against[plan, name] = cells.difference((plan, name), (BASE, rival))
        add(f"{kind}_effect", against)

    measured = cells.measured
    common = {
        "model": scores["model"].iloc[0],
        "reference": reference,
        "task": scores["task"].iloc[0],
        "role": task.role,
        "metric": task.metric,
        "kind": measured.kind,
        "unit": UNITS[measured.kind],
        "n": len(measured.documents),
        "n_clusters": measured.n_clusters,
    }
    groups = {BASE: "base", frozen: "frozen"}
    table = pd.DataFrame(
        {**common, "plan": plan, "group": groups.get(plan, "control"), "quantization": q, **row}
        for (plan, q), row in rows.items()
    )
    return TaskBitrates(table.reindex(columns=COLUMNS), tested)


def corrected(found: Iterable[TaskBitrates], rules: Statistics) -> pd.DataFrame:
    """Return the tables below each other with verdicts ("improved", "harmed", "equivalent",
    "inconclusive"), limits at the level of the verdicts, and corrected p.

    All interactions and all comparisons with rivals, over all models, tasks, plans and bitrates,
    share the budget of "bits". The same rival by both costs is one test.
    """
    found = list(found)
    level = error_budget.level(rules.alpha, "bits", sum(map(_tests, found)))
    tables = []
    for one in found:
        table = one.table.set_index(["plan", "quantization"], drop=False).assign(level=level)
        for name in TESTED:
            prefix = PREFIXES[name]
            keys, effects = one.tested.get(name, ([], None))
            made = dict.fromkeys(("verdict_low", "verdict_high", "p_corrected"), np.nan)
            table = table.assign(**{prefix + end: value for end, value in made.items()})
            table[f"{prefix}verdict"] = pd.Series(None, index=table.index, dtype=object)
            if effects is not None:
                shown = judge(effects, level, rules.margin)
                p = error_budget.corrected(effects.p, rules.alpha, level)
                table.loc[keys, f"{prefix}verdict_low"] = shown.low
                table.loc[keys, f"{prefix}verdict_high"] = shown.high
                table.loc[keys, f"{prefix}p_corrected"] = p
                table.loc[keys, f"{prefix}verdict"] = shown.verdict
        tables.append(table.reset_index(drop=True))
    return concatenated(tables)


def _tests(one: TaskBitrates) -> int:
    """Return how many different comparisons are tested."""
    interactions, _ = one.tested.get("interaction", ([], None))
    rivals = pd.concat(
        one.table[["plan", "quantization"]].assign(rival=one.table[f"{kind}_rival"])
        for kind in RIVALS
    )
    return len(interactions) + len(rivals.dropna().drop_duplicates())


def _cells(scores: pd.DataFrame, metric: str) -> _Cells:
    measured = shared(
        {
            q: outcomes(rows, metric)
            for q, rows in scores.groupby("quantization", sort=False, observed=True)
        }
    )
    rows: dict[Key, np.ndarray] = {}
    for quantization, found in measured.items():
        rows |= {(plan, quantization): found.row(plan) for plan in found.plans}
    return _Cells(found, rows)


def _facts(cells: _Cells, key: Key, plan: Plan, size: Footprint, metric: str) -> dict[str, Any]:
    return {
        "depth": plan.depth,
        "relative_depth": plan.depth / plan.n_layers,
        "relative_compute": size.relative_compute(plan),
        "bits_per_weight": size.bits_per_weight,
        "head_bits": size.head_bits,
        "weight_bytes": size.weight_bytes,
        "materialized_bytes": size.materialized_bytes(plan),
        "read_bytes": size.read_bytes(plan),
        "value": metric_value(cells.scores[key], cells.measured, metric),
    }


def _rival(own: int, costs: Mapping[str, int]) -> str | None:
    """Return the quantization at which the base costs as much as the plan does, or the least
    more."""
    enough = [name for name, cost in costs.items() if cost >= own]
    return min(enough, key=costs.__getitem__, default=None)


def _columns_of(name: str) -> list[str]:
    """Return the columns of an effect: itself, its 95 % limits and its p."""
    return [name, *(PREFIXES[name] + end for end in (*INTERVAL, "p"))]


COLUMNS = [
    *("model", "quantization", "reference", "task", "role", "metric", "kind", "unit", "plan"),
    *("group", "depth", "relative_depth", "relative_compute", "bits_per_weight", "head_bits"),
    *("weight_bytes", "materialized_bytes", "read_bytes", "n", "n_clusters", "value"),
    *(column for name in ("effect", "shift", "interaction") for column in _columns_of(name)),
    *("read_rival", "read_rival_bytes", *_columns_of("read_effect")),
    *("memory_rival", "memory_rival_bytes", *_columns_of("memory_effect")),
]
