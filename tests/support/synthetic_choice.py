"""Invented tables of the search and the choice: `search`, `path`, `profile`, `reliability`, and
those of repetitions."""

import numpy as np
import pandas as pd
from scipy.stats import norm

from frankenlab.analyse.repetitions import KIND

LEVEL = 0.05 * 0.08
TIMES = (2, 3, 4)


def choice_tables(comparisons: pd.DataFrame, frozen: str) -> dict[str, pd.DataFrame]:
    """These tables, from the comparisons of all stages."""
    search = comparisons[comparisons["stage"] == "search"]
    cases = ["model", "quantization"]
    names = ("search", "path", "repetitions", "dose_response", "profile", "reliability")
    found: dict[str, list] = {name: [] for name in names}
    models = search["model"].nunique()
    for case, rows in search.groupby(cases, sort=False):
        where = dict(zip(cases, case, strict=True))
        own = comparisons[(comparisons[cases] == list(case)).all(axis=1)]
        found["search"].append(where | _search(rows, LEVEL / models))
        found["path"] += [where | step for step in _path(own, frozen)]
        repeated = [where | row for row in _repetitions(rows)]
        found["repetitions"] += repeated
        found["dose_response"] += _dose_response(pd.DataFrame(repeated))
        for name, part in zip(("profile", "reliability"), _profile(rows), strict=True):
            found[name] += [where | row for row in part]
    return {name: pd.DataFrame(rows) for name, rows in found.items()}


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    """The mean effect of each plan over the search tasks, with its standard error."""
    rows = rows[(rows["plan"] != "base") & (rows["role"] == "search")]
    means = rows.groupby("plan", sort=False).agg(
        effect=("effect", "mean"),
        error=("standard_error", lambda e: float(np.sqrt((e**2).sum()) / len(e))),
        n=("n", "sum"),
    )
    return means.sort_values("effect", ascending=False)


def _search(rows: pd.DataFrame, level: float) -> dict:
    means = _means(rows)
    best = means.iloc[0]
    p = float(min(1, len(means) * norm.sf(best["effect"] / best["error"])))
    mean, half = means["effect"].mean(), 1.96 * means["error"].mean() / 3
    return {
        "plans": len(means),
        "dropped": int(rows.loc[rows["dropped"].notna(), "plan"].nunique()),
        "tasks": rows["task"].nunique(),
        "documents": int(rows.groupby("task")["n"].max().sum()),
        "best_plan": means.index[0],
        "best_effect": best["effect"],
        "best_by_luck": 4.0,
        "best_low": best["effect"] - norm.isf(level / len(means)) * best["error"],
        "p": p,
        "level": level,
        "significant": p <= level,
        "shared_documents": int(rows.groupby("task")["n"].min().sum()),
        "mean_effect": mean,
        "mean_low": mean - half,
        "mean_high": mean + half,
        "share_better": float((means["effect"] > 0).mean()),
        "select_significant": False,
    }


def _path(rows: pd.DataFrame, frozen: str) -> list[dict]:
    """The frozen plan and a runner-up through the stages; the runner-up ends at select."""
    stages = {stage: _means(rows[rows["stage"] == stage]) for stage in ("search", "select")}
    stages["confirm"] = _means(rows[rows["stage"] == "confirm"])
    runner_up = next(plan for plan in stages["select"].index if plan != frozen)
    steps = []
    for plan, group in ((frozen, "frozen"), (runner_up, "runner-up")):
        for stage, means in stages.items():
            if plan not in means.index or (stage == "confirm" and group != "frozen"):
                continue
            effect, error, n = means.loc[plan]
            step = {"plan": plan, "group": group, "stage": stage, "n": int(n), "effect": effect}
            step |= {"low": effect - 1.96 * error, "high": effect + 1.96 * error}
            known = stage != "confirm"
            kept = 0.3 if stage == "search" else 0.5
            step["shrunken"] = kept * effect if known else np.nan
            step["shrunken_low"] = kept * (effect - 1.6 * error) if known else np.nan
            step["shrunken_high"] = kept * (effect + 1.6 * error) if known else np.nan
            steps.append(step)
    return steps


