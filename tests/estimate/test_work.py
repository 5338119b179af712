"""What a grid is predicted to cost, before and after its model and data are there."""

import os
import random
import re
from pathlib import Path

import pytest
import torch

from frankenlab import cli
from frankenlab.config import experiment as config
from frankenlab.config.settings import Beam
from frankenlab.config.stages import Stage
from frankenlab.engines.batches import make_batch
from frankenlab.engines.packing import group_by_length
from frankenlab.engines.token_tree import TokenRequest, shared_prefix, token_tree
from frankenlab.estimate import throughput as speeds
from frankenlab.estimate import work
from frankenlab.estimate.grid_work import GridWork, PlanWork
from frankenlab.estimate.jobs import Job, job_of
from frankenlab.estimate.resources import Prediction, predict
from frankenlab.estimate.summary import BYTES_PER_ROW, duration, grid_summary
from frankenlab.estimate.work import Workload
from frankenlab.evaluate.store import Store
from frankenlab.io.errors import UserError
from frankenlab.models.fetch import fetch_model
from frankenlab.models.memory import live_states
from frankenlab.models.sources import Source
from frankenlab.plans.grid import expand
from frankenlab.plans.growth import grow
from frankenlab.plans.plan import looped
from frankenlab.plans.repeats import Rys
from frankenlab.plans.shards import Shard
from frankenlab.plans.trie import layer_passes, plan_trie
from frankenlab.plans.windows import Windows
from frankenlab.tasks.encoding import encoder_of
from tests.support.harness import scores_of
from tests.support.task_rows import arc_row, boolq_row, load_task, task_settings, write_rows

HUB = {"hub": "owner/tiny", "revision": "0" * 40}


