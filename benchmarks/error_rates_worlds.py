"""Worlds whose truth is known: what the plans of the default grid would score in them.

Plans flip the decisions of their base on documents. How often, and which plans flip the same
documents, is taken from the default experiment (`benchmarks/data/default.npz`); how often a flip is
a gain is what a setting says. Perplexities differ passage by passage, with a mean and a skew that
the setting says.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import special

from frankenlab.plans.plan import Plan, parse

Floats = NDArray[np.float64]

DATA = Path(__file__).parent / "data" / "default.npz"
SEARCH_TASKS = ("search 1", "search 2")
QUANTIZATIONS = ("reference", "fewer bits")
# A bitrate changes some of what a plan does to a document: correlation of the two.
BITRATE_CORRELATION = 0.8
# The frozen plan and its controls have the same depth and meet the same documents.
CONTROL_CORRELATION = 0.3
# Words of a passage: mean and coefficient of variation, as in BoolQ's passages.
WORDS, WORDS_VARIATION = 86.0, 0.5
# Standard deviation over passages of the change per word, in log-percent.
PASSAGE_DEVIATION = 8.0
# Neighbours of a planted plan share its effect.
NEIGHBOURS = 5
# Correlation of documents of one passage, in what a plan does to them.
PASSAGE_CORRELATION = 0.6


@dataclass(frozen=True)
class Setting:
    """A truth, and how its documents are drawn.

    Attributes:
        gain: effect of the planted plans on the search tasks, in points; all other plans have 0.
        neighbourhood: whether the plans most like the planted one share its effect.
        guard_effect: effect of every plan on the guard tasks of kind "mean", in points.
        passage_effect: effect of every plan on the perplexities, in log-percent.
        skew: of the differences of one passage; 0 is a normal distribution, others are shifted
            gamma distributions.
        perplexities: how many of the three guard tasks are perplexities.
        flips: smallest and largest share of documents that a plan flips.
        cluster: documents that share a passage; 1 is none.
        declared: whether the analysis is told which documents share one.
    """

    gain: float = 0.0
    neighbourhood: bool = False
    guard_effect: float = 0.0
    passage_effect: float = 0.0
    skew: float = 0.0
    perplexities: int = 1
    flips: tuple[float, float] = (0.05, 0.25)
    cluster: int = 1
    declared: bool = True

    @property
    def search(self) -> tuple[object, ...]:
        """Return what the search depends on: settings that have it in common can share one."""
        return self.gain, self.neighbourhood, self.flips, self.cluster, self.declared

    @property
    def guards(self) -> tuple[str, ...]:
        """Return the names of the guard tasks; the perplexities come last."""
        names = [f"guard {number}" for number in range(1, 4 - self.perplexities)]
        return (*names, *(f"perplexity {n}" for n in range(1, self.perplexities + 1)))


@dataclass(frozen=True)
class Grid:
    """The plans of the default grid, and how they behave on its two search tasks.

    Attributes:
        plans: [plans] without the base.
        flips: [tasks, plans] share of documents whose decision a plan flips.
        roots: for each task a matrix [plans, plans] that gives independent normals the
            correlation of the plans.
        accuracy: [tasks] of the base.
    """

    plans: tuple[Plan, ...]
    flips: Floats
    roots: tuple[Floats, ...]
    accuracy: tuple[float, ...]
    likeness: Floats = field(repr=False)


@cache
def grid() -> Grid:
    """Return the default grid, from the score tables of the default experiment."""
    data = np.load(DATA)
    plans = tuple(parse(text, int(data["n_layers"])) for text in data["plans"].tolist()[1:])
    flips, roots, accuracy, likeness = [], [], [], []
    for task in data["tasks"].tolist():
        correct = data[f"{task}.correct"]
        margins = data[f"{task}.margin"].astype(float)
        related = np.corrcoef(margins[1:] - margins[0])
        # 100 documents cannot tell 79 plans apart: a little of each plan is its own.
        roots.append(np.linalg.cholesky(0.9 * related + 0.1 * np.eye(len(related))))
        likeness.append(related)
        flips.append((correct[1:] != correct[0]).mean(axis=1))
        accuracy.append(float(correct[0].mean()))
    return Grid(plans, np.array(flips), tuple(roots), tuple(accuracy), np.mean(likeness, axis=0))


@dataclass(frozen=True)
class World:
    """One draw of a truth: which plans are better, and by how much.

    Attributes:
        effects: [plans] on each search task, in points.
        flips: [tasks, plans].
    """

    setting: Setting
    effects: Floats
    flips: Floats

    def truth(self, task: str, plan: int | None) -> float:
        """Return the true effect on a task of a plan, or of a control where that is None."""
        if task in SEARCH_TASKS:
            return 0.0 if plan is None else float(self.effects[plan])
        setting = self.setting
        return setting.passage_effect if is_perplexity(task) else setting.guard_effect


def is_perplexity(task: str) -> bool:
    """Tell a perplexity from an accuracy by its name."""
    return task.startswith("perplexity")


def world(setting: Setting, random: np.random.Generator) -> World:
    """Draw which plan is planted; it is any plan of the grid."""
    known = grid()
    effects = np.zeros(len(known.plans))
    if setting.gain:
        best = int(random.integers(len(effects)))
        near = np.argsort(-known.likeness[best], kind="stable")[: NEIGHBOURS + 1]
        effects[near if setting.neighbourhood else best] = setting.gain
    return World(setting, effects, np.clip(known.flips, *setting.flips))


def search_differences(
    drawn: World, task: int, documents: int, random: np.random.Generator
) -> Floats:
    """Return what every plan of the grid gains on fresh documents of a search task,
    [plans, documents]: 1, 0 or -1."""
    root = grid().roots[task]
    latent = root @ _shared(drawn.setting, (len(root), documents), random)
    right = random.random(documents) < grid().accuracy[task]
    return _flipped(latent, drawn.flips[task], drawn.effects, right, grid().accuracy[task])


def confirm_differences(
    drawn: World, task: str, plan: int, documents: int, controls: int, random: np.random.Generator
) -> Floats:
    """Return what the frozen plan and its controls gain on fresh documents of one task of kind
    "mean", [bitrates, 1 + controls, documents]."""
    number = SEARCH_TASKS.index(task) if task in SEARCH_TASKS else 0
    latent = _bitrates(
        lambda: _alike(
            _shared(drawn.setting, (1 + controls, documents), random),
            _shared(drawn.setting, (1, documents), random),
        )
    )
    effects = np.array([drawn.truth(task, plan), *[drawn.truth(task, None)] * controls])
    accuracy = grid().accuracy[number]
    right = random.random(documents) < accuracy
    flips = np.full(1 + controls, drawn.flips[number, plan])
    return np.array([_flipped(one, flips, effects, right, accuracy) for one in latent])


def passage_weights(passages: int, random: np.random.Generator) -> Floats:
    """Return the words of passages, which are log-normal."""
    sigma = np.sqrt(np.log1p(WORDS_VARIATION**2))
    return np.maximum(1.0, np.round(WORDS * np.exp(sigma * random.standard_normal(passages))))


def passage_differences(
    setting: Setting, weights: Floats, controls: int, random: np.random.Generator
) -> Floats:
    """Return what the frozen plan and its controls gain on passages, [bitrates, 1 + controls,
    passages]: nlls in nats, whose expected sum is the setting's effect."""
    latent = _bitrates(
        lambda: _alike(
            random.standard_normal((1 + controls, weights.size)),
            random.standard_normal((1, weights.size)),
        )
    )
    rates = setting.passage_effect + PASSAGE_DEVIATION * skewed(latent, setting.skew)
    return rates / 100 * weights