def _repetitions(rows: pd.DataFrame) -> list[dict]:
    """The mean over the blocks that ran with all of TIMES, on each task."""
    rows = rows[rows["times"].isin(TIMES)]
    counts = rows.groupby(["start", "stop"])["times"].transform("nunique")
    rows = rows[counts == len(TIMES)]
    found = []
    keys = ["task", "metric", "kind", "unit", "times"]
    for key, part in rows.groupby(keys, sort=False):
        half = 1.96 * part["standard_error"].mean() / np.sqrt(2)
        effect = part["effect"].mean()
        row = dict(zip(keys, key, strict=True)) | {"blocks": len(part), "n": int(part["n"].min())}
        row |= {"part": "block", "scale": 1.0, "in_place": False}
        row |= {"longest": int((part["stop"] - part["start"]).max())}
        found.append(row | {"effect": effect, "low": effect - half, "high": effect + half})
        found[-1]["fitted"] = min(0.0, *(r["effect"] for r in found if r["task"] == key[0]))
    return found


def _dose_response(rows: pd.DataFrame) -> list[dict]:
    """One row a task: a fall with an interval, once best, and worse from the second count on."""
    common = ["model", "quantization", "task", "metric", "kind", "unit", *KIND]
    found = []
    for _, part in rows.groupby("task", sort=False) if len(rows) else ():
        part = part.sort_values("times")
        slope = np.polyfit(part["times"], part["effect"], 1)[0]
        row = part.iloc[0][[*common, "blocks", "longest", "n"]].to_dict()
        row |= {"counts": ", ".join(map(str, part["times"])), "slope": slope}
        row |= {"slope_low": slope - 1, "slope_high": slope + 1, "p": 0.001, "q": 0.002}
        row |= {"significant": True, "fit": "decreasing", "fit_share": 0.9, "best": 1}
        found.append(row | {"best_low": 1, "best_high": 2, "worse_from": 3})
    return found


def _profile(rows: pd.DataFrame) -> tuple[list[dict], list[dict]]:
    """The profile of single layers that run twice, on each task, and what its shape is worth."""
    rows = rows[(rows["times"] == 2) & (rows["stop"] - rows["start"] == 1)].sort_values("start")
    keys = ["task", "metric", "kind", "unit"]
    places, shapes, earlier = [], [], []
    for key, part in rows.groupby(keys, sort=False):
        whose = dict(zip(keys, key, strict=True)) | {"part": "block", "against": "base"}
        layers = part["depth"] / part["relative_depth"]
        kept = ["plan", "start", "stop", "times", "scale", "in_place", "depth", "relative_depth"]
        # All that is compared saw what the plan with the fewest documents saw.
        n = int(part["n"].min())
        own = part[[*kept, "effect", "low", "high", "shrunken", "shrunken_low", "shrunken_high"]]
        own = own.assign(
            position=(part["start"] + 0.5) / layers,
            n=n,
            documents=int(rows["n"].max()),
            band_low=part["effect"] - 3 * part["standard_error"],
            band_high=part["effect"] + 3 * part["standard_error"],
        )
        places += [whose | row for row in own.to_dict("records")]
        count = {"places": len(part), "n": n}
        mean, half = part["effect"].mean(), part["standard_error"].mean()
        made = [("mean", "", mean, mean - half, mean + half)]
        made.append(("reliability", "", 0.47, 0.21, 0.68))
        made += [("between tasks", task, 0.31, -0.06, 0.6) for task in earlier]
        columns = ("measure", "other", "estimate", "low", "high")
        shapes += [whose | count | dict(zip(columns, row, strict=True)) for row in made]
        earlier.append(whose["task"])
    return places, shapes