@pytest.fixture
def experiment(tmp_path, monkeypatch) -> config.Experiment:
    """A search and a guard task with local data; the model of the hub is not fetched yet."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "arc.jsonl", [arc_row(i) for i in range(150)])
    write_rows(tmp_path / "boolq.jsonl", [boolq_row(i) for i in range(40)])
    return config.check(
        {
            "experiment": "small",
            "models": {"tiny": {"source": HUB, "n_layers": 4}},
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
def fetched(experiment, tiny) -> config.Experiment:
    directory = Path("resources/models") / experiment.models["tiny"].folder
    fetch_model(Source("path", str(tiny())), directory, 4, "")
    return experiment


SEARCH, SELECT, CONFIRM = (Stage(name) for name in ("search", "select", "confirm"))


def documents(experiment, task, stage) -> work.Documents:
    return Workload(experiment, counting=True).documents("tiny", task, stage)


def predicted(experiment, given=None, thorough=True) -> Prediction:
    given = {"tiny": given} if given else None
    return predict(experiment).thorough(given) if thorough else predict(experiment)


def evaluation(stage: Stage = SEARCH, shard: int = 0) -> Job:
    return Job("evaluate", "tiny", "none", stage, "arc_easy", shard)


def seconds(experiment, given=None, thorough=True) -> float | None:
    """Return the time of the one evaluation in the search, without the start of the job."""
    prediction = predicted(experiment, given, thorough)
    found = prediction.seconds(evaluation())
    return found and found - prediction.start(evaluation())


def text_of(experiment, speed=None) -> str:
    return grid_summary(predicted(experiment, speed))


def changed(experiment, stage="search", **keys) -> config.Experiment:
    """Return the experiment with other settings of a stage."""
    raw = experiment.settings.plain()
    raw["stages"][stage] |= keys
    if keys.get("limit", 0) is None:
        del raw["stages"][stage]["limit"]
    return config.check(raw)


def raced(experiment, **search) -> config.Experiment:
    """Return the experiment with a race of three rounds."""
    return changed(experiment, racing={"rounds": [10, 16]}, **search)


@pytest.mark.slow
def test_a_race_is_predicted_at_most(fetched):
    lines = text_of(raced(fetched), speed=1000.0).splitlines()
    took = {line.split()[0]: line for line in lines if " plans x " in line}
    assert "at most" in took["search"] and "at most" not in took["select"]
    assert lines[-1].startswith("predicted: at most ")


@pytest.mark.parametrize("limit", [30, None])
def test_the_rounds_of_a_race_score_together_what_the_search_scores(experiment, limit):
    race = raced(experiment, limit=limit)
    workload = Workload(race)
    found = [workload.unseen("tiny", "arc_easy", stage) for stage in race.rounds("search")]
    whole = workload.documents("tiny", "arc_easy", SEARCH)
    assert [part.count for part in found] == [10, 6, whole.count - 16]
    assert sum(part.tokens for part in found) == whole.tokens
    assert sum(part.scored for part in found) == whole.scored
    assert workload.documents("tiny", "arc_easy", Stage("search", 3)) == whole


def test_a_round_is_predicted_as_if_no_plan_were_dropped(experiment):
    race = raced(experiment, shards=3)
    prediction = predicted(race, 10.0, thorough=True)
    jobs = [
        [
            evaluation(stage, shard)
            for stage in stages
            for shard in prediction.workload.shards("tiny", stage)
        ]
        for stages in ([SEARCH], race.rounds("search"))
    ]
    whole, rounds = (
        sum(prediction.seconds(job) - prediction.start(job) for job in group) for group in jobs
    )
    assert len(jobs[1]) == 3 * len(jobs[0]) and whole == pytest.approx(rounds)


@pytest.mark.parametrize("racing", [None, {"rounds": [10, 16]}])
def test_what_a_beam_may_grow_is_predicted_in_the_rounds_that_run_it(experiment, racing):
    beam = {"steps": 2, "most": 7, "width": 3}
    search = {"beam": beam, "shards": 3, "limit": 30} | ({"racing": racing} if racing else {})
    plain = {"shards": 3, "limit": 30} | ({"racing": racing} if racing else {})
    with_beam, without = changed(experiment, **search), changed(experiment, **plain)
    prediction, before = predicted(with_beam, 10.0), predicted(without, 10.0)
    assert "grows at most 14 more, 7 in each of 2 steps from the best 3" in grid_summary(prediction)
    shards = prediction.workload.shards("tiny", SEARCH)
    plans = [
        sum(prediction.workload.plans("tiny", stage, n).count for n in shards)
        for stage in with_beam.rounds("search")
    ]
    grid = len(prediction.workload.grid("tiny").grid.plans)
    first = len(racing["rounds"]) if racing else 1
    last = [grid + 14] * bool(racing)
    assert plans == [*[grid] * first, grid + 7, grid + 14, *last]
    documents = prediction.workload.documents("tiny", "arc_easy", SEARCH)
    scored = sum(
        prediction.workload.unseen("tiny", "arc_easy", stage).count
        * prediction.workload.plans("tiny", stage, n).count
        + (
            prediction.workload.documents("tiny", "arc_easy", stage.before).count
            * prediction.workload.new_plans("tiny", stage, n).count
            if stage.before
            else 0
        )
        for stage in with_beam.rounds("search")
        for n in shards
    )
    assert scored == documents.count * (grid + 14)
    work = [
        sum(
            each.seconds(job) - each.start(job)
            for stage in each.experiment.rounds("search")
            for job in [evaluation(stage, n) for n in shards]
        )
        for each in (prediction, before)
    ]
    assert work[0] > work[1]


def test_states_and_caches_have_room_for_grown_plans(experiment):
    grid = expand([Rys(max_length=3)], 8)
    alone, grown = GridWork(grid, 1), GridWork(grid, 1, Beam(width=2, steps=2, most=5))
    known = [item.plan for item in grid.plans]
    ranked = known[::-1]
    for _ in range(2):
        ranked = [*(child.plan for child in grow(ranked, ranked, 5, 5)), *ranked]
    assert len(ranked) == len(known) + 10
    assert alone.live_states <= live_states(plan_trie(ranked)) <= grown.live_states
    most = max(sum(step.attends for step in plan.steps) for plan in ranked)
    assert alone.occurrences < most <= grown.occurrences


def test_before_anything_is_there_the_limits_are_assumed(experiment):
    choices, texts = (documents(experiment, t, CONFIRM) for t in ("arc_easy", "boolq_passages"))
    assert choices == work.Documents(
        25, 25 * work.ASSUMED_TOKENS, 25 * work.ASSUMED_SCORED, 0, True
    )
    assert texts.tokens == texts.scored == 25 * work.ASSUMED_TEXT_TOKENS and texts.assumed
    assert "assumed" in text_of(experiment) and not Path("resources/counts").exists()


@pytest.mark.slow
def test_a_local_model_and_local_data_are_read_where_they_are(experiment, tiny):
    """A dry run says all of them, and fetches nothing."""
    raw = experiment.settings.plain()
    raw["models"]["tiny"]["source"] = {"path": str(tiny())}
    raw["data"] = {"here": {"path": "."}}
    raw["tasks"]["arc_easy"]["data"] = {"source": "here", "file": "arc.jsonl"}
    local = config.check(raw)
    assert not documents(local, "arc_easy", CONFIRM).assumed
    text = text_of(local, speed=10.0)
    assert "assumed" not in text and "unknown" not in text and "GB on disk" in text
    assert not Path("resources").exists()


def test_afterwards_tokens_are_those_that_a_sweep_runs(fetched):
    found = documents(fetched, "arc_easy", SEARCH)
    task = load_task(fetched.tasks["arc_easy"])
    encoder = encoder_of(Path("resources/models") / fetched.models["tiny"].folder)
    trees = [
        token_tree(part for request in encoder.encode(document, False) for part in request)
        for document in task.documents(task.indices("search", 30))
    ]
    assert not found.assumed and found.count == len(trees) == 30
    assert found.tokens == sum(map(len, trees)) >= found.scored
    assert found.scored == sum(len({node for node, _ in tree.scored}) for tree in trees)


def test_what_all_documents_begin_with_counts_once_a_batch():
    shots = tuple(range(20))
    trees = [token_tree([TokenRequest((*shots, 50 + i, 90), (7, 8))]) for i in range(10)]
    prefix, tokens = shared_prefix(trees), sum(map(len, trees))
    own = [len(tree) - prefix for tree in trees]
    batches = [make_batch([trees[i] for i in g], g) for g in group_by_length(own, 15)]
    found = work.Documents(len(trees), tokens, 20, prefix, False).computed(15)
    assert len(batches) > 1 and found == sum(batch.n_tokens for batch in batches) < tokens


def test_a_workflow_that_is_built_counts_nothing_and_uses_what_was_counted(fetched, monkeypatch):
    assert Workload(fetched).documents("tiny", "arc_easy", SEARCH).assumed
    counted = documents(fetched, "arc_easy", SEARCH)
    monkeypatch.setattr(work, "_count", None)
    assert Workload(fetched).documents("tiny", "arc_easy", SEARCH) == counted


def test_passes_are_those_of_the_shared_sweep(experiment):
    found = Workload(experiment).plans("tiny", SEARCH, 0)
    plans = [item.plan for item in experiment.grid("tiny").plans]
    assert found.count == len(plans) == 11
    assert found.passes == layer_passes(plan_trie(plans)) < found.unshared
    assert found.unshared == sum(plan.depth for plan in plans)


def test_later_stages_run_as_many_plans_as_they_may(experiment):
    found = [Workload(experiment).plans("tiny", stage) for stage in (SELECT, CONFIRM)]
    assert [plans.count for plans in found] == [4, 4]
    assert all(4 < plans.passes < plans.unshared for plans in found)
    assert Workload(experiment).plans("tiny", CONFIRM, with_controls=False).count == 2


def test_a_guard_task_takes_no_controls(fetched):
    prediction = predicted(fetched, 10.0)
    jobs = [Job("evaluate", "tiny", "none", CONFIRM, x) for x in fetched.tasks]
    assert [prediction.plans(job, CONFIRM, job.task).count for job in jobs] == [4, 2]
    line = next(x for x in text_of(fetched, 10.0).splitlines() if x.startswith("  confirm at "))
    assert "2 plans (and 2 controls on the search tasks) x " in line


def test_finalists_run_on_all_tasks_at_the_reference_and_only_frozen_plans_are_timed(fetched):
    raw = fetched.settings.plain()
    raw["stages"]["confirm"]["finalists"] = 2
    more = config.check(raw)
    prediction = predicted(more, 10.0)
    jobs = [Job("evaluate", "tiny", "none", CONFIRM, x) for x in more.tasks]
    assert [prediction.plans(job, CONFIRM, job.task).count for job in jobs] == [6, 4]
    assert prediction.plans(Job("measure_cost", "tiny", "none"), CONFIRM).count == 2
    line = next(x for x in text_of(more, 10.0).splitlines() if x.startswith("  confirm at "))
    assert "4 plans (and 2 controls on the search tasks) x " in line
    raw["stages"]["confirm"] |= {"finalists": 1, "best_of": ["repeated"]}
    assert predicted(config.check(raw), 10.0).plans(jobs[0], CONFIRM).count == 6


def test_another_draw_is_counted_anew(fetched):
    raw = fetched.settings.plain()
    raw["stages"]["seed"] = 5
    found = [documents(x, "arc_easy", SELECT) for x in (fetched, config.check(raw))]
    assert found[0].tokens != found[1].tokens


def test_a_count_is_made_once_and_again_when_the_data_or_the_limit_change(fetched, monkeypatch):
    counted = []
    count = work._count

    def noted(*arguments):
        counted.append(arguments)
        return count(*arguments)

    monkeypatch.setattr(work, "_count", noted)
    first = documents(fetched, "boolq_passages", CONFIRM)
    assert documents(fetched, "boolq_passages", CONFIRM) == first and len(counted) == 1
    write_rows(Path("boolq.jsonl"), [boolq_row(i) for i in range(10)])
    fewer = documents(fetched, "boolq_passages", CONFIRM)
    assert (first.count, fewer.count) == (20, 5) and len(counted) == 2
    other = changed(fetched, "confirm", limit=10)
    assert documents(other, "boolq_passages", CONFIRM).count == 5 and len(counted) == 3


def test_too_few_documents_are_refused_before_anything_runs(fetched):
    write_rows(Path("arc.jsonl"), [arc_row(i) for i in range(20)])
    with pytest.raises(UserError, match="20 documents are too few for three stages"):
        text_of(fetched)


def test_time_is_tokens_times_passes_over_speed(experiment):
    tokens = documents(experiment, "arc_easy", SEARCH).tokens
    passes = Workload(experiment).plans("tiny", SEARCH, 0).passes
    assert seconds(experiment, 10.0) == pytest.approx(tokens * passes / 4 / 10)


def test_shards_divide_the_time_and_repeat_the_trunk(experiment):
    experiment = changed(experiment, shards=3)
    prediction = predicted(experiment, 10.0)
    grid = prediction.workload.grid("tiny")
    whole, shards = Shard(grid.grid.plans), grid.shards
    jobs = [evaluation(shard=number) for number in shards]
    total = sum(prediction.seconds(job) - prediction.start(job) for job in jobs)
    passes = sum(shard.passes for shard in shards.values())
    assert len(shards) > 1 and total == pytest.approx(30 * 60 * passes / 4 / 10)
    assert grid.whole == PlanWork(11, passes, whole.unshared) and whole.passes < passes
    assert "search at none: 11 plans x 30 documents" in text_of(experiment, speed=10.0)
    assert f"  {len(shards)} shards, the largest" in text_of(experiment, speed=10.0)


def test_time_is_unknown_where_neither_speed_nor_model_is(experiment):
    assert "predicted time: unknown" in text_of(experiment)
    assert "give tokens per second" in text_of(experiment)
    assert "time unknown" in text_of(experiment)
    assert "time unknown" not in text_of(experiment, speed=1000.0)
    assert "size and memory: unknown" in text_of(experiment, speed=1000.0)


def test_time_of_a_model_that_is_there_follows_from_its_size_and_the_machine(fetched, monkeypatch):
    def at(speed: float) -> float:
        monkeypatch.setattr(speeds, "matrix_speed", lambda precision, device: speed)
        return seconds(fetched)

    assert at(1e6) > 100 * at(1e12) > 0


def test_what_is_not_known_before_a_download_is_known_after_it(experiment, tiny):
    prediction = predict(experiment)
    assert prediction.seconds(evaluation()) is None
    assert prediction.seconds(Job("download_model", "tiny")) is None
    directory = Path("resources/models") / experiment.models["tiny"].folder
    fetch_model(Source("path", str(tiny())), directory, 4, "")
    assert prediction.seconds(evaluation()) > 0
    assert prediction.seconds(Job("download_model", "tiny")) > 0


def test_while_a_workflow_is_built_nothing_is_measured(fetched, monkeypatch):
    monkeypatch.setattr(speeds, "matrix_speed", None)
    monkeypatch.setattr(speeds, "FALLBACK_FLOPS", {"cpu": 1e9})
    slow = seconds(fetched, thorough=False)
    monkeypatch.setattr(speeds, "FALLBACK_FLOPS", {"cpu": 1e10})
    assert slow > 5 * seconds(fetched, thorough=False) > 0


def test_models_of_one_depth_share_their_grid(experiment):
    raw = experiment.settings.plain()
    raw["models"] |= {"deep": {"source": {"path": "x"}, "n_layers": 6}}
    raw["models"] |= {"other": {"source": {"path": "x"}, "n_layers": 4}}
    workload = Workload(config.check(raw))
    assert workload.grid("tiny") is workload.grid("other") is not workload.grid("deep")


def test_a_model_with_a_grid_of_its_own_is_estimated_by_it(experiment):
    raw = experiment.settings.plain()
    raw["models"] |= {"own": {"source": {"path": "x"}, "n_layers": 4}}
    raw["models"]["own"]["plans"] = [{"generator": "skip"}]
    workload = Workload(config.check(raw))
    assert workload.plans("own", SEARCH, 0).count == 5 != workload.plans("tiny", SEARCH, 0).count
    assert workload.grid("own").whole.unshared == 4 + 4 * 3


def test_a_job_is_known_by_its_rule_and_its_wildcards(experiment):
    wildcards = {"stage": "search-2", "model": "tiny", "quantization": "none", "shard": "3"}
    found = job_of(experiment, "construct_frankens", wildcards)
    assert found == Job("construct_frankens", "tiny", "none", Stage("search", 2), shard=3)
    folder = {"folder": experiment.models["tiny"].folder, "key": "1"}
    assert job_of(experiment, "measure_exl2", folder) == Job("measure_exl2", "tiny")
    assert job_of(experiment, "download_data", {"folder": "arc-1"}) == Job("download_data")


SHAPES = {"hidden_size": 256, "intermediate_size": 768, "n_heads": 4, "vocab_size": 512}


def quantized(experiment, quantizations, **keys) -> config.Experiment:
    """The experiment with known shapes, quantized on the passages of its guard task."""
    raw = {**experiment.settings.plain(), "quantizations": quantizations, **keys}
    raw["models"]["tiny"]["shapes"] = SHAPES
    return config.check({**raw, "exl2": {"calibration": {"file": "boolq.jsonl"}}})


def test_the_grid_is_searched_at_the_first_quantization_only(experiment):
    text = text_of(quantized(experiment, ["exl2-4.0", "none"]), speed=1000.0)
    assert "search at exl2-4.0: 11 plans" in text
    assert "confirm at exl2-4.0: 2 plans (and 2 controls on the search tasks) x 50 " in text
    assert "select at none" not in text and "confirm at none: 2 plans x 50 documents" in text
    both, one = (
        text_of(quantized(experiment, names), speed=1000.0).splitlines()[-1]
        for names in (["none", "exl2-4.0"], ["none"])
    )
    assert both != one and "of quantizing" in both and "of quantizing" not in one


def test_each_bitrate_is_listed_with_its_size_and_the_time_to_make_it(experiment, monkeypatch):
    billions = 4 * (4 * 256 * 256 + 3 * 256 * 768) / 1e9
    layer, weights = (speeds.QuantizingSeconds(*x) for x in ((0, 0), (600, 300)))
    rates = {"reference": (layer, weights.times(1 / billions))}
    monkeypatch.setattr(speeds, "RATES", rates)
    text = text_of(quantized(experiment, ["none", "exl2-4.0", "exl2-3.0"]), speed=1000.0)
    assert "measured once for EXL2 (quantizer: reference), about 10 min" in text
    assert text.count("about 5 min to make") == 2 and "20 min of quantizing" in text
    assert "  exl2-4.0: 0.0 GB on disk, torch needs at most 0.7 GB" in text
    assert "FIT" not in text and "fits" not in text


def test_a_gpu_that_is_not_here_has_the_speed_that_the_config_says(experiment):
    def on_gpu(precision: str = "float16", **keys) -> float | None:
        stages = {"search": {"precision": precision, "limit": 30}}
        return seconds(quantized(experiment, ["none"], device="cuda", stages=stages, **keys))

    one, ten = on_gpu(planning={"gpu_tflops": 1e-3}), on_gpu(planning={"gpu_tflops": 1e-2})
    assert one == pytest.approx(10 * ten)
    wide = on_gpu("float32", planning={"gpu_tflops": 1e-3})
    assert wide == pytest.approx(one / speeds.FLOAT32_SPEED)
    if not torch.cuda.is_available():
        assert on_gpu() is None


@pytest.mark.slow
def test_the_machines_speed_is_measured_once(monkeypatch):
    speeds.matrix_speed.cache_clear()
    speed = speeds.matrix_speed("float32", "cpu")
    assert 1e8 < speed < 1e15
    assert speeds.matrix_speed("float32", "cpu") == speed


def test_duplicates_and_groups_are_told(experiment):
    text = text_of(experiment, speed=1000.0)
    assert "11 plans (1 base, 10 rys), 4 duplicates folded" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89, "89 s"), (120, "2 min"), (7200, "2.0 h")]
)
def test_durations_are_told_in_a_fitting_unit(seconds, text):
    assert duration(seconds) == text


@pytest.mark.slow
def test_rows_take_about_the_predicted_space(tiny, tmp_path):
    task = load_task(task_settings(tmp_path, n=60))
    plans = [looped(i, j, 2, 4) for i in range(4) for j in range(i + 1, 5)]
    store = Store(tmp_path / "store", {})
    scores_of(tiny(), plans, task, store)
    size = sum(os.path.getsize(path) for path in store.folder.glob("part-*"))
    assert 1 / 3 < size / (len(plans) * 60) / BYTES_PER_ROW < 3


@pytest.mark.real
def test_the_default_experiment_is_predicted_within_the_limits_it_names(real_config, capsys):
    assert cli.main(["plans", "--summary"]) == 0
    text = capsys.readouterr().out
    assert "assumed" not in text and "unknown" not in text
    limit = real_config.settings.stages.search.limit
    searched = re.search(r"search at none: \d+ plans x (\d+) documents", text)
    assert 0 < int(searched[1]) <= limit * len(real_config.search_tasks)
    assert f"piqa: {real_config.settings.tasks['piqa'].limit} documents show a change" in text


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_states_of_so_many_plans_are_enough_for_any_of_them(count):
    """Some go back to the state before a window, and keep it alive while other plans run."""
    grid_work = GridWork(expand([Windows(length=[2, 5]), Rys()], 8), 1)
    plans, draw = [item.plan for item in grid_work.grid.plans], random.Random(1)
    alive = [live_states(plan_trie(draw.sample(plans, count))) for _ in range(200)]
    assert max(alive) <= grid_work.states_of(count) <= 2 * max(alive)
    assert GridWork(expand([Rys()], 8), 1).states_of(count) == count + 1
