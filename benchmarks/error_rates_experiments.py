"""Whole experiments in a world: search, race, select, freeze, confirm, verdicts, and what of their
claims is false."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from error_rates_decisions import (
    RULES,
    beats_base,
    contrasts,
    frozen,
    gains_of,
    judged,
    levels,
    race,
    shortlisted,
    shrunken_effect,
)
from error_rates_worlds import (
    QUANTIZATIONS,
    SEARCH_TASKS,
    Floats,
    Setting,
    World,
    clusters,
    confirm_differences,
    grid,
    is_perplexity,
    passage_differences,
    passage_weights,
    search_differences,
    world,
)
from numpy.typing import NDArray

from frankenlab.analyse.error_budget import Family
from frankenlab.analyse.gains import mean_gains
from frankenlab.analyse.paired_tests import Kind
from frankenlab.analyse.shrinkage import Z95
from frankenlab.report.answer import outcome

CONTROLS = 2
FAMILIES: tuple[Family, ...] = ("verdicts", "controls", "bits")
WORDS = ("improved", "harmed", "equivalent")
# Limits that differ from the truth by rounding cover it.
TINY = 1e-9


@dataclass(frozen=True)
class Sizes:
    """Numbers of documents.

    Attributes:
        search, select, confirm: of the two search tasks.
        guard: of the two guard tasks of kind "mean".
        passages: of a perplexity.
        rounds: documents of each search task after the rounds of a race; none is no race.
        shortlist: plans that go to select.
    """

    search: tuple[int, int]
    select: tuple[int, int]
    confirm: tuple[int, int]
    guard: tuple[int, int]
    passages: int
    rounds: tuple[int, ...] = ()
    shortlist: int = 6


@dataclass(frozen=True)
class Chosen:
    """The result of the search and select stages of many experiments.

    Attributes:
        plan: the number in the grid of the frozen plan.
        found: columns of the experiment's record that are known before confirm.
    """

    drawn: World
    plan: int
    found: Mapping[str, Any]


def choose(setting: Setting, sizes: Sizes, random: np.random.Generator) -> Chosen:
    """Search a fresh world, select on fresh documents, and freeze one plan."""
    known, drawn = grid(), world(setting, random)
    first = [search_differences(drawn, t, n, random) for t, n in enumerate(sizes.search)]
    labels = [clusters(setting, n) for n in sizes.search]
    seen = race(first, labels, sizes.rounds, sizes.shortlist + 1)
    searched = [gains_of(*task) for task in zip(first, labels, seen, strict=True)]
    ran = (seen == np.array(sizes.search)[:, None]).all(axis=0)
    short = shortlisted(known, first, labels, ran, sizes.shortlist)
    second = [search_differences(drawn, t, n, random)[short] for t, n in enumerate(sizes.select)]
    fresh = [clusters(setting, n) for n in sizes.select]
    selected = [
        gains_of(values, own, np.full(len(short), len(own)))
        for values, own in zip(second, fresh, strict=True)
    ]
    both = [
        gains_of(
            np.hstack((one[short], other)),
            np.concatenate((own, own.max() + 1 + more)),
            np.full(len(short), len(own) + len(more)),
        )
        for one, own, other, more in zip(first, labels, second, fresh, strict=True)
    ]
    place = frozen(known, short, both)
    plan = int(short[place])
    real = float(drawn.effects[plan])
    tests = [beats_base(searched, ran), beats_base(selected, np.ones(len(short), bool))]
    best = [drawn.effects, drawn.effects[short]]
    shrunk, width = shrunken_effect(searched, selected, short, plan)
    planted = bool(drawn.effects.any())
    found: dict[str, Any] = {
        "false search": any(
            says and (effects[test.best] <= 0 or test.lows[test.best] > effects[test.best] + TINY)
            for (test, says), effects in zip(tests, best, strict=True)
        ),
        "search finds": tests[0][1] if planted else np.nan,
        "shortlist finds": tests[1][1] if planted else np.nan,
        "planted frozen": real > 0 if planted else np.nan,
        "shrunken error": shrunk - real,
        "shrunken coverage": abs(shrunk - real) <= width,
    }
    for name, stage, at in (("search", searched, plan), ("select", selected, place)):
        effect, error = (float(values[at]) for values in mean_gains(stage))
        found[f"{name} error"] = effect - real
        found[f"{name} coverage"] = abs(effect - real) <= Z95 * error
    return Chosen(drawn, plan, found)


def experiments(
    settings: Mapping[str, Setting], sizes: Sizes, seed: Sequence[int], count: int
) -> dict[str, pd.DataFrame]:
    """Return for each setting a row for each of `count` experiments; columns as `records` has them.

    Args:
        settings: with the same search, so that the experiments of all settings share it.
    """
    random = np.random.default_rng(seed)
    chosen = [choose(next(iter(settings.values())), sizes, random) for _ in range(count)]
    return {
        name: confirmed(setting, sizes, chosen, np.random.default_rng([*seed, number]))
        for number, (name, setting) in enumerate(settings.items())
    }


def confirmed(
    setting: Setting, sizes: Sizes, chosen: Sequence[Chosen], random: np.random.Generator
) -> pd.DataFrame:
    """Return the records of experiments whose plans are frozen.

    Passages have the same lengths in all of them, so that one set of resamples serves all.
    """
    chosen = [replace(c, drawn=replace(c.drawn, setting=setting)) for c in chosen]
    tasks = (*SEARCH_TASKS, *setting.guards)
    at = levels([role_of(task) for task in tasks], CONTROLS)
    tables = []
    for task in tasks:
        weights, labels, drawn = documents_of(task, setting, sizes, chosen, random)
        truths = np.array(
            [[c.drawn.truth(task, c.plan), *[c.drawn.truth(task, None)] * CONTROLS] for c in chosen]
        )
        tables.append(task_rows(task, drawn, truths, weights, labels, at))
    rows = pd.concat(tables, ignore_index=True)
    return records(chosen, rows)


def documents_of(
    task: str,
    setting: Setting,
    sizes: Sizes,
    chosen: Sequence[Chosen],
    random: np.random.Generator,
) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Return weights and clusters of the confirm documents of a task, and what each experiment's
    plans gain on them, [experiments, bitrates, plans, documents]."""
    if is_perplexity(task):
        weights = passage_weights(sizes.passages, random)
        drawn = [passage_differences(setting, weights, CONTROLS, random) for _ in chosen]
        return weights, np.arange(sizes.passages), np.array(drawn)
    if task in SEARCH_TASKS:
        count = sizes.confirm[SEARCH_TASKS.index(task)]
    else:
        count = sizes.guard[setting.guards.index(task)]
    drawn = [confirm_differences(c.drawn, task, c.plan, count, CONTROLS, random) for c in chosen]
    return np.ones(count), clusters(setting, count), np.array(drawn)


