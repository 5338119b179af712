"""What a change reruns: everything that it affects, and nothing else.

`docs/running.md` has the table in words. The tests share one finished run, and each changes back
what it changed.
"""

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path

import pytest

from tests.support.dry_runs import DryRuns
from tests.support.laboratory import Laboratory
from tests.support.warm_python import warm_python

pytestmark = pytest.mark.slow

Change = Callable[[Laboratory], Callable[[], object]]

# What runs behind what. The tiny experiment has one model, two search tasks and a guard task.
NOTHING: Counter[str] = Counter()
SHOWN = Counter(render_notebook=1)
PAGE = Counter(provenance=1, render_notebook=1)
FIGURES = Counter(plot_search=1, plot_confirm=1)
PICTURES = SHOWN + Counter(plot_search=1)
TABLES = PAGE + FIGURES + Counter(tables=1)
COST = TABLES + Counter(measure_cost=1)
PROBE = TABLES + Counter(probe=1)
SCORES = TABLES + Counter(flips=1)
# One job scores all tasks, and finds those that are not stale in the store.
CONFIRM = SCORES + Counter(confirm=1, aggregate=1)
# Another plan may be frozen: it is confirmed and timed.
FROZEN = CONFIRM + Counter(freeze=1, construct_frankens=1, measure_cost=1)
SELECT = FROZEN + Counter(evaluate=1, aggregate=1)
SHORTLIST = SELECT + Counter(shortlist=1, construct_frankens=1)
COMPARED = SHORTLIST + Counter(aggregate=1)
SEARCH = SHORTLIST + Counter(evaluate=1, aggregate=1)
GRID = SEARCH + Counter(construct_frankens=1)
# Only the choice is made again, with the plans of the search.
SEARCH_ALONE = SCORES + Counter(
    construct_frankens=1, evaluate=1, aggregate=1, shortlist=1, freeze=1
)
ENGINE = SEARCH + Counter(probe=1)
MODEL = GRID + Counter(probe=1)


def config(path: str, value: object) -> Change:
    """Give a key of the config another value."""

    def change(lab: Laboratory) -> Callable[[], object]:
        *parents, last = path.split(".")
        place = lab.config
        for key in parents:
            place = place.setdefault(key, {})
        there, before = last in place, place.get(last)
        place[last] = value

        def back() -> None:
            place.pop(last)
            place.update({last: before} if there else {})

        return back

    return change


def edit(file: str, old: str = "", new: str = "\nCHANGED = 1\n") -> Change:
    """Change a file: add to its end, or replace a text."""

    def change(lab: Laboratory) -> Callable[[], object]:
        path = lab.folder / file
        before = path.read_text()
        assert old in before
        path.write_text(before.replace(old, new, 1) if old else before + new)
        return lambda: path.write_text(before)

    return change


def code(file: str, old: str = "", new: str = "\nCHANGED = 1\n") -> Change:
    """Change a module of the package."""
    return edit(f"src/frankenlab/{file}", old, new)


def lost(file: str) -> Change:
    """Move a file or a folder away."""

    def change(lab: Laboratory) -> Callable[[], object]:
        path = lab.folder / file
        aside = path.rename(lab.folder / "aside")
        return lambda: aside.rename(path)

    return change


def library(name: str) -> Change:
    """Have another version of a library, as far as its metadata say."""

    def change(lab: Laboratory) -> Callable[[], object]:
        folder = lab.folder / "src" / f"{name}-99.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 99\n")
        return lambda: shutil.rmtree(folder)

    return change


def together(*changes: Change) -> Change:
    """Make several changes."""

    def change(lab: Laboratory) -> Callable[[], object]:
        backs = [each(lab) for each in changes]
        return lambda: [back() for back in backs]

    return change


def comments(lab: Laboratory) -> Callable[[], object]:
    """Add a comment to every module and have new times everywhere, as after a checkout."""
    sources = {path: path.read_text() for path in (lab.folder / "src").rglob("*.py")}
    for path, text in sources.items():
        path.write_text(text + "\n# a comment\n")
    for part in ("workflow", "config", "notebooks", "profiles", "Snakefile"):
        for path in [lab.folder / part, *(lab.folder / part).rglob("*")]:
            path.touch()
    return lambda: [path.write_text(text) for path, text in sources.items()]


BITS = {"calibration": {"file": "calibration.jsonl", "texts": 30, "rows": 4, "length": 64}}
PLANS = [
    {"generator": "layer", "times": 2},
    {"generator": "block", "length": 2, "times": [2, 3]},
    {"generator": "explicit", "plans": ["0:4x2"]},
]

