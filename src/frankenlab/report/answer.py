"""The answer in three sentences: are frankenmodels a free lunch here?"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

FREE, NONE, UNTOLD = "free", "none", "untold"
VERDICTS = ("improved", "harmed", "equivalent", "inconclusive")
MOST_NAMED = 3


def outcome(verdicts: pd.DataFrame) -> str:
    """What the verdicts on one frozen franken amount to: "free", "none" or "untold".

    Takes its rows of the table `verdicts`, one a task. A free lunch needs a gain on a search task,
    no harm anywhere and every guard task, of at least one, equivalent or improved. None is served
    when anything is harmed, or when all search tasks are equivalent. The rest cannot be told.
    """
    search = verdicts.loc[verdicts["role"] == "search", "verdict"]
    guard = verdicts.loc[verdicts["role"] == "guard", "verdict"]
    if (verdicts["verdict"] == "harmed").any() or (len(search) and (search == "equivalent").all()):
        return NONE
    safe = len(guard) and guard.isin(["improved", "equivalent"]).all()
    return FREE if safe and (search == "improved").any() else UNTOLD


def answer(
    tables: Mapping[str, pd.DataFrame],
    frozen: Sequence[Mapping[str, Any]],
    confidence: float = 0.95,
) -> list[str]:
    """Three sentences: the verdict; the frozen frankens and what they cost; the controls.

    Args:
        tables: needs `verdicts`; `comparisons`, `costs` and `pairs` are used where present.
        frozen: the contents of `frozen/*.json`.
        confidence: level of the intervals in the tables.

    Gives one sentence instead when no frozen franken has verdicts yet.
    """
    verdicts = tables.get("verdicts")
    if verdicts is None or verdicts.empty or not (verdicts["group"] == "frozen").any():
        return ["No answer yet: no franken was confirmed on fresh documents."]
    own = verdicts[verdicts["group"] == "frozen"]
    return [
        _verdict_sentence(own),
        _frozen_sentence(own, tables, frozen, confidence),
        _control_sentence(own, tables.get("pairs"), frozen, confidence),
    ]


def _verdict_sentence(own: pd.DataFrame) -> str:
    outcomes = own.groupby(["model", "quantization"], sort=False)[own.columns.tolist()].apply(
        outcome
    )
    total, counts = len(outcomes), outcomes.value_counts()
    free, none, untold = (int(counts.get(key, 0)) for key in (FREE, NONE, UNTOLD))
    models = own["model"].nunique()
    cases = "models" if models == total else "combinations of model and quantization"
    if free == total:
        opening = "A free lunch, save for the compute"
    elif free:
        opening = f"A free lunch, save for the compute, in {free} of {total} {cases}"
        opening += f", none in {none}" * bool(none) + f", not told in {untold}" * bool(untold)
    elif none == total:
        opening = "No free lunch"
    elif none:
        opening = f"No free lunch in {none} of {total} {cases}, and not enough documents to tell "
        opening += "in the other" + "s" * (untold > 1)
    else:
        opening = "Not enough documents to tell"
    parts = []
    for role in ("search", "guard"):
        found = own.loc[own["role"] == role, "verdict"]
        number = f"{len(found)} {'comparison' if total > 1 else role + ' task'}"
        number += "s" * (len(found) != 1) + f" on {role} tasks" * (total > 1)
        each = [f"{(found == word).sum()} {word}" for word in VERDICTS if (found == word).any()]
        if each:
            count, word = each[0].split()
            each[0] = f"{count} {'was' if count == '1' else 'were'} {word}"
        parts.append(f"of {number} {listed(each)}" if each else f"no {role} task was confirmed")
    return f"{opening}: {'; '.join(parts)} (after Holm's correction, on fresh documents)."


def _frozen_sentence(
    own: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
    frozen: Sequence[Mapping[str, Any]],
    confidence: float,
) -> str:
    parts = []
    named = [freeze for freeze in frozen if freeze["model"] in set(own["model"])]
    for freeze in named[:MOST_NAMED]:
        rows = own[own["model"] == freeze["model"]]
        at_reference = rows["quantization"] == freeze["reference_quantization"]
        quantization = freeze["reference_quantization"]
        if not at_reference.any():
            quantization = rows["quantization"].iloc[0]
            at_reference = rows["quantization"] == quantization
        rows = rows[at_reference & (rows["role"] == "search")]
        key = {"model": freeze["model"], "quantization": quantization, "plan": freeze["frozen"]}
        effects = [
            f"{row.task} {signed(row.effect)} {row.unit} "
            f"[{signed(row.low)}, {signed(row.high)}] (n = {row.n})"
            for row in rows.itertuples()
        ]
        parts.append(
            f"for {freeze['model']} the frozen plan is {freeze['frozen']}, which "
            f"{cost_words(tables, **key)}: "
            + ", ".join(effects or ["no search task was confirmed"])
        )
    if not named:
        return "Which plans were frozen, and what they cost, was not recorded."
    more = len(named) - MOST_NAMED
    tail = f"; {more} more below" if more > 0 else ""
    text = f"{'; '.join(parts)}{tail}; brackets are {_percent(confidence)} intervals."
    return text[0].upper() + text[1:]


def cost_words(tables: Mapping[str, pd.DataFrame], model: str, quantization: str, plan: str) -> str:
    """What a plan costs relative to its base, in words; from the tables `costs`, `comparisons`."""
    keys = {"model": model, "quantization": quantization, "plan": plan}
    depth = None
    for name in ("costs", "comparisons"):
        rows = _rows(tables.get(name), **keys)
        if depth is None and len(rows):
            depth = rows["relative_depth"].iloc[0]
    mine = _rows(tables.get("costs"), **keys)
    base = _rows(tables.get("costs"), **(keys | {"plan": "base"}))
    layers = "" if depth is None else f"runs {depth:.2f} times the layers and "
    if mine.empty or base.empty:
        return f"{layers}was not timed"
    return f"{layers}has {' and '.join(_speed(mine, base, way) for way in ('decode', 'prefill'))}"


def _speed(mine: pd.DataFrame, base: pd.DataFrame, way: str) -> str:
    """One of the speeds relative to the base's, with the extremes that the repeats allow."""
    own, other = mine.iloc[0], base.iloc[0]
    ratio = own[f"{way}_tokens_per_second"] / other[f"{way}_tokens_per_second"]
    low, high = own[f"{way}_low"] / other[f"{way}_high"], own[f"{way}_high"] / other[f"{way}_low"]
    return f"{ratio:.2f} times the base's {way} speed ({low:.2f} to {high:.2f} over repeats)"