def task_rows(
    task: str,
    drawn: Floats,
    truths: Floats,
    weights: Floats,
    labels: NDArray[np.int64],
    at: Mapping[Family, float],
) -> pd.DataFrame:
    """Return the comparisons of all experiments on one task.

    Args:
        drawn: [experiments, bitrates, plans, documents].
        truths: [experiments, plans] true effects, the same at all bitrates.
        at: the level of a test of each family.
    """
    kind: Kind = "perplexity" if is_perplexity(task) else "mean"
    found = []
    for contrast in contrasts(role_of(task), CONTROLS):
        values = np.einsum("qp,eqpn->en", contrast.coefficients, drawn)
        rows = judged(values, weights, labels, kind, contrast.family, at[contrast.family])
        found.append(
            rows.assign(
                task=task,
                role=role_of(task),
                family=contrast.family,
                experiment=np.arange(len(drawn)),
                quantization=contrast.quantization,
                truth=np.einsum("qp,ep->e", contrast.coefficients, truths),
            )
        )
    return pd.concat(found)


def role_of(task: str) -> str:
    """Return the role of a task."""
    return "search" if task in SEARCH_TASKS else "guard"


def false_claims(rows: pd.DataFrame, margin: float) -> pd.Series:
    """Tell of each comparison whether its verdict claims what is not true of the effect."""
    truth, verdict = rows["truth"], rows["verdict"]
    return (
        ((verdict == "improved") & (truth <= 0))
        | ((verdict == "harmed") & (truth >= 0))
        | ((verdict == "equivalent") & (truth.abs() >= margin))
    )


def records(chosen: Sequence[Chosen], rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each experiment: what it claimed, and how far it was from the truth.

    Returns:
        Columns: false claims, of any kind and by kind; whether a planted plan was frozen and called
        improved, and the share of true equivalents that were reached; errors of the frozen plan's
        effects; shares of its intervals that cover the truth; the outcome of the headline.
    """
    truth, verdict = rows["truth"], rows["verdict"]
    own = rows["family"] == "verdicts"
    reference = own & (rows["quantization"] == QUANTIZATIONS[0])
    on_search, passages = rows["role"] == "search", rows["kind"] == "perplexity"
    wrong = false_claims(rows, RULES.margin)
    usual = (rows["low"] <= truth + TINY) & (truth - TINY <= rows["high"])
    strict = (rows["verdict_low"] <= truth + TINY) & (truth - TINY <= rows["verdict_high"])
    planted = [bool(c.drawn.effects.any()) for c in chosen]

    def each(values: pd.Series, where: pd.Series) -> pd.Series:
        """Return the mean over some comparisons of each experiment, NaN where there are none."""
        means = values[where].astype(float).groupby(rows["experiment"][where]).mean()
        return means.reindex(range(len(chosen)))

    def some(which: pd.Series) -> pd.Series:
        return each(which, own | ~own) > 0

    before = pd.DataFrame([c.found for c in chosen])
    found = {"any false claim": some(wrong) | before["false search"]}
    found |= {f"false {f}": some(wrong & (rows["family"] == f)) for f in FAMILIES}
    found |= {f"false {w}": some(wrong & own & (verdict == w)) for w in WORDS}
    gained = some(reference & on_search & (truth > 0) & (verdict == "improved"))
    same = reference & ~on_search & (truth.abs() < RULES.margin)
    found |= {
        "gain improved": gained.astype(float).where(planted),
        "equivalent reached": each(verdict == "equivalent", same),
        "confirm error": each(rows["effect"] - truth, reference & on_search),
        "accuracies, 95 %": each(usual, own & ~passages),
        "accuracies, verdict's level": each(strict, own & ~passages),
        "perplexities, 95 %": each(usual, own & passages),
        "perplexities, verdict's level": each(strict, own & passages),
    }
    table = before.join(pd.DataFrame(found))
    table["outcome"] = [outcome(at) for _, at in rows[reference].groupby("experiment")]
    return table
