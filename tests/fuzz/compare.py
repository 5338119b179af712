"""A case -> whether Frankenlab's numbers are lm-eval's."""

import itertools
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from frankenlab.plans.plan import parse

from . import product, reference
from .answers import Answers, Crash, Document, Refusal
from .models_of import write_model
from .specs import Case
from .tasks_of import write_task
from .tokenizers_of import write_tokenizer

TOLERANCE = 1e-3

EQUAL, BOTH, HERE, FAILED = "equal", "refused by both", "refused here", "failed"

_numbers = itertools.count()


@dataclass(frozen=True)
class Verdict:
    """The end of a case: one of the four outcomes, the kind of fault, and the details."""

    outcome: str
    kind: str = ""
    detail: str = ""


def judge(case: Case) -> Verdict:
    """Build the case in a temporary folder, score it on both sides and compare."""
    # A name of its own each time: the package remembers the tasks of a folder.
    folder = Path(tempfile.mkdtemp(prefix=f"frankenlab-fuzz-{next(_numbers)}-"))
    try:
        return _judge(case, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _judge(case: Case, folder: Path) -> Verdict:
    base = folder / "base"
    write_model(case.model, write_tokenizer(case.tokenizer, base), base)
    settings = write_task(case.task, folder)
    ours = product.score(case, base, folder, settings)
    if isinstance(ours, Crash):
        return Verdict(FAILED, f"traceback: {ours.kind}", ours.message)
    if isinstance(ours, Refusal) and "\n" in ours.message:
        return Verdict(FAILED, "a refusal of several lines", ours.message)
    theirs = _reference(case, folder, base, settings, ours)
    if isinstance(theirs, Verdict):
        return theirs
    if isinstance(ours, Refusal):
        if isinstance(theirs, Crash):
            kind = f"{masked(ours.message)} | lm-eval: {theirs.kind} {masked(theirs.message)[:40]}"
            return Verdict(BOTH, kind, f"{ours.message} | {theirs.message}")
        return _justified(case, ours, theirs)
    if isinstance(theirs, Crash):
        # It may have failed on a document that is not scored here: one beyond the limit, or one
        # that stands in a prompt.
        if case.limit is not None:
            return judge(replace(case, limit=None))
        if len(ours.documents) < len(case.task.docs):
            theirs = _reference(case, folder, base, settings, ours, sorted(ours.documents))
    if isinstance(theirs, Verdict):
        return theirs
    if isinstance(theirs, Crash):
        return Verdict(FAILED, f"accepted, lm-eval: {theirs.kind}", f"{theirs.message}; {ours}")
    for kind, detail in differences(ours, theirs, case.limit):
        return Verdict(FAILED, f"differs: {kind}", detail)
    return Verdict(EQUAL)


def _reference(
    case: Case,
    folder: Path,
    base: Path,
    settings: dict,
    ours: Answers | Refusal,
    only: list[int] | None = None,
) -> reference.Harness | Crash | Verdict:
    """Return what lm-eval makes of the exported plan; a verdict where there is none."""
    if _only_runs(case):
        steps = list(parse(case.plan, case.model.n_layers).steps)
        return reference.run(case.task, settings, folder, base, steps, only)
    exported = product.export(base, case.plan, folder / ("franken" if only is None else "again"))
    if isinstance(exported, Crash):
        return Verdict(FAILED, f"traceback of the export: {exported.kind}", exported.message)
    if isinstance(exported, Refusal):
        if isinstance(ours, Refusal):
            return Verdict(HERE, masked(ours.message), ours.message)
        kind = f"scored, not exported: {masked(exported.message)}"
        return Verdict(FAILED, kind, exported.message)
    return reference.run(case.task, settings, folder, exported, None, only)


def _only_runs(case: Case) -> bool:
    """Tell whether a plan scales what no checkpoint can: a whole block, or a window."""
    steps = parse(case.plan, case.model.n_layers).steps
    return any(s.scale != 1 and (s.part == "block" or s.span > 1) for s in steps)


def _justified(case: Case, ours: Refusal, theirs: reference.Harness) -> Verdict:
    """Return the verdict on a refusal of what lm-eval scores: what it says must be true."""
    for words, true in REASONS.items():
        if words in ours.message and not true(case, theirs):
            return Verdict(FAILED, f"untrue: {masked(ours.message)}", ours.message)
    return Verdict(HERE, masked(ours.message), ours.message)


# Words of a refusal -> whether it is true of a case.
REASONS: dict[str, Callable[[Case, reference.Harness], bool]] = {
    "longer than the model's context": lambda case, theirs: theirs.longest > case.model.context,
    "examples are drawn from the documents": lambda case, _: case.task.shots_from == "same",
    # These lm-eval cannot score.
    "has no token": lambda *_: False,
    "slides over a window": lambda case, _: case.model.window == "narrow",
    "rope type": lambda case, _: case.model.rope == "dynamic",
}


def masked(message: str) -> str:
    """Return a message without what differs from case to case: paths, numbers, quoted texts."""
    text = re.sub(r"\S*frankenlab-fuzz-\S*", "FOLDER", message)
    text = re.sub(r"\"[^\"]*\"|'[^']*'", "TEXT", text)
    return re.sub(r"\d+", "N", text)[:110]


def differences(
    ours: Answers, theirs: reference.Harness, limit: int | None
) -> Iterator[tuple[str, str]]:
    """Yield (kind, detail) of everything in which the two sides differ."""
    expected = theirs.answers.documents
    if ours.documents.keys() - expected.keys():
        yield "documents", f"{sorted(ours.documents)} here, {sorted(expected)} in lm-eval"
        return
    wanted = sorted(expected.keys() - _in_prompts(theirs))[:limit]
    if missing := set(wanted) - ours.documents.keys():
        yield "documents", f"{sorted(missing)} of lm-eval's are not there"
    for number, document in ours.documents.items():
        yield from _scores(number, document, expected[number], theirs)
        yield from _metrics(number, document, theirs)


def _in_prompts(theirs: reference.Harness) -> set[int]:
    """Return the documents that are left out, for they may stand in a prompt."""
    task = theirs.task
    if not (shots := task.config.num_fewshot):
        return set()
    docs = [dict(doc) for doc in task.eval_docs]
    shown = [dict(doc) for doc in task.fewshot_docs()]
    if task.fewshot_cfg.sampler == "first_n":
        shown = shown[:shots]
    return {number for number, doc in enumerate(docs) if doc in shown}


def _scores(
    number: int, ours: Document, expected: Document, theirs: reference.Harness
) -> Iterator[tuple[str, str]]:
    place = f"document {number}: {ours.pairs} here, {expected.pairs} in lm-eval"
    if len(ours.pairs) != len(expected.pairs):
        yield "number of requests", place
        return
    for request, (one, other) in enumerate(zip(ours.pairs, expected.pairs, strict=True)):
        if not abs(one[0] - other[0]) <= TOLERANCE:
            tokens = theirs.tokens.get((number, request), "")
            yield "log-likelihood", f"{place}; request {request}, lm-eval's tokens {tokens}"
        elif other[1] is not None and one[1] != other[1] and not theirs.tied(number, request):
            yield "is_greedy", f"{place}; request {request}"


def _metrics(number: int, ours: Document, theirs: reference.Harness) -> Iterator[tuple[str, str]]:
    """Yield the metrics that differ from lm-eval's for the same log-likelihoods.

    They must be equal exactly, because no rounding lies between them.
    """
    for name, expected in theirs.metrics(number, ours).items():
        if name not in ours.metrics:
            yield f"metric {name}", f"document {number}: not there"
            continue
        value, weight = ours.metrics[name], ours.metrics.get(f"{name}_weight")
        place = f"document {number}: {value} (weight {weight}) here, {expected} in lm-eval"
        if weight is None:
            if value != expected:
                yield f"metric {name}", place
            continue
        total, parts = expected if isinstance(expected, tuple) else (expected, 1)
        rate = value * math.log(2) if name == "bits_per_byte" else math.log(value)
        # The log-likelihood of an empty text counts in lm-eval's sum, its 0 bytes in the other.
        found = -rate * (weight or 1)
        if parts != weight or not math.isclose(found, total, rel_tol=1e-6, abs_tol=1e-9):
            yield f"metric {name}", place