def _control_sentence(
    own: pd.DataFrame,
    pairs: pd.DataFrame | None,
    frozen: Sequence[Mapping[str, Any]],
    confidence: float,
) -> str:
    against = against_controls(pairs, frozen)
    if against.empty:
        text = "It was not compared with controls of equal depth, so nothing says that the choice "
        text += "of layers matters"
    else:
        better, worse = int((against["low"] > 0).sum()), int((against["high"] < 0).sum())
        text = f"Against random controls of equal depth it was better in {better} of "
        text += f"{len(against)} comparisons, worse in {worse} and not told apart in "
        text += f"{len(against) - better - worse} ({_percent(confidence)} intervals, uncorrected)"
    return f"{text}; {_needed_words(own)}."


def against_controls(
    pairs: pd.DataFrame | None, frozen: Sequence[Mapping[str, Any]]
) -> pd.DataFrame:
    """The rows of `pairs` that compare a model's frozen plan with its own controls at confirm.

    Turned so that `plan_a` is the frozen plan: a positive effect speaks for it.
    """
    if pairs is None or pairs.empty:
        return pd.DataFrame(columns=["low", "high"])
    found = []
    for freeze in frozen:
        same = (
            (pairs["stage"] == "confirm")
            & (pairs["model_a"] == freeze["model"])
            & (pairs["model_b"] == freeze["model"])
            & (pairs["quantization_a"] == pairs["quantization_b"])
        )
        mine = pairs[same]
        controls = list(freeze["controls"])
        found.append(mine[(mine["plan_a"] == freeze["frozen"]) & mine["plan_b"].isin(controls)])
        back = mine[(mine["plan_b"] == freeze["frozen"]) & mine["plan_a"].isin(controls)]
        turned = back.rename(columns={"plan_a": "plan_b", "plan_b": "plan_a"})
        found.append(turned.assign(effect=-back["effect"], low=-back["high"], high=-back["low"]))
    return pd.concat(found, ignore_index=True)


def _needed_words(own: pd.DataFrame) -> str:
    """How many documents would decide what is inconclusive."""
    unsure = own[own["verdict"] == "inconclusive"]
    if unsure.empty:
        return "no comparison with the base was left inconclusive"
    known = unsure[unsure["documents_needed"].notna()]
    if known.empty:
        return "how many documents would decide the inconclusive ones is not known"
    most = known.groupby("task", sort=False).agg(
        needed=("documents_needed", "max"), had=("n", "min")
    )
    if len(most) > MOST_NAMED:
        low, high = (_about(value) for value in (most["needed"].min(), most["needed"].max()))
        return f"to decide what is inconclusive would take about {low} to {high} documents a task"
    each = [
        f"{_about(row.needed)} documents of {row.Index} (had {row.had})"
        for row in most.itertuples()
    ]
    return f"to decide what is inconclusive would take about {listed(each)}"


def _about(number: float) -> str:
    """A count to two significant digits, thousands apart: 393 -> "390", 12345 -> "12,000"."""
    return f"{int(float(f'{float(number):.2g}')):,}"


def _rows(table: pd.DataFrame | None, **wanted: str) -> pd.DataFrame:
    if table is None or table.empty:
        return pd.DataFrame()
    mask = pd.Series(True, index=table.index)
    for column, value in wanted.items():
        mask &= table[column] == value
    return table[mask]


def _percent(share: float) -> str:
    return f"{100 * share:g}\N{NO-BREAK SPACE}%"


def listed(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, and a true minus: "+1.2", "−0.8", "0.0"."""
    text = f"{value:+.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", "−")
