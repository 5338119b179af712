"""Bits x duplication: what repeated layers cost at several bitrates of the same model.

Signs and units are `analysis`'s: above 0 is better, in percentage points or log-percent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from frankenlab.analyse import paired_tests as statistics
from frankenlab.analyse.comparisons import Comparison, Rules, compare
from frankenlab.analyse.outcomes import UNITS, Outcomes, metric_value, outcomes
from frankenlab.models.footprint import Footprint
from frankenlab.plans.plan import BASE, Plan, parse

# What the base must take at least as many bytes of as a franken does, to be compared with it.
RIVALS: dict[str, Callable[[Footprint, Plan], int]] = {
    "read": Footprint.read_bytes,
    "memory": Footprint.materialized_bytes,
}

TESTED = {"interaction": "interaction"} | {kind: f"{kind}_effect" for kind in RIVALS}

Key = tuple[str, str]  # plan, quantization


@dataclass(frozen=True)
class _Cells:
    """Scores [documents] of every (plan, quantization), on the documents that all of them saw."""

    measured: Outcomes
    scores: Mapping[Key, np.ndarray]

    def difference(self, one: Key, other: Key) -> np.ndarray:
        return self.scores[one] - self.scores[other]


def bits(
    scores: pd.DataFrame,
    metric: str,
    role: str,
    frozen: str,
    reference: str,
    footprints: Mapping[str, Footprint],
    n_layers: int,
    rules: Rules,
) -> pd.DataFrame:
    """One model's confirmed plans on one task at all of its quantizations.

    Every comparison is paired, over the documents that were scored at all quantizations:

    - `effect`: against the base at the same quantization, as in `verdicts`.
    - `shift`: against the base at the reference quantization.
    - `interaction`: effect here - effect at the reference, from each document's difference of
      differences: what quantizing adds to what repeating costs.
    - `read_effect`, `memory_effect`: against the base at `read_rival`, `memory_rival`, the
      quantization of the fewest bytes at which the base reads (holds) as many as this plan or
      more, the plan being a standalone checkpoint as far as it must be held. None where there is
      no such quantization, as for a deeper franken at the highest bitrate.

    p are uncorrected: `corrected` takes the table of all models and tasks.

    Args:
        scores: of the confirm stage, all quantizations.
        frozen: the frozen plan; every other but the base is a control.
        reference: where the plan was frozen.
        footprints: quantization -> what the weights take.
    """
    cells = _cells(scores, metric)
    sizes = {name: size for name, size in footprints.items() if (BASE, name) in cells.scores}
    texts = sorted({plan for plan, _ in cells.scores}, key=lambda t: (t != BASE, t != frozen, t))
    plans = {text: parse(text, n_layers) for text in texts}
    keys = [(text, name) for name in sizes for text in texts if (text, name) in cells.scores]
    rows = {key: _facts(cells, key, plans[key[0]], sizes[key[1]], metric) for key in keys}
    frankens = [key for key in keys if key[0] != BASE]

    _add(rows, "effect", {key: (BASE, key[1]) for key in frankens}, cells, rules)
    shifted = [key for key in keys if key != (BASE, reference)]
    _add(rows, "shift", dict.fromkeys(shifted, (BASE, reference)), cells, rules)
    _add_interactions(rows, [k for k in frankens if k[1] != reference], reference, cells, rules)
    base = parse(BASE, n_layers)
    for kind, cost in RIVALS.items():
        rivals = {}
        for plan, name in frankens:
            rival = _rival(cost(sizes[name], plans[plan]), {q: cost(sizes[q], base) for q in sizes})
            if rival is not None:
                rivals[(plan, name)] = (BASE, rival)
                rows[(plan, name)] |= {
                    f"{kind}_rival": rival,
                    f"{kind}_rival_bytes": cost(sizes[rival], base),
                }
        _add(rows, f"{kind}_effect", rivals, cells, rules)

    measured = cells.measured
    common = {
        "model": scores["model"].iloc[0],
        "reference": reference,
        "task": scores["task"].iloc[0],
        "role": role,
        "metric": metric,
        "kind": measured.kind,
        "unit": UNITS[measured.kind],
        "n": len(measured.documents),
        "n_clusters": len(np.unique(measured.clusters)),
    }
    groups = {BASE: "base", frozen: "frozen"}
    table = pd.DataFrame(
        {**common, "plan": plan, "group": groups.get(plan, "control"), "quantization": q, **row}
        for (plan, q), row in rows.items()
    )
    return table.reindex(columns=_columns())


def corrected(table: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    """Adds Holm's p and verdicts ("improved", "harmed", "equivalent", "inconclusive").

    Two families, each over all models, tasks, plans and bitrates: the interactions, and the
    comparisons with rivals, where the same rival by both costs is one test.
    """
    table = table.copy()
    table["interaction_p_holm"] = statistics.holm(table["interaction_p"])
    cell = ["model", "task", "plan", "quantization"]
    tests = pd.concat(
        table[cell].assign(kind=kind, row=table.index, rival=table[f"{kind}_rival"], p=p)
        for kind, p in ((kind, table[f"{kind}_p"]) for kind in RIVALS)
    )
    tests = tests[tests["p"].notna()]
    once = tests.drop_duplicates([*cell, "rival"])
    once = once.assign(p_holm=statistics.holm(once["p"]))
    tests = tests.merge(once[[*cell, "rival", "p_holm"]], on=[*cell, "rival"])
    for kind in RIVALS:
        own = tests[tests["kind"] == kind].set_index("row")["p_holm"]
        table[f"{kind}_p_holm"] = own.reindex(table.index).astype(float)
    for name, effect in TESTED.items():
        table[f"{name}_verdict"] = [
            _verdict(row, name, row[effect], rules) for row in table.to_dict("records")
        ]
    return table.drop(columns=[c for c in table if c.endswith(("low90", "high90"))])


def _verdict(row: Mapping[str, Any], name: str, effect: float, rules: Rules) -> str | None:
    if pd.isna(effect):
        return None
    return statistics.verdict(
        effect,
        row[f"{name}_p_holm"],
        row[f"{name}_low90"],
        row[f"{name}_high90"],
        margin=rules.margin,
        alpha=rules.alpha,
    )


def _cells(scores: pd.DataFrame, metric: str) -> _Cells:
    measured = {
        q: outcomes(rows, metric)
        for q, rows in scores.groupby("quantization", sort=False, observed=True)
    }
    common = sorted(set.intersection(*(set(m.documents) for m in measured.values())))
    rows = {}
    for quantization, found in measured.items():
        places = np.searchsorted(found.documents, common)
        rows |= {
            (plan, quantization): found.scores[i, places] for i, plan in enumerate(found.plans)
        }
    return _Cells(found.at(places), rows)


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


def _add(
    rows: dict[Key, dict[str, Any]],
    name: str,
    against: Mapping[Key, Key],
    cells: _Cells,
    rules: Rules,
) -> None:
    """Writes comparisons of cells with others into their rows."""
    if against:
        differences = np.array([cells.difference(*pair) for pair in against.items()])
        _write(rows, name, list(against), compare(differences, cells.measured, rules))


def _add_interactions(
    rows: dict[Key, dict[str, Any]], keys: list[Key], reference: str, cells: _Cells, rules: Rules
) -> None:
    """Differences of differences: a document moves by up to two steps, so signs alone, which
    McNemar's test counts, would not do."""
    keys = [key for key in keys if (key[0], reference) in cells.scores]
    if not keys:
        return
    differences = np.array(
        [
            cells.difference((plan, name), (BASE, name))
            - cells.difference((plan, reference), (BASE, reference))
            for plan, name in keys
        ]
    )
    found = compare(differences, cells.measured, rules)
    summed = statistics.by_cluster(differences, cells.measured.clusters)
    p = statistics.sign_flip_test(summed, seed=rules.seed, resamples=rules.resamples)
    _write(rows, "interaction", keys, replace(found, p=p))