CHANGES: dict[str, tuple[Change, Counter]] = {
    "comments and new times": (comments, NOTHING),
    "an error message": (code("tasks/encoding.py", "is longer than the", "exceeds the"), NOTHING),
    "the other engine": (code("engines/exllamav2.py"), PAGE),
    "what surrounds a job": (code("runtime/job.py"), PAGE),
    "the schema": (code("config/settings.py"), PAGE),
    "the experiment's code": (code("config/experiment.py"), PAGE),
    "what is predicted": (code("estimate/memory.py"), PAGE),
    "progress": (code("io/progress.py"), NOTHING),
    "the converter of GGUF files": (code("models/gguf/model.py"), NOTHING),
    "the text of a caption": (edit("workflow/report/tables/costs.rst", "", "More.\n"), SHOWN),
    "a description": (config("models.tiny.description", "tiny"), PAGE),
    "the margin": (config("statistics.margin", 5), TABLES),
    "alpha": (config("statistics.alpha", 0.01), TABLES),
    "the false discovery rate": (config("statistics.fdr", 0.1), COMPARED),
    "the resamples": (config("statistics.resamples", 300), COMPARED),
    "the seed": (config("statistics.seed", 2), COMPARED),
    "a figure": (code("report/figures/maps.py"), FIGURES + SHOWN),
    "a verdict": (code("analyse/verdicts.py"), TABLES),
    "SciPy": (library("scipy"), COMPARED),
    "repeats of the timing": (config("cost.repeats", 2), COST),
    "the timing": (code("evaluate/cost.py"), COST),
    "the probe": (config("probe.documents", 8), PROBE),
    "the probe's code": (code("evaluate/probe.py"), PROBE),
    "a guard's documents": (config("tasks.passages.limit", 20), CONFIRM),
    "the confirm stage's documents": (config("stages.confirm.limit", 20), CONFIRM),
    "the controls": (config("stages.confirm.controls", 2), FROZEN),
    "the select stage's documents": (config("stages.select.limit", 20), SELECT),
    "the shortlist": (config("stages.select.shortlist", 2), SHORTLIST),
    "the search's documents": (config("stages.search.limit", 10), SEARCH),
    "an added plan": (config("plans", PLANS), GRID),
    "a prompt": (
        edit("config/tasks/liquids.yaml", "{{question}}", "So: {{question}}"),
        COMPARED + Counter(evaluate=1, probe=1),
    ),
    "an added prompt": (
        config("tasks.liquids.prompts", {"two": {"num_fewshot": 2}}),
        SCORES + Counter(check_prompts=1, confirm_prompts=1, aggregate=1),
    ),
    "the device": (config("device", "cuda"), ENGINE),
    "the engine": (code("engines/torch.py"), ENGINE),
    "PyTorch": (library("torch"), ENGINE),
    "a bitrate": (
        together(config("exl2", BITS), config("quantizations", ["none", "exl2-4.0"])),
        CONFIRM
        + Counter(measure_exl2=1, quantize_exl2=1, construct_frankens=1, measure_cost=1)
        + Counter(plot_bits=1, plot_confirm=1),
    ),
    "a model": (
        config("models.more", {"source": {"path": "tiny-model"}, "n_layers": 4}),
        MODEL
        + Counter(download_model=1, render_model=2)
        + Counter(plot_models=1, plot_search=1, plot_confirm=1),
    ),
    "a lost table": (lost("results/tiny/tables/costs.csv"), TABLES),
    "a lost picture": (
        lost("results/tiny/figures/tiny/none/profile.svg"),
        PICTURES,
    ),
    "a lost picture of another kind": (
        lost("results/tiny/figures/tiny/none/plane.png"),
        PICTURES,
    ),
    "a lost list of documents": (lost("results/tiny/tables/flips.csv"), SHOWN + Counter(flips=1)),
    "a lost answer": (lost("results/tiny/report/answer.json"), SHOWN),
    "lost weights": (lost("resources/models"), NOTHING),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    laboratory = Laboratory(tmp_path_factory.mktemp("laboratory"))
    laboratory.python = warm_python()
    laboratory.snakemake()
    return laboratory


@pytest.fixture(scope="module")
def dry(lab: Laboratory) -> Iterator[DryRuns]:
    runs = DryRuns(lab)
    yield runs
    runs.end()


@contextmanager
def changed(lab: Laboratory, change: Change) -> Iterator[None]:
    back = change(lab)
    try:
        yield
    finally:
        back()


@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES)
def test_a_change_reruns_what_it_affects(
    lab: Laboratory, dry: DryRuns, change: Change, expected: Counter
) -> None:
    with changed(lab, change):
        assert dry.jobs() == expected


def test_nothing_is_stale_in_a_copy_elsewhere(lab: Laboratory, tmp_path: Path) -> None:
    other = copy(lab)
    other.folder = other.repository = tmp_path / "copy"
    shutil.copytree(lab.folder, other.folder, symlinks=True)
    assert other.jobs() == NOTHING


def test_lost_weights_are_fetched_by_a_run_that_needs_them(lab: Laboratory, dry: DryRuns) -> None:
    with changed(lab, lost("resources/models")):
        assert dry.jobs("fetch") == Counter(download_model=1)
        with changed(lab, config("cost.repeats", 2)):
            found = dry.jobs()
        assert found["download_model"] == found["measure_cost"] == 1


def test_lost_scores_are_made_again_whatever_the_target_is(lab: Laboratory, dry: DryRuns) -> None:
    scores = "results/tiny/scores/search/tiny/none/animals.0.parquet"
    page = "results/tiny/report/index.html"
    assert dry.jobs(page) == NOTHING
    with changed(lab, lost(scores)):
        assert dry.jobs(page) == dry.jobs() and dry.jobs(page)["evaluate"] == 2


def test_a_plan_that_changes_no_choice_runs_no_job_of_the_later_stages(
    lab: Laboratory, dry: DryRuns
) -> None:
    """Last, as it leaves other results."""
    chosen = [lab.results / folder / "tiny.json" for folder in ("shortlist", "frozen")]
    before = [path.read_text() for path in chosen]
    lab.config["plans"] = PLANS
    behind = GRID - SEARCH_ALONE
    said = re.search(r"^(\d+) of those left run only if .* \((.*)\)$", dry.text(), re.MULTILINE)
    assert said and int(said[1]) == behind.total()
    assert Counter({r: int(n) for r, n in map(str.split, said[2].split(", "))}) == behind
    done = lab.snakemake()
    assert [path.read_text() for path in chosen] == before
    ran = Counter(re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):$", done.stderr, re.MULTILINE))
    # The graph listed the stages behind the shortlist too.
    assert ran == SEARCH_ALONE + Counter(all=1)
    assert lab.jobs() == NOTHING
