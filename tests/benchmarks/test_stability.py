"""The benchmark that freezes a plan on several draws of the documents."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from benchmarks import stability
from benchmarks.stability import Draw, Outcome, changed, draws, main, page
from frankenlab.config import experiment as config
from tests.support.laboratory import Laboratory
from tests.support.two_models import settings
from tests.support.warm_python import warm_python

LATE, EARLY = "0:4,3:4", "0:2,1:4"


def outcome(seed: int, frozen: str, precision: str = "bfloat16", **effects: float) -> Outcome:
    searched = {LATE: effects.get("late", 1.0), EARLY: effects.get("early", 0.5)}
    return Outcome("small", Draw(seed, precision), frozen, (frozen,), searched, {frozen: 2.0}, 0.5)


def text_of(outcomes: list[Outcome]) -> str:
    return page(outcomes, config.check(settings()), "the command")


def test_every_seed_runs_and_the_first_in_the_other_precision_too():
    experiment = config.check(settings())
    usual = experiment.settings.stages.search.precision
    found = draws([3, 5], experiment)
    assert [each.seed for each in found] == [3, 5, 3]
    assert found[0].precision == found[1].precision == usual != found[2].precision


def test_a_draw_is_an_experiment_of_its_own():
    experiment = config.check(settings())
    other = changed(experiment, Draw(7, "float16"))
    stages = other.settings.stages
    assert other.name != experiment.name and stages.seed == 7
    assert (stages.search.precision, stages.select.precision) == ("float16", "float16")
    assert other.settings.plans == experiment.settings.plans


def test_the_page_counts_how_often_the_same_plan_is_frozen():
    found = [outcome(0, LATE), outcome(1, LATE, late=3.0), outcome(2, EARLY)]
    text = text_of(found)
    assert f"2 different plans were frozen on 3 draws; `{LATE}` on 2 of them" in text
    assert "in 33% of the pairs" in text
    assert "+1.7 on the search documents of the 3 draws" in text and "+1.0 to +3.0" in text
    assert "layer 3 twice" in text


def test_plans_as_good_count_although_another_was_frozen():
    found = [replace(outcome(seed, plan), as_good=(LATE, EARLY)) for seed, plan in
             enumerate([LATE, EARLY])]  # fmt: skip
    assert "in 100% of the pairs" in text_of(found)


def test_the_other_precision_is_compared_with_the_same_draw():
    found = [outcome(0, LATE), outcome(0, EARLY, "float32", late=1.4, early=0.5)]
    line = text_of(found).splitlines()[-1]
    assert "**float32 against bfloat16**, seed 0: another plan is frozen" in line
    assert "differ by 0.2 on average and 0.4 at most" in line


@pytest.mark.slow
def test_search_and_select_run_on_each_draw_and_share_the_store(tmp_path, monkeypatch):
    lab = Laboratory(tmp_path)
    lab.write_config()
    monkeypatch.chdir(tmp_path)
    # The copy has tasks of its own.
    monkeypatch.setattr(stability, "ROOT", tmp_path)
    monkeypatch.setattr(config, "TASKS_FOLDER", tmp_path / "config" / "tasks")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "src"))
    ran = []

    def run(command, check):
        ran.append(command[0])
        return subprocess.run([*warm_python(), *command[1:]], check=check)

    monkeypatch.setattr(stability, "subprocess", SimpleNamespace(run=run))
    arguments = ["--config", "tiny.yaml", "--seeds", "0", "1", "--output", "stability.md"]
    assert main([*arguments, "--", "--cores", "2"]) == 0
    assert ran == [sys.executable] * 3
    text = (tmp_path / "stability.md").read_text()
    assert text.count("| bfloat16 |") == 2 and text.count("| float32 |") == 1
    folders = sorted(path.name for path in (tmp_path / "results").glob("tiny-*"))
    assert folders == ["tiny-0-bfloat16", "tiny-0-float32", "tiny-1-bfloat16"]
    assert not list((tmp_path / "results").glob("tiny-*/scores/confirm"))
