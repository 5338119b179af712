"""What a grid is predicted to cost, before and after its model and data are there."""

import os
from pathlib import Path

import pytest
import torch
from conftest import (
    arc_row,
    boolq_row,
    encoder_of,
    load_task,
    scores_of,
    task_settings,
    write_rows,
)

from frankenlab import capacity, cli, config, planning
from frankenlab.batches import token_tree
from frankenlab.errors import UserError
from frankenlab.fetching import fetch_model
from frankenlab.grid import expand
from frankenlab.planning import document_tokens, stage_cost, stage_seconds, summary
from frankenlab.plans import looped
from frankenlab.store import Store
from frankenlab.sweep import layer_passes, plan_trie


@pytest.fixture
def experiment(tiny, tmp_path, monkeypatch) -> config.Experiment:
    """A search and a guard task with local data; the model is not fetched yet."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "arc.jsonl", [arc_row(i) for i in range(150)])
    write_rows(tmp_path / "boolq.jsonl", [boolq_row(i) for i in range(40)])
    return config.check(
        {
            "experiment": "small",
            "models": {"tiny": {"source": {"path": str(tiny())}, "n_layers": 4}},
            "tasks": {
                "arc_easy": {"metric": "acc", "data": {"file": "arc.jsonl"}},
                "boolq_passages": {
                    "role": "guard",
                    "metric": "word_perplexity",
                    "data": {"file": "boolq.jsonl"},
                },
            },
            "plans": [{"generator": "rys"}, {"generator": "layer"}],
            "stages": {
                "search": {"limit": 30},
                "select": {"shortlist": 3},
                "confirm": {"limit": 25, "controls": 2},
            },
        }
    )


@pytest.fixture
def fetched(experiment) -> config.Experiment:
    directory = Path("resources/models") / experiment.models["tiny"].folder
    fetch_model(experiment.models["tiny"].source, directory, 4, "")
    return experiment


def cost_of(experiment, stage):
    model = experiment.models["tiny"]
    return stage_cost(experiment, model, expand(experiment.raw["plans"], 4), stage)


def test_a_race_is_predicted_at_most(fetched):
    raw = fetched.raw | {"stages": dict(fetched.raw["stages"])}
    raw["stages"]["search"] = raw["stages"]["search"] | {"racing": {"rounds": [10]}}
    lines = summary(config.check(raw), tokens_per_second=1000.0).splitlines()
    took = {line.split()[0]: line for line in lines if " plans x " in line}
    assert "at most" in took["search"] and "at most" not in took["select"]


def test_before_anything_is_there_the_limits_are_assumed(experiment):
    cost = cost_of(experiment, "confirm")
    assert cost.assumed and (cost.tasks, cost.documents) == (2, 50)
    assert cost.tokens == 25 * planning.ASSUMED_TOKENS + 25 * planning.ASSUMED_TEXT_TOKENS
    assert "assumed" in summary(experiment) and not Path("resources/counts").exists()


def test_afterwards_tokens_are_those_that_a_sweep_runs(fetched):
    cost = cost_of(fetched, "search")
    task = load_task(fetched.tasks["arc_easy"])
    encoder = encoder_of(Path("resources/models") / fetched.models["tiny"].folder)
    trees = [
        token_tree(part for request in encoder.encode(document, False) for part in request)
        for document in task.documents(task.indices("search", 30))
    ]
    assert not cost.assumed and cost.tasks == 1
    assert (cost.documents, cost.tokens) == (len(trees), sum(map(len, trees)))
    assert cost.documents == 30 and cost.scored <= cost.tokens
    assert cost.scored == sum(len({node for node, _ in tree.scored}) for tree in trees)


def test_passes_are_those_of_the_shared_sweep(experiment):
    cost = cost_of(experiment, "search")
    plans = [item.plan for item in expand(experiment.raw["plans"], 4).plans]
    assert cost.plans == len(plans) == 11 and cost.rows == 11 * 30
    assert cost.passes == layer_passes(plan_trie(plans)) < cost.passes_unshared
    assert cost.passes_unshared == sum(plan.depth for plan in plans)


def test_later_stages_run_as_many_plans_as_they_may(experiment):
    assert [cost_of(experiment, stage).plans for stage in ("select", "confirm")] == [4, 4]


def test_a_count_is_made_once_and_again_when_the_data_or_the_limit_change(fetched, monkeypatch):
    counted = []
    count = planning._count

    def noted(*arguments):
        counted.append(arguments)
        return count(*arguments)

    monkeypatch.setattr(planning, "_count", noted)
    model, task = fetched.models["tiny"], fetched.tasks["boolq_passages"]
    first = document_tokens(fetched, model, task, "confirm")
    assert document_tokens(fetched, model, task, "confirm") == first and len(counted) == 1
    write_rows(Path("boolq.jsonl"), [boolq_row(i) for i in range(10)])
    fewer = document_tokens(fetched, model, task, "confirm")
    assert (first[0], fewer[0]) == (20, 5) and len(counted) == 2
    fetched.raw["stages"]["confirm"]["limit"] = 10
    assert document_tokens(fetched, model, task, "confirm")[0] == 5 and len(counted) == 3


def test_too_few_documents_are_refused_before_anything_runs(fetched):
    write_rows(Path("arc.jsonl"), [arc_row(i) for i in range(20)])
    with pytest.raises(UserError, match="20 documents are too few for three stages"):
        summary(fetched)


def test_time_is_tokens_times_passes_over_speed(experiment):
    cost, model = cost_of(experiment, "search"), experiment.models["tiny"]
    found = stage_seconds(experiment, model, "search", cost, tokens_per_second=10.0)
    assert found - planning.JOB_SECONDS == pytest.approx(cost.tokens * cost.passes / 4 / 10)


def test_time_is_unknown_where_neither_speed_nor_model_is(experiment):
    assert "predicted time: unknown" in summary(experiment)
    assert "--tokens-per-second" in summary(experiment)
    assert "time unknown" in summary(experiment)
    assert "time unknown" not in summary(experiment, tokens_per_second=1000.0)
    assert "size and memory: unknown" in summary(experiment, tokens_per_second=1000.0)


def test_time_of_a_model_that_is_there_follows_from_its_size_and_the_machine(fetched, monkeypatch):
    def seconds(speed: float) -> float:
        monkeypatch.setattr(planning, "matrix_speed", lambda precision, device: speed)
        cost, model = cost_of(fetched, "search"), fetched.models["tiny"]
        return stage_seconds(fetched, model, "search", cost, None) - planning.JOB_SECONDS

    slow, fast = seconds(1e6), seconds(1e12)
    assert slow > 100 * fast > 0


SHAPES = {"hidden_size": 256, "intermediate_size": 768, "n_heads": 4, "vocab_size": 512}


def quantized(experiment, quantizations, **keys) -> config.Experiment:
    """The experiment with known shapes, quantized on the passages of its guard task."""
    raw = {**experiment.raw, "quantizations": quantizations, **keys}
    raw["models"] = {"tiny": {**experiment.raw["models"]["tiny"], "shapes": SHAPES}}
    return config.check({**raw, "exl2": {"calibration": {"file": "boolq.jsonl"}}})


def test_the_grid_is_searched_at_the_first_quantization_only(experiment):
    text = summary(quantized(experiment, ["exl2-4.0", "none"]), tokens_per_second=1000.0)
    assert "search at exl2-4.0: 11 plans" in text
    assert "confirm at exl2-4.0, none: 4 plans" in text and "about 2 min each" in text
    both, one = (
        summary(quantized(experiment, names), tokens_per_second=1000.0).splitlines()[-1]
        for names in (["none", "exl2-4.0"], ["none"])
    )
    assert both != one and "of quantizing" in both and "of quantizing" not in one


def test_each_bitrate_is_listed_with_its_size_and_the_time_to_make_it(experiment, monkeypatch):
    billions = 4 * (4 * 256 * 256 + 3 * 256 * 768) / 1e9
    rates = {"reference": capacity.QuantizerRate(600 / billions, 300 / billions)}
    monkeypatch.setattr(capacity, "RATES", rates)
    text = summary(quantized(experiment, ["none", "exl2-4.0", "exl2-3.0"]), 1000.0)
    assert "measured once for EXL2 by reference: about 10 min" in text
    assert text.count("about 5 min to make") == 2 and "20 min of quantizing" in text
    assert "  exl2-4.0: 0.0 GB on disk, torch needs at most 1." in text
    assert "FIT" not in text and "fits" not in text


def test_a_gpu_that_is_not_here_has_the_speed_that_the_config_says(experiment):
    def seconds(precision: str = "float16", **keys) -> float | None:
        stages = {"search": {"precision": precision, "limit": 30}}
        raised = quantized(experiment, ["none"], device="cuda", stages=stages, **keys)
        cost, model = cost_of(raised, "search"), raised.models["tiny"]
        found = stage_seconds(raised, model, "search", cost, None)
        return found and found - planning.JOB_SECONDS

    one, ten = seconds(planning={"gpu_tflops": 1e-3}), seconds(planning={"gpu_tflops": 1e-2})
    assert one == pytest.approx(10 * ten)
    wide = seconds("float32", planning={"gpu_tflops": 1e-3})
    assert wide == pytest.approx(one / planning.FLOAT32_SPEED)
    if not torch.cuda.is_available():
        assert seconds() is None


def test_the_machines_speed_is_measured_once(monkeypatch):
    monkeypatch.setattr(planning, "_measured", {})
    speed = planning.matrix_speed("float32", "cpu")
    assert 1e8 < speed < 1e15
    assert planning.matrix_speed("float32", "cpu") == speed


def test_duplicates_and_groups_are_told(experiment):
    text = summary(experiment, tokens_per_second=1000.0)
    assert "11 plans (1 base, 10 rys), 4 duplicates folded" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89, "89 s"), (120, "2 min"), (7200, "2.0 h")]
)
def test_durations_are_told_in_a_fitting_unit(seconds, text):
    assert planning._duration(seconds) == text


def test_rows_take_about_the_predicted_space(tiny, tmp_path):
    task = load_task(task_settings(tmp_path, n=60))
    plans = [looped(i, j, 2, 4) for i in range(4) for j in range(i + 1, 5)]
    store = Store(tmp_path / "store", {})
    scores_of(tiny(), plans, task, store)
    size = sum(os.path.getsize(path) for path in store.folder.glob("part-*"))
    assert 1 / 3 < size / (len(plans) * 60) / planning.BYTES_PER_ROW < 3


@pytest.mark.real
def test_the_default_experiment_is_predicted_within_the_limits_it_names(real_config, capsys):
    assert cli.main(["plans", "--summary"]) == 0
    text = capsys.readouterr().out
    assert "assumed" not in text and "unknown" not in text
    limit = real_config.raw["stages"]["search"]["limit"]
    assert f"x {limit * len(real_config.search_tasks)} documents" in text
