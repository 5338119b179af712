"""The answer in three sentences: are frankenmodels a free lunch here?"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import interval, listed, plural

FREE, NONE, INCONCLUSIVE = "free", "none", "inconclusive"
VERDICTS = ("improved", "harmed", "equivalent", "inconclusive")
MOST_NAMED = 3
BRACKETS = "brackets are 95\N{NO-BREAK SPACE}% intervals"

Frozen = Sequence[Mapping[str, Any]]


def outcome(verdicts: pd.DataFrame) -> str:
    """Return what the verdicts on one frozen franken amount to: FREE, NONE or INCONCLUSIVE.

    Takes its rows of the table `verdicts`, one a task. A free lunch needs a gain on a search task,
    no harm anywhere and every guard task, of at least one, equivalent or improved. None is served
    when anything is harmed, or when all search tasks are equivalent.
    """
    search = verdicts.loc[verdicts["role"] == "search", "verdict"]
    guard = verdicts.loc[verdicts["role"] == "guard", "verdict"]
    if (verdicts["verdict"] == "harmed").any() or (len(search) and (search == "equivalent").all()):
        return NONE
    safe = len(guard) and guard.isin(["improved", "equivalent"]).all()
    return FREE if safe and (search == "improved").any() else INCONCLUSIVE


def answer(tables: Tables, frozen: Frozen) -> list[str]:
    """Return three sentences: the verdict; the frozen frankens and their cost; the controls.

    Returns one sentence instead when no frozen franken has verdicts yet.

    Args:
        tables: needs `verdicts`; `comparisons`, `costs` and `pairs` are used where present.
        frozen: the contents of `frozen/*.json`.
    """
    own = rows_of(tables.get("verdicts"), group="frozen")
    if own.empty:
        return ["There is no answer yet: no franken was confirmed on fresh documents."]
    return [
        _verdict_sentence(own),
        _frozen_sentence(own, tables, frozen),
        _control_sentence(own, tables.get("pairs"), frozen),
    ]


def _verdict_sentence(own: pd.DataFrame) -> str:
    outcomes = pd.Series([outcome(rows) for _, rows in own.groupby(["model", "quantization"])])
    total, counts = len(outcomes), outcomes.value_counts()
    free, none, unsure = (int(counts.get(key, 0)) for key in (FREE, NONE, INCONCLUSIVE))
    cases = (
        "models" if own["model"].nunique() == total else "combinations of model and quantization"
    )
    if free == total:
        opening = "A free lunch, apart from the compute"
    elif free:
        opening = f"A free lunch, apart from the compute, in {free} of {total} {cases}"
        opening += f", none in {none}" * bool(none) + f", inconclusive in {unsure}" * bool(unsure)
    elif none == total:
        opening = "No free lunch"
    elif none:
        opening = f"No free lunch in {none} of {total} {cases}, and too few documents to decide "
        opening += "in the other" + "s" * (unsure > 1)
    else:
        opening = "Inconclusive, as there were too few documents to decide"
    parts = []
    for role in ("search", "guard"):
        found = own.loc[own["role"] == role, "verdict"]
        count = plural(len(found), f"{role} task")
        if total > 1:
            count = f"{plural(len(found), 'comparison')} on {role} tasks"
        each = [f"{(found == word).sum()} {word}" for word in VERDICTS if (found == word).any()]
        if each:
            first, word = each[0].split()
            each[0] = f"{first} {'was' if first == '1' else 'were'} {word}"
        parts.append(f"of {count} {listed(each)}" if each else f"no {role} task was confirmed")
    return f"{opening}: {'; '.join(parts)} (after Holm's correction, on fresh documents)."


def _frozen_sentence(own: pd.DataFrame, tables: Tables, frozen: Frozen) -> str:
    parts = []
    named = [freeze for freeze in frozen if freeze["model"] in set(own["model"])]
    for freeze in named[:MOST_NAMED]:
        rows = rows_of(own, model=freeze["model"])
        quantization = freeze["reference_quantization"]
        if quantization not in set(rows["quantization"]):
            quantization = rows["quantization"].iloc[0]
        rows = rows_of(rows, quantization=quantization, role="search")
        key = {"model": freeze["model"], "quantization": quantization, "plan": freeze["frozen"]}
        effects = [
            f"{row['task']} {interval(row, unit=row['unit'])} (n = {row['n']})"
            for row in rows.to_dict("records")
        ]
        parts.append(
            f"for {freeze['model']} the frozen plan is {freeze['frozen']}, which "
            f"{_cost_words(tables, **key)}: "
            + ", ".join(effects or ["no search task was confirmed"])
        )
    if not named:
        return "Which plans were frozen, and what they cost, was not recorded."
    more = len(named) - MOST_NAMED
    tail = f"; {more} more below" if more > 0 else ""
    text = f"{'; '.join(parts)}{tail}; {BRACKETS}."
    return text[0].upper() + text[1:]


def _cost_words(tables: Tables, **plan: str) -> str:
    """Return what a plan costs relative to its base, in words."""
    mine = rows_of(tables.get("costs"), **plan)
    base = rows_of(tables.get("costs"), **(plan | {"plan": "base"}))
    depths = mine if len(mine) else rows_of(tables.get("comparisons"), **plan)
    layers = ""
    if len(depths):
        layers = f"runs {depths['relative_depth'].iloc[0]:.2f} times the layers and "
    if mine.empty or base.empty:
        return f"{layers}was not timed"
    speeds = (_speed(mine.iloc[0], base.iloc[0], way) for way in ("decode", "prefill"))
    return f"{layers}has {' and '.join(speeds)}"


def _speed(own: pd.Series, base: pd.Series, way: str) -> str:
    """Return a speed relative to the base's, with the extremes that the repeats allow."""
    ratio = own[f"{way}_tokens_per_second"] / base[f"{way}_tokens_per_second"]
    low, high = own[f"{way}_low"] / base[f"{way}_high"], own[f"{way}_high"] / base[f"{way}_low"]
    return f"{ratio:.2f} times the base's {way} speed ({low:.2f} to {high:.2f} over repeats)"


