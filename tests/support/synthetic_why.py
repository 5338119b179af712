"""Invented probes of layers, and scores whose effects follow one of their numbers."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from frankenlab.analyse.predictors import single_layers
from frankenlab.plans.plan import looped

WHERE = {"model": "m", "quantization": "none"}
PARTS = ("block", "attn", "mlp")


def probe_tables(
    n_layers: int, tasks: Sequence[str], seed: int = 0, where: Mapping[str, str] = WHERE
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The tables layers, similarity and documents of a probe, all at random."""
    rng = np.random.default_rng(seed)
    names = [f"{name}_{part}" for name in ("first", "second") for part in PARTS]
    names += ["kl", "change", "self_similarity", "variance", "rank"]
    states = np.cumsum(rng.normal(size=(n_layers + 1, 12)), axis=0)
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    values = np.exp(rng.normal(size=(n_layers, len(names))))
    layers, similarity, documents = [], [], []
    for task in tasks:
        own = {**where, "task": task}
        noise = rng.lognormal(sigma=0.05, size=values.shape)
        table = pd.DataFrame(values * noise, columns=names).assign(**own, layer=range(n_layers))
        table["cosine"] = (states[1:] * states[:-1]).sum(axis=1)
        layers.append(table.assign(**{f"turn_{p}": rng.uniform(-1, 1, n_layers) for p in PARTS}))
        pairs = [(i, j) for i in range(n_layers + 1) for j in range(i + 1, n_layers + 1)]
        cosines = [states[i] @ states[j] for i, j in pairs]
        found = pd.DataFrame(pairs, columns=["first", "second"]).assign(**own, cosine=cosines)
        similarity.append(found.assign(angle=np.arccos(cosines) / np.pi))
        documents.append(pd.DataFrame({"document": [900, 901]}).assign(**own))
    tables = (layers, similarity, documents)
    return tuple(pd.concat(parts, ignore_index=True) for parts in tables)


def task_scores(
    task: str,
    harms: Mapping[tuple[int, int], float],
    n_layers: int,
    n: int,
    seed: int = 0,
    where: Mapping[str, str] = WHERE,
) -> pd.DataFrame:
    """Scores of the base and of plans that run spans of layers twice.

    Args:
        harms: (start, stop) -> the chance that a right answer turns wrong.
    """
    rng = np.random.default_rng([seed, *task.encode()])
    base = rng.random(n) < 0.7
    plans = {"base": base}
    for (start, stop), harm in harms.items():
        plans[looped(start, stop, 2, n_layers).text] = base & (rng.random(n) >= harm)
    frames = [
        pd.DataFrame({"plan": plan, "document": np.arange(n), "acc": right.astype(float)})
        for plan, right in plans.items()
    ]
    table = pd.concat(frames, ignore_index=True)
    table["cluster"] = table["document"].astype(str)
    return table.assign(**where, task=task, stage="search", hardware="one")


CORRELATIONS = {
    "chosen": 0.52,
    "fitted": 0.44,
    "first_block": -0.3,
    "kl": -0.55,
    "block_influence": -0.41,
    "stability": 0.08,
    "anomaly": -0.2,
    "position": 0.35,
    "other_effect": 0.31,
}


def correlations(
    tasks, where=WHERE, scopes=("layers", "blocks"), values=CORRELATIONS
) -> pd.DataFrame:
    """The table `predictors`: of the last task everything is .1 lower."""
    rows = [
        {
            "task": task,
            "scope": scope,
            "predictor": name,
            "chosen": "kl" if name == "chosen" else "",
            "probed": "others",
            "fitted": "others" if name in ("chosen", "fitted") else "",
            "plans": 30,
            "n": 100,
            "correlation": value - 0.1 * (task == tasks[-1]),
            "low": max(value - 0.48, -1),
            "high": value + 0.3,
            "reliability": 0.5,
        }
        for task in tasks
        for scope in scopes
        for name, value in values.items()
    ]
    return pd.DataFrame(rows).assign(**where)


def why_tables(tasks: Sequence[str], where: Mapping[str, str] = WHERE) -> dict[str, pd.DataFrame]:
    """The tables `probe`, `similarity` and `predictors` of a model of 30 layers."""
    layers, similarity, _ = probe_tables(30, tasks, where=where)
    made = {"probe": single_layers(layers, similarity), "similarity": similarity}
    return made | {"predictors": correlations(tasks, where)}
