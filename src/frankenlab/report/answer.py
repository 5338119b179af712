"""The answer in plain speech: are the frozen frankens a free lunch?

What is claimed comes from tests that share one error budget: the verdicts on the frozen plans and
the test of the search. Nothing uncorrected is counted here, but a gain that other prompts do not
show is not left without this warning.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from frankenlab.io.records import read_record
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import (
    layers_of,
    listed,
    metric_name,
    plan_words,
    plural,
    quantization_words,
    rst,
    size_words,
    spoken_change,
    spoken_p,
    spoken_value,
)

FREE, NONE, MIXED, INCONCLUSIVE = "free lunch", "no free lunch", "mixed", "inconclusive"
MOST_NAMED = 3
# Below this p an effect counts as different between prompts. It is exploration, and no claim.
DEPENDS = 0.05
NO_ANSWER = "There is no answer yet: no plan was confirmed on fresh documents."

Frozen = Sequence[Mapping[str, Any]]


def outcome(verdicts: pd.DataFrame) -> str:
    """Return what the verdicts on a frozen plan amount to: FREE, NONE, MIXED or INCONCLUSIVE.

    Takes its rows of the table `verdicts`. A free lunch needs an improvement, a guard task, and
    every other task equivalent or improved. A plan that improved one task and harmed another is
    mixed. No free lunch is a harm with no improvement, or nothing but equivalent search tasks with
    no improvement. All else is inconclusive.
    """
    found = verdicts["verdict"]
    search, guard = (verdicts["role"] == role for role in ("search", "guard"))
    gain, harm = (found == "improved").any(), (found == "harmed").any()
    if harm:
        return MIXED if gain else NONE
    if gain:
        safe = guard.any() and found.isin(["improved", "equivalent"]).all()
        return FREE if safe else INCONCLUSIVE
    return NONE if search.any() and (found[search] == "equivalent").all() else INCONCLUSIVE


class Summary(TypedDict):
    """The file `answer.json`, for other programs and for Snakemake's report."""

    headline: str
    sentences: list[str]
    outcome: str | None


def summary(tables: Tables, frozen: Frozen) -> Summary:
    """Return what `answer.json` holds: `headline` (the first sentence), `sentences`, `outcome`.

    The outcome is that of all frozen plans together, and None where nothing was confirmed.
    """
    own = frozen_rows(tables, frozen)
    said = answer(tables, frozen)
    found = None if own.empty else outcome(own)
    return {"headline": said[0], "sentences": said, "outcome": found}


def sentences(path: str | Path) -> list[str]:
    """Return the sentences of an `answer.json` as reStructuredText; none where there is no file."""
    if not Path(path).is_file():
        return []
    return [rst(sentence) for sentence in read_record(path, Summary)["sentences"]]


def answer(tables: Tables, frozen: Frozen) -> list[str]:
    """Return the answer in one to six sentences.

    They say the outcome with what improved, what got worse or stayed equivalent, whether a gain
    depends on the prompt, how the search ended, and what the documents could have shown where the
    verdict is inconclusive.

    Args:
        tables: needs `verdicts`; `search` and `prompts` are used where they are there.
        frozen: the contents of `frozen/*.json`.
    """
    own = frozen_rows(tables, frozen)
    if own.empty:
        return [NO_ANSWER, *search_sentences(tables)]
    cases = {case: outcome(rows) for case, rows in own.groupby(["model", "quantization"])}
    cases = {case: cases[case] for case in dict.fromkeys(_cases(own))}
    gains = own[own["verdict"] == "improved"]
    losses, same = (own[own["verdict"] == verdict] for verdict in ("harmed", "equivalent"))
    opening = _opening(cases, own)
    if gains.empty:
        first, second = f"{opening}.", losses
    else:
        together = pd.concat([gains, losses]) if set(cases.values()) == {MIXED} else gains
        if INCONCLUSIVE in cases.values():
            gained = "a gain" if own["model"].nunique() == 1 else "gains"
            opening += f", but with {gained}" if len(set(cases.values())) == 1 else ""
        first = f"{opening}: {changes(together, own)}."
        second = losses.iloc[:0] if len(together) > len(gains) else losses
    said = [first]
    if len(second) or len(same):
        parts = [changes(second, own), _equivalents(same, own)]
        said.append(_sentence("; ".join(filter(None, parts))))
    if gains.empty:
        alone = own["model"].nunique() == 1
        changed = f"{_subject(own.iloc[0], own)} changed no task" if alone else "no task changed"
        nothing = losses.empty and same.empty
        said.append(_sentence(f"{changed if nothing else 'no task improved'} significantly"))
    said += _other_prompts(tables, gains)
    said += search_sentences(tables)
    said += _detectable(own)
    return said


