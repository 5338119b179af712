"""Runs cases until there are enough, and shrinks the first failure of each kind."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from unittest.mock import patch

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.internal.conjecture.engine import ConjectureRunner

from .compare import EQUAL, FAILED, Verdict
from .draws import cases as drawn_cases
from .specs import Case, to_json

# Most seconds that are spent on making one failure smaller.
SHRINK_SECONDS = 30.0

# With more kinds of failures than this, there is enough to mend.
MOST_KINDS = 12


@dataclass
class Summary:
    """What was found.

    Attributes:
        outcomes: outcome -> number of cases.
        reasons: (outcome, kind) -> number of cases.
        failures: kind -> the smallest case and what was found.
        traits: of the cases that were equal, how often each trait was among them.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: dict[str, tuple[Case, Verdict]] = field(default_factory=dict)
    traits: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def total(self) -> int:
        """Cases that were judged, without those of shrinking."""
        return self.outcomes.total()

    def add(self, case: Case, verdict: Verdict) -> None:
        """Count a case."""
        self.outcomes[verdict.outcome] += 1
        if verdict.kind:
            self.reasons[verdict.outcome, verdict.kind] += 1
        if verdict.outcome == EQUAL:
            self.traits.update(traits(case))


def traits(case: Case) -> list[str]:
    """What is worth counting of a case."""
    model, tokenizer, task = case.model, case.tokenizer, case.task
    shots = f"shots from {task.shots_from}" if task.shots else "no shots"
    return [
        model.architecture,
        f"rope {model.rope}",
        f"{tokenizer.kind} tokenizer",
        f"adds {tokenizer.adds or 'nothing'}",
        task.kind,
        shots,
        "base" if case.plan == "base" else "franken",
        f"weights {model.files}",
        f"tied {model.tied}",
    ]


class Enough(BaseException):
    """Ends a search; no `Exception`, for Hypothesis would take that as a failure."""


Judge = Callable[[Case], Verdict]
Progress = Callable[[Summary], None]


def search(
    judge: Judge,
    seed: int,
    count: int,
    progress: Progress = lambda _: None,
    shrink_seconds: float = SHRINK_SECONDS,
) -> Summary:
    """Judge `count` random cases; the same for the same seed.

    The first failure of each kind is shrunk, others of its kind are counted. It ends early after
    `MOST_KINDS` kinds.
    """
    summary, began = Summary(), time.monotonic()
    while summary.total < count and len(summary.failures) < MOST_KINDS:
        again = seed + len(summary.failures)
        _until_failure(judge, again, count, summary, progress, shrink_seconds)
        summary.seconds = time.monotonic() - began
    return summary


def _until_failure(
    judge: Judge,
    seed: int,
    count: int,
    summary: Summary,
    progress: Progress,
    shrink_seconds: float,
) -> None:
    """Judge cases until there are enough or one fails in a new way, which is then shrunk."""
    kind: str | None = None
    stop = 0.0

    def check(case: Case) -> None:
        nonlocal kind, stop
        if kind is not None and time.monotonic() > stop:
            raise Enough
        if kind is None and summary.total >= count:
            raise Enough
        verdict = judge(case)
        if kind is None:
            summary.add(case, verdict)
            progress(summary)
            if verdict.outcome != FAILED or verdict.kind in summary.failures:
                return
            kind, stop = verdict.kind, time.monotonic() + shrink_seconds
        elif verdict.outcome != FAILED or verdict.kind != kind:
            return
        smallest = summary.failures.get(kind)
        if smallest is None or len(to_json(case)) <= len(to_json(smallest[0])):
            summary.failures[kind] = case, verdict
        raise AssertionError(kind)

    drawn = given(drawn_cases())(check)
    drawn = settings(
        max_examples=count,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        verbosity=hypothesis.Verbosity.quiet,
        print_blob=False,
        report_multiple_bugs=False,
    )(drawn)
    # Without this, five of six cases are the one before with a part of it repeated.
    fresh = patch.object(ConjectureRunner, "generate_mutations_from", lambda *_: None)
    try:
        with fresh:
            hypothesis.seed(seed)(drawn)()
    except (AssertionError, Enough):
        if kind is None and summary.total < count:
            raise
