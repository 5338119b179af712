"""What is said of the jobs of a workflow: which are left, how long they take, on so many GPUs."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from snakemake.jobs import Reason

from frankenlab.config import experiment as config
from frankenlab.config.cards import CARDS
from frankenlab.config.stages import Stage
from frankenlab.estimate import by_card
from frankenlab.estimate.jobs import Job, PlannedJob, planned_jobs
from frankenlab.estimate.resources import Limit, Prediction, predict
from frankenlab.estimate.summary import grid_summary, jobs_summary, length
from tests.support.paths import ROOT

LLAMA = ROOT / "config" / "experiments" / "llama.yaml"
GPU, CPU = Limit("gpu", 15, 64_000, 4), Limit("cpu", 2880, 16_000, 0)


@pytest.fixture
def llama(tmp_path, monkeypatch) -> Prediction:
    monkeypatch.chdir(tmp_path)
    return predict(config.load(LLAMA))


def graph(done: int = 0, took: float | None = None) -> list[PlannedJob]:
    """A model that is quantized and evaluated; the first jobs are done."""
    jobs = [Job("download_model", "llama-30b"), Job("measure_exl2", "llama-30b")]
    jobs.append(Job("quantize_exl2", "llama-30b", "exl2-4.0"))
    search = ("evaluate", "llama-30b", "exl2-4.0", Stage("search"), "piqa")
    jobs += [Job(*search, 0), Job(*search, 1), Job("aggregate", *search[1:4])]
    needs = ((), (0,), (1,), (2,), (2,), (3, 4))
    return [
        PlannedJob(job, needed, job.rule in GPU_RULES, number >= done, took)
        for number, (job, needed) in enumerate(zip(jobs, needs, strict=True))
    ]


GPU_RULES = ("measure_exl2", "quantize_exl2", "evaluate")


@pytest.mark.slow
def test_jobs_are_counted_by_their_rule_in_all_and_left(llama):
    lines = jobs_summary(llama, graph(done=4)).splitlines()
    assert lines[0] == "jobs: 6, 2 left to do"
    assert lines[1].startswith("  evaluate: 2 in all, 1 left (")
    assert "  quantize_exl2: 1 in all, 0 left" in lines


def test_nothing_left_takes_no_time(llama):
    text = jobs_summary(llama, graph(done=6), gpus=[4])
    assert text.startswith("jobs: 6, none left to do") and "longest path" not in text
    assert text.endswith("on 4 GPUs: nothing is left to do")


def test_why_nothing_is_said_of_gpus_is_said(llama):
    on_cpu = config.check({**llama.experiment.settings.plain(), "device": "cpu"})
    text = jobs_summary(predict(on_cpu), graph(), gpus=[1])
    assert text.endswith("on 1 GPU: no job takes one, since the experiment has device: cpu")
    last = jobs_summary(llama, graph(done=5), gpus=[2, 8])
    assert "on 2, 8 GPUs: no job that is left takes one" in last


@pytest.mark.slow
def test_what_jobs_took_stands_beside_what_was_predicted_for_them(llama):
    jobs = graph(done=3, took=60.0)
    line = next(x for x in jobs_summary(llama, jobs).splitlines() if "quantize_exl2" in x)
    assert line == "  quantize_exl2: 1 in all, 0 left; 1 took 60 s, predicted 29 min"


@pytest.mark.slow
def test_gpu_hours_and_the_longest_path_are_of_what_is_left(llama):
    def hours(jobs) -> float:
        line = next(x for x in jobs_summary(llama, jobs).splitlines() if "GPU hours" in x)
        return float(line.split("left: ")[1].split(" ")[0])

    seconds = [llama.seconds(each.job) / 3600 for each in graph()]
    assert hours(graph()) == pytest.approx(sum(seconds[1:5]), abs=0.06)
    assert hours(graph(done=3)) == pytest.approx(sum(seconds[3:5]), abs=0.06)
    text = jobs_summary(llama, graph(), gpus=[1, 4])
    assert "on as many GPUs as the jobs take" in text and "on 1 GPU," in text
    path = next(line for line in text.splitlines() if line.startswith("longest path"))
    assert path.endswith("on 4 GPUs")


@pytest.mark.slow
def test_cards_are_compared_with_what_they_do_not_hold_and_what_fits(llama):
    lines = jobs_summary(llama, graph(done=3)).splitlines()
    start = next(place for place, line in enumerate(lines) if "by card" in line)
    card, large, *_ = lines[start + 1 :]
    assert "rtx-4090" in card and "165 TFLOP/s,  24 GB" in card
    assert "llama-30b at exl2-6.0, " in large and "(fits: exl2-4.0, exl2-3.0)" in large
    assert "llama-13b at none, 30.8 GB (fits: exl2-6.0, " in large and "llama-7b" not in large
    # The experiment's own card is what it is predicted for.
    own = next(line for line in lines if line.startswith("GPU hours of what is left:"))
    assert own.split(": ")[1] == card.split(": ")[1]
    jobs, names = graph(done=3), ("rtx-4090", "a100", "h100")
    hours = [sum(by_card.gpu_hours(llama.on(CARDS[name]), jobs).values()) for name in names]
    # The arithmetic is inverse to the peaks; starting takes the same time on all.
    assert 165 / 312 < hours[1] / hours[0] < 1 and 312 / 989 < hours[2] / hours[1] < 1
    asked = jobs_summary(llama, graph(), cards=[CARDS["a100-40gb"]]).splitlines()
    assert "a100-40gb" in asked[-2] and "llama-30b at none, 70.9 GB" in asked[-1]
    done = jobs_summary(llama, graph(done=6), cards=[CARDS["h100"], CARDS["a40"]])
    assert done.endswith("on h100, a40: nothing is left to do")


@pytest.mark.slow
def test_a_model_that_is_evaluated_and_not_held_is_told_apart(llama):
    raw = config.read(LLAMA)
    raw["models"] = {"llama-13b": raw["models"]["llama-13b"] | {"quantizations": ["none"]}}
    large = by_card._too_large(predict(config.check(raw)), "llama-13b", CARDS["rtx-4090"])
    assert large == ["llama-13b at none, 30.8 GB, which the config evaluates (nothing of it fits)"]


@pytest.mark.slow
def test_a_time_that_is_not_known_is_called_unknown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = config.load(LLAMA).settings.plain()
    raw["models"] = {"llama-30b": {"source": {"path": "x"}, "n_layers": 60}}
    text = jobs_summary(predict(config.check(raw)), graph(), gpus=[4])
    assert text.splitlines()[-2:] == [
        "time of what is left: unknown",
        "on 4 GPUs: unknown, because the time of some jobs is unknown",
    ]


def test_a_summary_says_what_the_cluster_will_cut_off(llama):
    text = jobs_summary(llama, graph(), limits=[GPU, CPU])
    assert "more than the cluster's partitions allow:" in text
    assert "raise stages.search.shards" in text and "1 of evaluate" in text
    assert "partitions allow" not in jobs_summary(llama, graph())
    assert "partitions allow" not in jobs_summary(llama, graph(done=5), limits=[GPU, CPU])


def diamond(done: str = "") -> list[PlannedJob]:
    """a before b, c and d, which run a model, and these before e."""
    needs = {"a": (), "b": (0,), "c": (0,), "d": (0,), "e": (1, 2, 3)}
    return [
        PlannedJob(Job(name), needed, name in "bcd", name not in done)
        for name, needed in needs.items()
    ]


SECONDS = (1.0, 10.0, 20.0, 30.0, 5.0)


@pytest.mark.parametrize(
    ("gpus", "taken"),
    [
        (None, 1 + 30 + 5),
        (3, 1 + 30 + 5),
        # b and c start together, d after b.
        (2, 1 + 10 + 30 + 5),
        (1, 1 + 60 + 5),
    ],
)
def test_jobs_wait_for_each_other_and_for_a_gpu(gpus, taken):
    assert length(diamond(), SECONDS, gpus) == taken


@pytest.mark.parametrize(
    ("gpus", "taken"),
    [
        (None, 1 + 30 + 5),
        (4, 1 + 30 + 5),
        # c, which takes two, waits for b or runs beside it; d takes what is free first.
        (3, 1 + 10 + 30 + 5),
        (2, 1 + 10 + 20 + 30 + 5),
    ],
)
def test_a_job_that_takes_two_gpus_waits_for_both(gpus, taken):
    jobs = [replace(job, gpus=2) if job.job.rule == "c" else job for job in diamond()]
    assert length(jobs, SECONDS, gpus) == taken


def test_gpu_hours_are_those_of_every_gpu_of_a_job(llama):
    def said(taken: int, gpus: list[int]) -> list[str]:
        jobs = [replace(job, gpus=taken) if job.job.stage else job for job in graph(done=3)]
        return jobs_summary(llama, jobs, gpus, [GPU, CPU]).splitlines()

    def line(start: str, lines: list[str]) -> str:
        return next(line for line in lines if line.startswith(start))

    hours = [line("GPU hours of what is left: ", said(n, [])) for n in (1, 2)]
    one, two = (float(text.split("left: ")[1].split(" ")[0]) for text in hours)
    assert two == pytest.approx(2 * one, rel=0.1)
    assert "never on 1 GPU (a job takes 2), " in line("longest path", said(2, [1, 2]))
    assert (
        "more GPUs than the cluster's partitions allow a job (4): 2 jobs take 5" in said(5, [])[-1]
    )


def test_jobs_that_are_done_are_not_waited_for():
    assert length(diamond("ad"), SECONDS) == 20 + 5
    assert length(diamond("ad"), SECONDS, 1) == 30 + 5
    assert length(diamond("abcde"), SECONDS) == 0


def snakemakes(rule: str, wildcards: dict, output=("x",), benchmark=None, gpu=False):
    """A job as Snakemake has it."""
    resources = {"gpu": 1} if gpu else {}
    wildcards = Wildcards(wildcards)
    rule_ = SimpleNamespace(name=rule, resources=resources)
    return Hashable(rule=rule_, wildcards=wildcards, output=output, benchmark=benchmark)


class Hashable(SimpleNamespace):
    __hash__ = object.__hash__


class Wildcards(dict):
    def __iter__(self):
        return iter(self.values())


@pytest.mark.parametrize(
    ("text", "took"),
    [
        ("s\th:m:s\n12.5\t0:00:12\n13.5\t0:00:13\n", 13.5),
        *((text, None) for text in ("", "s\tmax_rss\n", "s\nnan\t1\n", "x\n\0\n")),
        (None, None),
    ],
)
def test_the_graph_is_snakemakes_with_what_finished_jobs_took(llama, tmp_path, text, took):
    if text is not None:
        (tmp_path / "b.tsv").write_text(text)
    cell = {"model": "llama-7b", "quantization": "exl2-4.0"}
    # The workflow is a module here, whose rules have other names; a rule beside it is not ours.
    first = snakemakes("fl_measure_cost", cell, benchmark="b.tsv", gpu=True)
    other = snakemakes("other", {"model": "x"})
    second = snakemakes("fl_plot_confirm", cell, benchmark="b.tsv")
    target = snakemakes("fl_all", {}, output=())
    dag = SimpleNamespace(
        toposorted=lambda: [{first, other}, {second}, {target}],
        dependencies={first: {}, second: {first: "x", other: "y"}, target: {second: "file"}},
        needrun=lambda job: job is second,
        reason=lambda job: Reason(),
    )
    names = {f"fl_{name}": name for name in ("measure_cost", "plot_confirm", "all")}
    assert planned_jobs(llama.experiment, dag, names) == [
        PlannedJob(Job("measure_cost", "llama-7b", "exl2-4.0"), (), True, False, took, 1),
        PlannedJob(Job("plot_confirm", "llama-7b", "exl2-4.0"), (0,), False, True, None, 0),
    ]


def test_jobs_that_only_follow_another_choice_are_told_from_those_that_run_anyway(llama):
    rules = ("aggregate", "shortlist", "evaluate", "confirm", "plot_search", "tables")
    cell = {"model": "llama-7b", "quantization": "exl2-4.0", "stage": "select"}
    scored, choice, follows, changed, drawn, table = made = [
        snakemakes(rule, cell) for rule in rules
    ]
    reasons = {job: Reason() for job in made}
    reasons[scored].missing_output.add("new")
    reasons[changed].params_changed = True
    needs = {
        choice: {scored: "x"},
        follows: {choice: "x"},
        changed: {choice: "x"},
        drawn: {follows: "x", scored: "x"},
        table: {follows: "x"},
    }
    dag = SimpleNamespace(
        toposorted=lambda: [[job] for job in made],
        dependencies={scored: {}, **needs},
        needrun=lambda job: True,
        reason=reasons.get,
    )
    jobs = planned_jobs(llama.experiment, dag, {rule: rule for rule in rules})
    assert [each.job.rule for each in jobs if each.follows_choice] == ["evaluate", "tables"]
    said = jobs_summary(llama, jobs)
    assert "\n2 of those left run only if other plans are chosen than before (evaluate 1, " in said
    # Where nothing was chosen before, all of it is new.
    reasons[choice].missing_output.add("shortlist")
    for job in (follows, table):
        reasons[job].missing_output.add("new")
    jobs = planned_jobs(llama.experiment, dag, {rule: rule for rule in rules})
    assert not any(each.follows_choice for each in jobs)


@pytest.mark.slow
def test_other_prompts_are_counted_at_confirm_and_at_the_reference_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = config.read(LLAMA)
    raw["models"] = {"llama-7b": raw["models"]["llama-7b"]}
    raw["plans"] = [{"generator": "layer", "layer": [3, 4]}]
    plain = grid_summary(predict(config.check(raw)))
    raw["tasks"]["piqa"] |= {"prompts": {"two": {"num_fewshot": 2}}, "limit": 40}
    prediction = predict(config.check(raw))
    lines = grid_summary(prediction).splitlines()
    others = [line for line in lines if "under other prompts" in line]
    assert len(others) == len(prediction.experiment.models) and "other prompts" not in plain
    assert all("x 40 documents" in line for line in others)
    for quantization, scored in (("exl2-6.0", True), ("exl2-4.0", False)):
        tasks = prediction.workload.scored("llama-7b", quantization, Stage("confirm"))
        assert ("piqa@two" in [task.name for task in tasks]) is scored
    job = Job("evaluate", "llama-7b", "exl2-4.0", Stage("confirm"), "piqa@two")
    own = replace(job, task="piqa")
    assert prediction.seconds(job) == prediction.seconds(own)
    assert prediction.plans(job, Stage("confirm")) == prediction.plans(own, Stage("confirm"))
