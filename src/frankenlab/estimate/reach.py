"""Which verdicts the confirm stage can reach with its numbers of documents, before it is run."""

from dataclasses import dataclass

from frankenlab.analyse import error_budget
from frankenlab.analyse.paired_tests import Kind
from frankenlab.analyse.power import (
    can_be_equivalent,
    deviation_of_flips,
    documents_needed,
    smallest_detectable,
)
from frankenlab.config.stages import CONFIRM, Stage
from frankenlab.estimate.work import TEXT_METRICS, Workload

# Share of a task's answers that a plan changes, right to wrong and wrong to right, where it changes
# nothing on average: as seen in SmolLM2-135M with a late layer, and with a block, run twice.
ASSUMED_FLIPS = {"a single layer": 0.09, "a block": 0.14}

# Deviation of a text's log-perplexity between plan and base, in log-percent, as seen there.
ASSUMED_TEXT_DEVIATION = 17.0


@dataclass(frozen=True)
class Reach:
    """What a number of documents can show of a plan that changes so much.

    Attributes:
        change: the smallest true change that is found with 80 % power, in points or log-percent;
            None where none is.
        equivalent: whether a plan that changes nothing would be called equivalent.
        needed: documents at which it would be.
    """

    change: float | None
    equivalent: bool
    needed: int | None


def reach(n: int, deviation: float, kind: Kind, margin: float, level: float) -> Reach:
    """Return what n documents can show, each of which deviates by so much."""
    return Reach(
        smallest_detectable(n, deviation, kind=kind, level=level),
        can_be_equivalent(n, deviation, kind=kind, margin=margin, level=level),
        documents_needed(0.0, deviation, kind=kind, margin=margin, level=level),
    )


def reach_lines(workload: Workload, model: str) -> list[str]:
    """Return a line for each task of the confirm stage, below one that says what is assumed."""
    experiment, rules = workload.experiment, workload.experiment.settings.statistics
    tests = len(experiment.cells) * len(experiment.tasks)
    level = error_budget.level(rules.alpha, "verdicts", tests)
    shares = " and ".join(f"{100 * share:.0f} % ({name})" for name, share in ASSUMED_FLIPS.items())
    lines = [
        f"  verdicts: {tests} tests at {100 * level:.2g} % each, with 80 % power, if a plan flips "
        f"{shares} of the answers and moves texts by {ASSUMED_TEXT_DEVIATION:g} log-percent"
    ]
    for name, task in experiment.tasks.items():
        count = workload.documents(model, name, Stage(CONFIRM)).count
        texts = task.metric in TEXT_METRICS
        deviations = (
            [ASSUMED_TEXT_DEVIATION]
            if texts
            else [deviation_of_flips(share) for share in ASSUMED_FLIPS.values()]
        )
        kind: Kind = "perplexity" if texts else "mean"
        found = [reach(count, each, kind, rules.margin, level) for each in deviations]
        lines.append(f"    {name}: {_words(count, found, 'log-percent' if texts else 'points')}")
        lines[-1] += f"; equivalent within {rules.margin:g}: {_equivalent(found)}"
    return lines


def _words(count: int, found: list[Reach], unit: str) -> str:
    changes = ["no change" if x.change is None else f"{x.change:.1f}" for x in found]
    return f"{count} documents show a change of {' and '.join(changes)} {unit}"


def _equivalent(found: list[Reach]) -> str:
    if all(each.equivalent for each in found):
        return "can be reached"
    needed = " and ".join("none" if x.needed is None else f"{x.needed}" for x in found)
    start = "only with the fewer flips" if any(x.equivalent for x in found) else "out of reach"
    return f"{start} (needs {needed} documents)"