def skewed(normal: Floats, skew: float) -> Floats:
    """Return standard normals as numbers of mean 0, deviation 1 and this skew."""
    if skew == 0:
        return normal
    shape = 4 / skew**2
    gamma = special.gammaincinv(shape, special.ndtr(np.sign(skew) * normal))
    return np.sign(skew) * (gamma - shape) / np.sqrt(shape)


def clusters(setting: Setting, documents: int) -> NDArray[np.int64]:
    """Return what the analysis is told of which documents belong together."""
    size = setting.cluster if setting.declared else 1
    return np.arange(documents) // size


def _shared(setting: Setting, shape: tuple[int, int], random: np.random.Generator) -> Floats:
    """Return standard normals [rows, documents]; documents of one passage are alike."""
    own = random.standard_normal(shape)
    if setting.cluster == 1:
        return own
    passages = random.standard_normal((shape[0], -(-shape[1] // setting.cluster)))
    common = np.repeat(passages, setting.cluster, axis=1)[:, : shape[1]]
    return np.sqrt(PASSAGE_CORRELATION) * common + np.sqrt(1 - PASSAGE_CORRELATION) * own


def _alike(own: Floats, common: Floats) -> Floats:
    return np.sqrt(CONTROL_CORRELATION) * common + np.sqrt(1 - CONTROL_CORRELATION) * own


def _bitrates(draw: Callable[[], Floats]) -> Floats:
    reference, other = draw(), draw()
    r = BITRATE_CORRELATION
    return np.array([reference, r * reference + np.sqrt(1 - r**2) * other])


def _flipped(
    latent: Floats, flips: Floats, effects: Floats, right: NDArray[np.bool_], accuracy: float
) -> Floats:
    """Return gains and losses from standard normals [plans, documents].

    A plan loses the documents with the lowest values among those that its base has right, and
    gains those with the highest among the others, so that a share `flips` of all documents flips
    and gains less losses are `effects` points.
    """
    change = effects / 100
    flips = np.maximum(flips, np.abs(change))
    loss = special.ndtri((flips - change) / 2 / accuracy)[:, None]
    gain = special.ndtri(1 - (flips + change) / 2 / (1 - accuracy))[:, None]
    return np.where(right, -1.0 * (latent < loss), 1.0 * (latent > gain))