def _write(rows: dict[Key, dict[str, Any]], name: str, keys: list[Key], found: Comparison) -> None:
    for i, key in enumerate(keys):
        rows[key][name] = found.effect[i]
        rows[key] |= {column: getattr(found, end)[i] for end, column in _ends(name).items()}


def _ends(name: str) -> dict[str, str]:
    """Attribute of a comparison -> column, for the effect of this name."""
    prefix = name.removesuffix("effect").rstrip("_")
    return {end: f"{prefix}_{end}".lstrip("_") for end in ("low", "high", "low90", "high90", "p")}


def _rival(own: int, costs: Mapping[str, int]) -> str | None:
    """Where the base costs as much as the plan does, or the least more."""
    enough = [name for name, cost in costs.items() if cost >= own]
    return min(enough, key=costs.__getitem__, default=None)


def _columns() -> list[str]:
    return [
        *("model", "quantization", "reference", "task", "role", "metric", "kind", "unit"),
        *("plan", "group", "depth", "relative_depth", "relative_compute", "bits_per_weight"),
        *(
            "head_bits",
            "weight_bytes",
            "materialized_bytes",
            "read_bytes",
            "n",
            "n_clusters",
            "value",
        ),
        *("effect", *_ends("effect").values()),
        *("shift", *_ends("shift").values()),
        *("interaction", *_ends("interaction").values()),
        *("read_rival", "read_rival_bytes", "read_effect", *_ends("read_effect").values()),
        *("memory_rival", "memory_rival_bytes", "memory_effect", *_ends("memory_effect").values()),
    ]
