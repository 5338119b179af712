"""Invented scores at several bitrates, turned into the tables `bits` and `quantizations`.

A model of SmolLM2-135M's shapes. Fewer bits hurt the base, the franken loses a little, and more
at few bits.
"""

import numpy as np
import pandas as pd

from frankenlab.analyse.interaction import corrected, task_bitrates
from frankenlab.analyse.settings import Statistics
from frankenlab.models.footprint import Footprint
from frankenlab.models.shape import ModelShape
from tests.support import synthetic_tables as synthetic

RULES = Statistics(fdr=0.05, alpha=0.05, margin=3.0, resamples=200, seed=1)
QUANTIZATIONS = ("none", "exl2-6.0", "exl2-4.0", "exl2-3.0")
FROZEN, CONTROLS = "0:18,18:21x2,21:30", ("0:10,7:30", "0:3,2:5,4:27,26:30")
ATTENTION, MLP, VOCABULARY = 884_736, 2_654_208, 49_152 * 576


def footprint(quantization: str) -> Footprint:
    """SmolLM2-135M at 16 bits with the head in its embeddings, or as EXL2 with 6 bits apart."""
    plain = quantization == "none"
    width = 16.0 if plain else float(quantization.removeprefix("exl2-"))
    layers = synthetic.LAYERS
    return Footprint(
        shape=ModelShape("llama", layers, 576, 1536, 9, 3, 64, 49152, 2048, tied_embeddings=plain),
        bits_per_weight=width if plain else width * 0.997,
        head_bits=16.0 if plain else 6.12,
        parts={
            "attn": (round(ATTENTION * width / 8) + 1152,) * synthetic.LAYERS,
            "mlp": (round(MLP * width / 8) + 1152,) * synthetic.LAYERS,
        },
        head=round(VOCABULARY * (2 if plain else 6.12 / 8)),
        embeddings=0 if plain else 2 * VOCABULARY,
    )


def scores(
    model: str,
    task: synthetic.Task,
    quantizations: tuple[str, ...],
    worth: float,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Scores of the confirm stage; `worth` is the franken's change in points at 16 bits."""
    n, words = task.confirm_n, rng.integers(40, 180, task.confirm_n)
    ability = rng.normal(np.log(task.base / (1 - task.base)) if task.kind == "mean" else 0, 1.2, n)
    parts = []
    for quantization in quantizations:
        width = footprint(quantization).bits_per_weight
        loss = 6.0 * 2.0 ** (-(width - 2) * 1.1)
        noise = rng.normal(0, 0.25 * loss**0.5, n)
        for plan in ("base", FROZEN, *CONTROLS):
            change = {"base": 0.0, FROZEN: worth - 0.2 * loss}.get(plan, -4 - 0.4 * loss)
            if task.kind == "mean":
                own = rng.normal(0, 0.35, n) * (plan != "base")
                right = ability + noise + own + (change - 2.5 * loss) / 22 > 0
                part = pd.DataFrame({"document": range(n), task.metric: right.astype(float)})
            else:
                own = rng.normal(0, 0.02, n) * (plan != "base")
                rate = np.log(task.base) + 0.1 * ability + 0.08 * loss - change / 40 + own
                part = pd.DataFrame({"document": range(n), task.metric: np.exp(rate)})
                part[f"{task.metric}_weight"] = words.astype(float)
            parts.append(part.assign(plan=plan, quantization=quantization))
    table = pd.concat(parts, ignore_index=True)
    cluster = "d" + table["document"].astype(str)
    columns = {"stage": "confirm", "model": model, "task": task.name, "hardware": "a card"}
    return table.assign(cluster=cluster, **columns)


def make_bits(
    models: tuple[str, ...] = (synthetic.MODEL,),
    quantizations: tuple[str, ...] = QUANTIZATIONS,
    tasks: tuple[synthetic.Task, ...] = synthetic.TASKS,
    worth: float = -0.5,
    seed: int = 5,
) -> dict[str, pd.DataFrame]:
    """The tables `bits` and `quantizations`."""
    rng = np.random.default_rng(seed)
    sizes = {q: footprint(q) for q in quantizations}
    found = [
        task_bitrates(
            scores(model, task, quantizations, worth, rng),
            task,
            FROZEN,
            quantizations[0],
            sizes,
            synthetic.LAYERS,
            RULES,
        )
        for model in models
        for task in tasks
    ]
    weights = [
        {
            "model": model,
            "quantization": q,
            "made": "weights as distributed: Q4_1, dequantized" if q == "none" else None,
            "quantizer": None if q == "none" else "frankenlab-gptq",
            "quantizer_version": None if q == "none" else "1f2e3d",
            "bits_per_weight": size.bits_per_weight,
            "head_bits": size.head_bits,
            "attainable_low": None if q == "none" else 2.3064,
            "attainable_high": None if q == "none" else 8.08,
            "calibration": None if q == "none" else "rows 64, length 256, hash 77aa",
            "calibration_perplexity": None,
            "weight_bytes": size.weight_bytes,
            "read_bytes": size.head + sum(map(sum, size.parts.values())),
        }
        for model in models
        for q, size in sizes.items()
    ]
    bits = corrected(found, RULES)
    # Controls ran on the search tasks at the reference only.
    here = (bits["quantization"] == bits["reference"]) & (bits["role"] == "search")
    bits = bits[here | (bits["group"] != "control")].reset_index(drop=True)
    return {
        "bits": bits,
        "quantizations": pd.DataFrame(weights),
    }