def frozen_rows(tables: Tables, frozen: Frozen) -> pd.DataFrame:
    """Return the verdicts on the frozen plans, each model's reference quantization first."""
    own = rows_of(tables.get("verdicts"), group="frozen")
    if own.empty:
        return own
    references = {(freeze["model"], freeze["reference_quantization"]) for freeze in frozen}
    cases = zip(own["model"], own["quantization"], strict=True)
    models = list(own["model"].unique())
    order = [2 * models.index(case[0]) + (case not in references) for case in cases]
    return own.iloc[np.argsort(order, kind="stable")]


def _other_prompts(tables: Tables, gains: pd.DataFrame) -> list[str]:
    """Return a sentence on gains that differ between prompts, with the prompt that gains least."""
    rows = rows_of(tables.get("prompts"), group="frozen")
    if rows.empty:
        return []
    several, each = gains["model"].nunique() > 1, []
    for gain in gains.to_dict("records"):
        where = {key: gain[key] for key in ("model", "quantization", "task")}
        own = rows_of(rows, **where)
        if len(own) and own["spread_p"].iloc[0] < DEPENDS:
            least = own.iloc[int(own["effect"].argmin())]
            base, plan = (spoken_value(least[k], least["kind"]) for k in ("base_value", "value"))
            task = f"{gain['task']} of {gain['model']}" if several else gain["task"]
            each.append(
                f'under "{least["prompt"]}" the base itself reaches {base} on {task}, '
                f"the plan {plan}"
            )
    more = len(each) - MOST_NAMED
    each = [*each[:MOST_NAMED], *([f"so do {plural(more, 'more gain')}"] if more > 0 else [])]
    return [f"The gain depends on the prompt: {'; '.join(each)}."] if each else []


def search_sentences(tables: Tables) -> list[str]:
    """Return a sentence on whether the best plan of the search beats the base, for all models."""
    rows = tables.get("search")
    if rows is None or rows.empty:
        return []
    if len(rows) == 1:
        row = rows.iloc[0]
        beats = "" if row["significant"] else "not "
        level = "" if row["significant"] or row["p"] > 0.05 else f", not below {row['level']:.2g}"
        plans, grown = int(row["plans"]), int(row.get("grown", 0))
        of, more = plural(plans - grown, "plan"), ""
        if grown:
            of = f"{of} of the grid"
            more = f", corrected for all {plans:,} that were looked at"
        return [
            f"The best of {of} was {beats}significantly better than "
            f"the base on the search documents ({spoken_p(row['p'])}{level}{more})."
        ]
    better = rows[rows["significant"].astype(bool)]
    whole = "grid" if rows.get("grown", pd.Series([0])).any() else "search"
    text = f"The best plan of the {whole} was significantly better than the base on the search "
    if better.empty:
        lowest = rows.loc[rows["p"].astype(float).idxmin()]
        return [
            f"{text}documents for none of {len(rows)} models (the lowest p is that of "
            f"{lowest['model']}, {spoken_p(lowest['p'])})."
        ]
    named = [f"{row.model}, {spoken_p(row.p)}" for row in better.head(MOST_NAMED).itertuples()]
    more = f"; {len(better) - MOST_NAMED} more" if len(better) > MOST_NAMED else ""
    return [f"{text}documents for {len(better)} of {len(rows)} models ({'; '.join(named)}{more})."]


def _cases(rows: pd.DataFrame) -> Iterable[tuple[str, str]]:
    return zip(rows["model"], rows["quantization"], strict=True)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _opening(cases: Mapping[tuple[str, str], str], own: pd.DataFrame) -> str:
    """Return what the page opens with: the outcome of the frozen plan, or of each."""
    found = set(cases.values())
    plans = own.drop_duplicates(["model", "plan"])
    if len(found) == 1:
        alone = len(plans) == 1
        row = plans.iloc[0]
        price = f"the time that {row['depth']:g} layers take in place of {layers_of(row)}"
        this = "this plan" if alone else f"each of {len(plans)} frozen plans"
        return {
            FREE: f"A free lunch for {this}, apart from {price if alone else 'the compute'}",
            NONE: f"No free lunch for {this if alone else f'any of {len(plans)} frozen plans'}",
            MIXED: f"Mixed results for {this}",
            INCONCLUSIVE: f"Inconclusive for {this}",
        }[found.pop()]
    words = {FREE: "a free lunch, apart from the compute,", NONE: "no free lunch"}
    words |= {MIXED: "mixed results", INCONCLUSIVE: "inconclusive"}
    parts = []
    for name, said in words.items():
        mine = [case for case, value in cases.items() if value == name]
        if mine:
            parts.append(f"{said} {_places(mine, cases)}")
    text = "; ".join(parts)
    return text[0].upper() + text[1:]


def _places(cases: Sequence[tuple[str, str]], known: Iterable[tuple[str, str]]) -> str:
    """Return for which models and quantizations something holds, or for how many."""
    known = list(known)
    several = len({model for model, _ in known}) > 1
    if len(cases) > MOST_NAMED:
        return f"in {len(cases)} of {len(known)} combinations of model and quantization"
    found = []
    for model, quantization in cases:
        alone = sum(name == model for name, _ in known) == 1
        place = "" if alone else quantization_words(quantization)
        found.append(f"for {model} {place}".strip() if several else place)
    return listed(found)