def _control_sentence(own: pd.DataFrame, pairs: pd.DataFrame | None, frozen: Frozen) -> str:
    against = against_controls(pairs, frozen)
    if against.empty:
        text = "The frozen plan was not compared with controls of equal depth, so nothing says "
        text += "that the choice of layers matters"
    else:
        better, worse = int((against["low"] > 0).sum()), int((against["high"] < 0).sum())
        text = "Against random controls of equal depth the frozen plan was better in "
        text += f"{better} of {plural(len(against), 'comparison')}, worse in {worse} and "
        text += f"inconclusive in {len(against) - better - worse} "
        text += "(95\N{NO-BREAK SPACE}% intervals, uncorrected)"
    return f"{text}; {_needed_words(own)}."


def against_controls(pairs: pd.DataFrame | None, frozen: Frozen) -> pd.DataFrame:
    """Return the rows of `pairs` that compare a frozen plan with its own controls at confirm.

    `plan_a` is the frozen plan in all of them: a positive effect speaks for it.
    """
    found = [pd.DataFrame(columns=["low", "high"])]
    for freeze in frozen:
        mine = rows_of(pairs, stage="confirm", model_a=freeze["model"], model_b=freeze["model"])
        if mine.empty:
            continue
        mine = mine[mine["quantization_a"] == mine["quantization_b"]]
        controls = list(freeze["controls"])
        found.append(mine[(mine["plan_a"] == freeze["frozen"]) & mine["plan_b"].isin(controls)])
        back = mine[(mine["plan_b"] == freeze["frozen"]) & mine["plan_a"].isin(controls)]
        turned = back.rename(columns={"plan_a": "plan_b", "plan_b": "plan_a"})
        found.append(turned.assign(effect=-back["effect"], low=-back["high"], high=-back["low"]))
    filled = [rows for rows in found if len(rows)]
    return pd.concat(filled, ignore_index=True) if filled else found[0]


def _needed_words(own: pd.DataFrame) -> str:
    """Return how many documents would decide what is inconclusive."""
    unsure = own[own["verdict"] == "inconclusive"]
    if unsure.empty:
        return "no comparison with the base was left inconclusive"
    known = unsure[unsure["documents_needed"].notna()]
    if known.empty:
        return "how many documents would decide the inconclusive comparisons is not known"
    tasks = known.groupby("task", sort=False)
    needed, had = tasks["documents_needed"].max(), tasks["n"].min()
    text = "deciding the inconclusive comparisons would take about "
    if len(needed) > MOST_NAMED:
        return f"{text}{_about(needed.min())} to {_about(needed.max())} documents a task"
    each = [
        f"{_about(needed[task])} documents of {task} (it had {had[task]})" for task in had.index
    ]
    return text + listed(each)


def _about(number: float) -> str:
    """Return a count to two significant digits: 393 as "390", 12345 as "12,000"."""
    return f"{int(float(f'{float(number):.2g}')):,}"
