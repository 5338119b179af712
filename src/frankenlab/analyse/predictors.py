"""Numbers of layers and blocks that may tell what repeating them does, without evaluating it.

Most are what a probe measured of each layer; a block's is the mean over its layers. Those that
others published are computed as their sources define them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import scipy

from frankenlab.analyse.paired_tests import Floats

# Name -> what it is, as it stands in a picture.
MEASURED: Mapping[str, str] = {
    "first_block": "update of the layer, first pass",
    "first_attn": "update of its attention, first pass",
    "first_mlp": "update of its MLP, first pass",
    "second_block": "update of the layer, second pass",
    "second_attn": "update of its attention, second pass",
    "second_mlp": "update of its MLP, second pass",
    "ratio": "second update, relative to the first",
    "turn_block": "cosine of first and second update",
    "kl": "change of the next token (KL)",
}
PUBLISHED: Mapping[str, str] = {
    "block_influence": "block influence (ShortGPT)",
    "angle": "angular distance (Gromov et al.)",
    "stability": "stability score (CircuitProbe)",
    "anomaly": "anomaly score (CircuitProbe)",
}
# A number that needs no model, which others should beat.
POSITION = "position"

# How much each part counts in CircuitProbe's stability score.
STABILITY_WEIGHT, RANK_WEIGHT = 1.5, 0.5
# Layers before a block that it compares the block with.
BEFORE = 3
TINY = 1e-10


def predictors(
    layers: pd.DataFrame, similarity: pd.DataFrame, spans: Sequence[tuple[int, int]]
) -> pd.DataFrame:
    """Return a row for each span (start, stop) of layers, and a column for each predictor.

    `block_influence` is that of Men et al. (2024, ShortGPT): 1 less the cosine between the state
    before and after, a mean over tokens. `angle` is the angular distance of Gromov et al. (2024)
    between them, at the last token.

    Args:
        layers: a probe of one model on one task, in the order of its layers.
        similarity: between its states.
    """
    frame = layers.reset_index(drop=True)
    frame = frame.assign(ratio=frame["second_block"] / frame["first_block"])
    pairs = similarity.set_index(["first", "second"])
    found = {
        name: [frame[name].iloc[start:stop].mean() for start, stop in spans] for name in MEASURED
    }
    index = pd.MultiIndex.from_tuples(spans)
    found["block_influence"] = list(1 - pairs["cosine"].reindex(index))
    found["angle"] = list(pairs["angle"].reindex(index))
    found["stability"] = [stability(frame, *span) for span in spans]
    found["anomaly"] = [anomaly(frame, *span) for span in spans]
    found[POSITION] = [(start + stop) / 2 / len(frame) for start, stop in spans]
    return pd.DataFrame(found)


def single_layers(layers: pd.DataFrame, similarity: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of probes with the predictors of each single layer that they lack."""
    keys = ["model", "quantization", "task"]
    pairs = dict(list(similarity.groupby(keys, sort=False)))
    parts = []
    for key, part in layers.groupby(keys, sort=False):
        spans = [(layer, layer + 1) for layer in range(len(part))]
        found = predictors(part, pairs[key], spans).set_index(part.index)
        parts.append(part.join(found[["ratio", *PUBLISHED]]))
    return pd.concat(parts, ignore_index=True)


def anomaly(layers: pd.DataFrame, start: int, stop: int) -> float:
    """Return CircuitProbe's anomaly score of a block: how unusual its layers are in the model.

    As its released code has it (Panuganti 2026, arXiv 2604.00716): the sum of four z-scores of the
    block's mean among the layers: the size of the change of the state, its cosine with the sign
    turned, the variance over examples, and the effective rank.
    """
    signs = {"change": 1, "self_similarity": -1, "variance": 1, "rank": 1}
    return sum(sign * _z(layers[name], start, stop) for name, sign in signs.items())


def stability(layers: pd.DataFrame, start: int, stop: int) -> float:
    """Return CircuitProbe's stability score of a block: whether the change of the state has
    settled there.

    As its released code has it (Panuganti 2026, arXiv 2604.00716), a sum of: 1.5 times a z-score,
    sign turned, of the steps between neighbouring layers' changes; the same of how far the growth
    of the variance over examples is from its median; the relative fall of the change from the three
    layers before the block, where it falls; half the z-score of the effective rank. The first is
    left out where the block ends with the model, the second there and where it begins with it, the
    third within the first three layers.
    """
    change, variance = (layers[name].to_numpy(float) for name in ("change", "variance"))
    count, score = len(layers), RANK_WEIGHT * _z(layers["rank"], start, stop)
    if stop < count:
        steps = np.abs(np.diff(change))
        score -= STABILITY_WEIGHT * (steps[start:stop].mean() - steps.mean()) / (steps.std() + TINY)
    if start > 0 and stop < count:
        growth = variance[1:] / np.maximum(variance[:-1], TINY)
        off = np.abs(growth - np.median(growth))
        own = abs(growth[start - 1 : stop - 1].mean() - np.median(growth))
        score -= (own - off.mean()) / (off.std() + TINY)
    if start >= BEFORE:
        before = change[start - BEFORE : start].mean()
        if before > 0:
            score += max(0.0, 1 - change[start:stop].mean() / before)
    return float(score)


def _z(values: pd.Series, start: int, stop: int) -> float:
    """Return how far the mean of a block lies from that of all layers, in standard deviations."""
    found = values.to_numpy(float)
    return float((found[start:stop].mean() - found.mean()) / (found.std() + TINY))


def ranks(values: Floats, groups: Floats) -> Floats:
    """Return ranks [..., n] within each group [n], centred at 0, as shares of the group's size."""
    found = scipy.stats.rankdata(values, axis=-1)
    each = np.unique(groups)
    if len(each) > 1:
        found = scipy.stats.rankdata(found + groups * (found.shape[-1] + 1), axis=-1)
    for group in each:
        own = groups == group
        part = found[..., own]
        found[..., own] = (part - part.mean(axis=-1, keepdims=True)) / own.sum()
    return found


def correlation(one: Floats, other: Floats) -> Floats:
    """Return the correlations [...] of ranks [..., n] with ranks [n]; NaN where all are equal."""
    with np.errstate(invalid="ignore"):
        size = np.linalg.norm(one, axis=-1) * np.linalg.norm(other)
        found: Floats = (one @ other) / size
    return found