def _subject(row: Mapping[str, Any] | pd.Series, own: pd.DataFrame) -> str:
    """Return "running layer 23 twice", with the model where there are several."""
    text = f"running {plan_words(row['plan'], layers_of(row))}"
    return f"in {row['model']}, {text}" if own["model"].nunique() > 1 else text


def changes(rows: pd.DataFrame, own: pd.DataFrame) -> str:
    """Return what the plans changed significantly, with the values before and after."""
    if rows.empty:
        return ""
    found = []
    models = rows["model"].unique()
    for model in models[:MOST_NAMED]:
        mine = rows_of(rows, model=model)
        tasks = list(dict.fromkeys(zip(mine["verdict"], mine["task"], strict=True)))
        said = [
            _change(rows_of(mine, verdict=verdict, task=task), own)
            for verdict, task in tasks[:MOST_NAMED]
        ]
        if len(tasks) > MOST_NAMED:
            said.append(f"changed {plural(len(tasks) - MOST_NAMED, 'more task')} (see the table)")
        # A change at several quantizations has an "and" of its own.
        joined = ", and ".join(said) if any(" and " in part for part in said) else listed(said)
        found.append(f"{_subject(mine.iloc[0], own)} {joined}")
    if len(models) > MOST_NAMED:
        found.append(f"{plural(len(models) - MOST_NAMED, 'more model')} below")
    return "; ".join(found)


def _change(rows: pd.DataFrame, own: pd.DataFrame) -> str:
    """Return how one task changed: "raised perplexity on t from 75.6 to 98.6 (+30 %)"."""
    first = rows.iloc[0]
    verb = "raised" if first["value"] > first["base_value"] else "lowered"
    if first["verdict"] == "improved":
        verb = "improved"
    several = rows_of(own, model=first["model"])["quantization"].nunique() > 1
    changes = []
    for row in rows.to_dict("records"):
        before, after = (spoken_value(row[name], row["kind"]) for name in ("base_value", "value"))
        text = f"from {before} to {after} ({spoken_change(row)})"
        where = f" {quantization_words(row['quantization'])}" if several else ""
        changes.append(text + where)
    return f"{verb} {metric_name(first['metric'])} on {first['task']} {listed(changes)}"


def _tasks(rows: pd.DataFrame, own: pd.DataFrame) -> list[str]:
    """Return the tasks of rows, with the quantization where the rows do not have all of them."""
    found = []
    for (model, task), mine in rows.groupby(["model", "task"], sort=False):
        every = rows_of(own, model=model, task=task)["quantization"].nunique()
        name = task if own["model"].nunique() == 1 else f"{task} of {model}"
        if len(mine) == every:
            found.append(name)
        else:
            found += [f"{name} {quantization_words(q)}" for q in mine["quantization"]]
    return found


def _equivalents(rows: pd.DataFrame, own: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    units = rows.drop_duplicates("unit")
    limits = [size_words(row["margin"], row["unit"]) for row in units.to_dict("records")]
    return f"the change {_on(rows, own)} is smaller than {' or '.join(limits)} (equivalent)"


def _on(rows: pd.DataFrame, own: pd.DataFrame) -> str:
    """Return "on a and b", or in how many comparisons where they are too many to name."""
    names = _tasks(rows, own)
    if len(names) <= MOST_NAMED + 1:
        return f"on {listed(names)}"
    if len(rows) < len(own):
        return f"in {len(rows)} of {len(own)} comparisons"
    return f"on all {plural(len(names), 'task')}"


def _detectable(own: pd.DataFrame) -> list[str]:
    """Return a sentence on what is inconclusive, and which changes would have been found."""
    rows = own[own["verdict"] == "inconclusive"]
    if rows.empty:
        return []
    names = _tasks(rows, own)
    many = len(names) > MOST_NAMED + 1
    count = f" ({len(rows)} of {len(own)} comparisons)" if many else ""
    text = f"the rest{count} is inconclusive: " if len(rows) < len(own) else ""
    known = rows[rows["smallest_detectable"].notna()]
    if known.empty:
        return [_sentence(text.removesuffix(": "))] if text else []
    sizes = []
    for unit, mine in known.groupby("unit", sort=False):
        found = mine.groupby(["model", "task"], sort=False)["smallest_detectable"].max()
        if many:
            ends = dict.fromkeys(size_words(size, unit) for size in (found.min(), found.max()))
            sizes.append(" to ".join([end.split()[0] for end in ends][:-1] + list(ends)[-1:]))
        else:
            of = ("" if own["model"].nunique() == 1 else f" of {model}" for model, _ in found.index)
            each = zip(found.items(), of, strict=True)
            sizes += [f"{size_words(size, unit)} on {key[1]}{model}" for (key, size), model in each]
    return [
        _sentence(
            f"{text}with these documents a change of {listed(sizes, 'or')} would have been found "
            "(with a power of 80\N{NO-BREAK SPACE}%)"
        )
    ]
