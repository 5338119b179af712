"""Whole experiments in a world: search, race, select, freeze, confirm, verdicts, and what of their
claims is false."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from error_rates_decisions import (
    RULES,
    compared,
    contrasts,
    frozen,
    judged,
    race,
    shortlisted,
    stage_table,
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

from frankenlab.analyse.paired_tests import Kind
from frankenlab.report.answer import outcome

CONTROLS = 2
WORDS = ("improved", "harmed", "equivalent")
# Limits that differ from the truth by rounding cover it.
TINY = 1e-9


@dataclass(frozen=True)
class Sizes:
    """Numbers of documents.

    Attributes:
        search, select, confirm: of the two search tasks.
        guard: of a guard task of kind "mean".
        passages: of a perplexity.
        rounds: documents of each search task after the rounds of a race; none is no race.
        shortlist: plans that go to select.
    """

    search: tuple[int, int]
    select: tuple[int, int]
    confirm: tuple[int, int]
    guard: int
    passages: int
    rounds: tuple[int, ...] = ()
    shortlist: int = 6


@dataclass(frozen=True)
class Chosen:
    """What search and select found.

    Attributes:
        plan: the number in the grid of the frozen plan.
        search, select: its mean effect over the search tasks, in points.
    """

    drawn: World
    plan: int
    search: float
    select: float


def choose(setting: Setting, sizes: Sizes, random: np.random.Generator) -> Chosen:
    """Search a fresh world, select on fresh documents, and freeze one plan."""
    known, drawn = grid(), world(setting, random)
    labels = [clusters(setting, n) for n in sizes.search]
    values = [search_differences(drawn, t, n, random) for t, n in enumerate(sizes.search)]
    everything = np.arange(len(known.plans))
    searched = stage_table(
        known, everything, values, labels, *race(values, labels, sizes.rounds, sizes.shortlist + 1)
    )
    texts = [plan.text for plan in known.plans]
    short = np.array([texts.index(text) for text in shortlisted(searched, sizes.shortlist)])
    labels = [clusters(setting, n) for n in sizes.select]
    values = [search_differences(drawn, t, n, random)[short] for t, n in enumerate(sizes.select)]
    selected = stage_table(known, short, values, labels)
    plan = texts.index(frozen(known, selected))
    errors = [t.loc[t["number"] == plan, "effect"].mean() for t in (searched, selected)]
    return Chosen(drawn, plan, *errors)


def experiments(
    settings: Mapping[str, Setting], sizes: Sizes, seed: Sequence[int], count: int
) -> dict[str, pd.DataFrame]:
    """Return for each setting a row for each of `count` experiments; columns as `record` has them.

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
    tables = []
    for task in (*SEARCH_TASKS, *setting.guards):
        weights, labels, drawn = documents_of(task, setting, sizes, chosen, random)
        truths = np.array(
            [[c.drawn.truth(task, c.plan), *[c.drawn.truth(task, None)] * CONTROLS] for c in chosen]
        )
        tables.append(task_rows(task, drawn, truths, weights, labels))
    rows = pd.concat(tables, ignore_index=True)
    by_experiment = dict(list(rows.groupby("experiment")))
    return pd.DataFrame([record(c, by_experiment[number]) for number, c in enumerate(chosen)])


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
    count = sizes.confirm[SEARCH_TASKS.index(task)] if task in SEARCH_TASKS else sizes.guard
    drawn = [confirm_differences(c.drawn, task, c.plan, count, CONTROLS, random) for c in chosen]
    return np.ones(count), clusters(setting, count), np.array(drawn)


def task_rows(
    task: str, drawn: Floats, truths: Floats, weights: Floats, labels: NDArray[np.int64]
) -> pd.DataFrame:
    """Return the comparisons of all experiments on one task.

    Args:
        drawn: [experiments, bitrates, plans, documents].
        truths: [experiments, plans] true effects, the same at all bitrates.
    """
    role = "search" if task in SEARCH_TASKS else "guard"
    kind: Kind = "perplexity" if is_perplexity(task) else "mean"
    found = []
    made = sorted(contrasts(role, CONTROLS), key=lambda c: (c.family, c.signs))
    for (family, signs), group in groupby(made, key=lambda c: (c.family, c.signs)):
        own = list(group)
        matrix = np.array([c.coefficients for c in own])
        values = np.einsum("cqp,eqpn->ecn", matrix, drawn).reshape(-1, weights.size)
        found.append(
            compared(values, weights, labels, kind, signs).assign(
                task=task,
                role=role,
                family=family,
                experiment=np.repeat(np.arange(len(drawn)), len(own)),
                quantization=np.tile([c.quantization for c in own], len(drawn)),
                plan=np.tile([c.plan for c in own], len(drawn)),
                truth=np.einsum("cqp,ep->ec", matrix, truths).ravel(),
            )
        )
    return pd.concat(found)


def is_false(verdict: str, truth: float, margin: float) -> bool:
    """Tell whether a verdict claims what is not true of an effect."""
    return {
        "improved": truth <= 0,
        "harmed": truth >= 0,
        "equivalent": abs(truth) >= margin,
        "inconclusive": False,
    }[verdict]


def record(chosen: Chosen, rows: pd.DataFrame) -> dict[str, Any]:
    """Return what one experiment claimed, and how far it was from the truth.

    Returns:
        False claims by kind; whether a planted plan was frozen, was called improved, and the share
        of the true equivalents that were reached; errors of the effects of each stage; coverage.
    """
    rows = judged(rows)
    truth, verdicts = rows["truth"], rows["verdict"]
    wrong = np.array([is_false(v, t, RULES.margin) for v, t in zip(verdicts, truth, strict=True)])
    claimed = rows["family"] == "verdicts"
    false = {f"false {word}": wrong & claimed & (verdicts == word) for word in WORDS}
    false |= {f"false {f}": wrong & (rows["family"] == f) for f in ("verdicts", "controls", "bits")}
    own = claimed & (rows["plan"] == "frozen")
    reference = own & (rows["quantization"] == QUANTIZATIONS[0])
    searched, guards = (reference & (rows["role"] == role) for role in ("search", "guard"))
    better, same = searched & (truth > 0), guards & (truth.abs() < RULES.margin)
    covered = (rows["low"] <= truth + TINY) & (truth - TINY <= rows["high"])
    means = rows["kind"] == "mean"
    real = float(chosen.drawn.effects[chosen.plan])
    planted = bool(chosen.drawn.effects.any())
    return {
        "any false claim": bool(wrong.any()),
        **{name: bool(which.any()) for name, which in false.items()},
        "planted frozen": real > 0 if planted else np.nan,
        "gain improved": bool((verdicts[better] == "improved").any()) if planted else np.nan,
        "equivalent reached": (verdicts[same] == "equivalent").mean(),
        "search error": chosen.search - real,
        "select error": chosen.select - real,
        "confirm error": rows["effect"][searched].mean() - real,
        "coverage": covered[own & means].mean(),
        "coverage of perplexities": covered[own & ~means].mean(),
        "outcome": outcome(rows[reference]),
    }
