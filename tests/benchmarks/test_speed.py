"""`make bench` on a tiny model: every part runs and gives what its table shows."""

import importlib
import json
import subprocess
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from lm_eval.models.huggingface import HFLM

from benchmarks.speed import (
    __main__,
    agreement,
    first_batch,
    growth,
    ours,
    page,
    peak,
    peers,
    spies,
    start,
    tables,
)
from benchmarks.speed.setting import TASKS, Setting
from frankenlab import cli
from frankenlab.config import experiment as config
from frankenlab.evaluate import runner as evaluation
from frankenlab.evaluate import sweep
from frankenlab.models.tokenizer import load_tokenizer
from frankenlab.plans.plan import parse
from tests.support.paths import ROOT
from tests.support.task_rows import arc_row, passage, write_rows

pytestmark = pytest.mark.slow

# FLOPs of the tiny model, hidden 32: of a layer and token (q and o 32 x 32, k and v 32 x 16, MLP
# 3 x 32 x 96), of the head and position; a multiplication and an addition each.
LAYER = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 96)
QKV = 2 * (32 * 32 + 2 * 32 * 16)
HEAD = 2 * 32 * 384

peers_installed = pytest.mark.skipif(
    find_spec("mergekit") is None or find_spec("layer_scan") is None,
    reason="the extra `bench` is not installed",
)


@pytest.fixture(scope="module")
def setting(tiny, tmp_path_factory):
    """A setting in a folder of its own, which is the current one; two tasks of few documents."""
    folder = tmp_path_factory.mktemp("speed")
    arc = write_rows(folder / "arc.jsonl", [arc_row(i) for i in range(14)])
    sentences = [{"idx": i, "sentence": passage(i, 6), "label": i % 2} for i in range(9)]
    sst2 = write_rows(folder / "sst2.jsonl", sentences)
    experiment = {
        "experiment": "speed",
        "models": {"tiny": {"source": {"path": str(tiny("tied"))}, "n_layers": 4}},
        "tasks": {
            name: {"role": "search", "metric": "acc", "data": {"file": str(file)}}
            for name, file in (("arc_easy", arc), ("sst2", sst2))
        },
        "plans": [{"generator": "layer", "times": 2}],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(experiment))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["fetch", "--config", "config.yaml"]) == 0
        yield Setting(config="config.yaml", documents=6, peer_plans=2, repeats=1, scratch="bench")


def run_here(setting):
    """What `__main__.measure` does in another process, by way of JSON too."""

    def run(file: str, function: str, argument: str):
        module = importlib.import_module(f"benchmarks.speed.{file}")
        return json.loads(json.dumps(getattr(module, function)(setting, argument)))

    return run


def shown(part: str, setting: Setting, *tasks: str) -> tuple[object, str]:
    """What a part finds, on some of the tasks, and its section."""
    setting = replace(setting, tasks=tasks or setting.tasks)
    found = __main__.PARTS[part](run_here(setting), setting)
    return found, tables.section(part, {"found": found})


def test_a_page_of_an_earlier_part_is_no_change_of_what_is_measured(tmp_path, monkeypatch):
    def git(*given: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        return subprocess.check_output(["git", "-C", str(tmp_path), *who, *given], text=True)

    files = [tmp_path / "benchmarks" / "speed.md", tmp_path / "module.py"]
    files[0].parent.mkdir()
    for file in files:
        file.write_text("before")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "all")
    monkeypatch.setattr(page, "ROOT", tmp_path)
    head = git("rev-parse", "--short", "HEAD").strip()
    assert page.commit().startswith(f"{head}, ")
    files[0].write_text("after")
    assert page.commit().startswith(f"{head}, ")
    files[1].write_text("after")
    assert page.commit().startswith(f"{head} with changes, ")


def layer_flops(task, plans: int) -> tuple[int, int]:
    """Operations of the layers' products, and positions that are scored, in the whole sweep."""
    scored = plans * task["positions_scored"]
    passes = task["layer_calls"] / task["batches"]
    skipped = plans * task["tokens_padded"] - scored
    return LAYER * passes * task["tokens_padded"] - (LAYER - QKV) * skipped, scored


def test_the_sweep_is_timed_with_what_it_took(setting):
    found, text = shown("sweep", setting)
    assert text.count("| arc_easy_5shot | 6 |") == 2
    for result in found:
        assert set(result["tasks"]) == set(TASKS)
        for task in result["tasks"].values():
            assert set(task["means"]) == set(result["plans"])
            assert 0 < sum(task["part_seconds"].values()) < task["seconds"]
            layers, scored = layer_flops(task, len(result["plans"]))
            work = layers / task["peaks"]["layer"] + HEAD * scored / task["peaks"]["head"]
            assert task["least_seconds"] == pytest.approx(work)
            # A plan that others begin with ends once more than it is passed through.
            plans = {parse(text, 4).steps for text in result["plans"]}
            begun = [p for p in plans if any(o[: len(p)] == p for o in plans - {p})]
            assert task["layer_calls"] == (result["passes"] + len(begun)) * task["batches"]
            assert 0 < task["tokens"] <= task["tokens_padded"]
            assert task["bytes_written"] > 0 and task["memory_peak"] >= task["memory_before"]


def test_the_split_adds_up_and_counts_every_product(setting):
    found, text = shown("split", setting, "arc_easy_5shot")
    assert "of the peak at the same shapes" in text
    for task in found["tasks"].values():
        assert sum(task["split"].values()) == pytest.approx(task["profiled_seconds"])
        layers, scored = layer_flops(task, found["plans"])
        assert task["flops"]["layers"] == layers
        assert task["flops"]["head"] == HEAD * scored
        for part in spies.SPLIT[:4]:
            assert task["split"][part] > 0


def test_the_machine_s_peak_is_sampled_every_few_seconds(setting, monkeypatch):
    clock = SimpleNamespace(now=50.0)

    def product(x, weight):
        clock.now += 1.0
        return 0.5

    monkeypatch.setattr(peak, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(peak, "_product_seconds", product)
    peaks = peak.Peaks(setting.model, torch.float32)
    for tokens in (7, 9, 9):
        peaks.between(tokens)
    products = 5 + len(peak.OTHERS)
    assert peaks.paused == products
    assert peaks.found()["layer"] == 7 * LAYER / (4 * 0.5)
    assert peaks.found()["head"] == peak.HEAD_POSITIONS * HEAD / 0.5
    clock.now += peak.PERIOD
    peaks.between(9)
    assert peaks.paused == 2 * products
    assert peaks.found()["layer"] == 8 * LAYER / (4 * 0.5)


@pytest.mark.parametrize("part", ["sweep", "split"])
def test_sampling_the_peak_is_not_in_the_sweep_s_seconds(part, setting, monkeypatch):
    class Slow(peak.Peaks):
        def between(self, tokens):
            super().between(tokens)
            self.paused = 1000.0

    monkeypatch.setattr(ours, "Peaks", Slow)
    found = __main__.PARTS[part](run_here(setting), replace(setting, tasks=("arc_easy",)))
    first = found if part == "split" else found[0]
    seconds = first["tasks"]["arc_easy"]["plain_seconds" if part == "split" else "seconds"]
    assert -1000 < seconds < -900


def test_the_engine_is_as_before_after_it_was_spied_on(setting):
    engine = ours.Ours(setting.model).engine
    before = dict(vars(engine))
    spies.profile(engine, lambda: None)
    with spies.Spies(engine):
        assert vars(engine) != before
    assert vars(engine) == before


def test_clocks_up_to_the_first_batch(setting, monkeypatch):
    for owner, name in (
        (config, "load"),
        (evaluation.ModelSpec, "for_directory"),
        (sweep, "sweep"),
        (evaluation, "DrawnTask"),
        (evaluation, "encoder_of"),
        (evaluation.ModelSpec, "load_engine"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    result = Path("stamps.json")
    given = ["--plan", "base", "--task", "arc_easy", "--config", "config.yaml", "--limit", "3"]
    given += ["--store", "other-store", "--output", "no.parquet"]
    first_batch.main(str(result), "evaluate", str(setting.model), *given)
    stamps = json.loads(result.read_text())
    assert list(stamps) == [*first_batch.stamps] and len(stamps) == 9
    assert list(stamps.values()) == sorted(stamps.values())
    assert not Path("no.parquet").exists()
    parts = start._parts(stamps["Python"] - 1, stamps)
    assert parts["total"] == pytest.approx(sum(v for k, v in parts.items() if k != "total"))
    found = {"task": "arc_easy", "starts": [parts], "imports": {"torch": 1.0}}
    assert "torch 1.0 s" in tables.section("start", {"found": found})


@peers_installed
def test_all_ways_find_the_same_accuracy(setting, monkeypatch):
    monkeypatch.setattr(peers, "BATCH_SIZES", (2, 4))
    found, text = shown("peers", setting, "arc_easy")
    (only,) = found["rounds"]
    means = only["sweep"]["tasks"]["arc_easy"]["means"]
    for plan, row in only["in memory"]["tasks"]["arc_easy"].items():
        # bf16 may change a decision, of 6 documents.
        assert row["mean"] == pytest.approx(means[plan], abs=1 / 6 + 1e-9)
        assert only["written"]["tasks"]["arc_easy"][plan]["mean"] == row["mean"]
    assert "| arc_easy | mergekit, then lm-eval |" in text
    assert only["layer-scan"]["tokens"] > 0
    for row in only["written"]["plans"].values():
        assert row["bytes"] > 0
    assert not any(Path("bench/merge").glob("*"))


def test_agreement_with_the_harness(setting, monkeypatch):
    monkeypatch.setattr(agreement, "HARNESS_DOCUMENTS", 3)
    found, text = shown("agreement", setting, "arc_easy_5shot")
    assert len(found["plans"]) == 5 and len(found["harness_plans"]) == 2
    for row in found["tasks"].values():
        assert row["pairs"] == 5 * 6 and row["harness_documents"] == 3
        assert row["harness_largest_difference"] < 1e-3 < row["bf16_largest_difference"]
    assert "decisions that bf16 changes" in text


def test_layers_in_another_order_are_the_plan(setting):
    """Each occurrence has its own cache, and afterwards the model is what it was."""
    model = peers.load_model(setting.model, torch.float32)
    task, plan = peers.harness_task(setting, "arc_easy"), parse("0:3,1:4", 4)
    scores = {}
    for cache in (True, False):
        model.config.use_cache = cache
        with peers.rearranged(model, plan):
            lm = HFLM(model, tokenizer=load_tokenizer(setting.model), batch_size=2)
            scores[cache] = peers.scored(lm, task, [0, 1, 2], "acc").loglikelihoods
    assert scores[True] == scores[False]
    assert len(model.model.layers) == 4
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2, 3]


def test_growth_has_a_row_for_every_size(setting, monkeypatch):
    for name, sizes in (("PLANS", (2, 5)), ("DOCUMENTS", (3, 6)), ("DEPTHS", (2, 3))):
        monkeypatch.setattr(growth, name, sizes)
    for name in ("PLANS_DOCUMENTS", "DOCUMENTS_PLANS", "DEPTHS_PLANS", "DEPTHS_DOCUMENTS"):
        monkeypatch.setattr(growth, name, 3)
    found, text = shown("growth", setting)
    by_axis = {axis["axis"]: axis["rows"] for axis in found}
    assert [row["plans"] for row in by_axis["plans"]] == [2, 5]
    assert [row["documents"] for row in by_axis["documents"]] == [3, 6]
    assert [row["layers"] for row in by_axis["depth"]] == [2, 3]
    assert all(row["predicted_seconds"] > 0 for row in by_axis["plans"])
    assert "### Depth" in text


def test_parts_are_kept_so_that_each_can_be_run_alone(setting, tmp_path, monkeypatch):
    measured = []

    def measure(given, file, function, argument):
        measured.append((file, function, argument))
        return {"axis": argument, "rows": []} if file == "growth" else FOUND

    monkeypatch.setattr(__main__, "measure", measure)
    out = tmp_path / "speed.md"
    common = ["--config", "config.yaml", "--out", str(out), "--scratch", str(tmp_path / "bench")]
    assert __main__.main(["--parts", "start", *common]) == 0
    assert "## Growth" not in out.read_text()
    assert __main__.main(["--parts", "growth", *common]) == 0
    text = out.read_text()
    assert text.index("first batch") < text.index("## Growth") and "torch" in text
    assert measured[0] == ("start", "run_start", "arc_easy")


FOUND = {"task": "arc_easy", "starts": [{"total": 7.5}], "imports": {}}


def swept(plans: int, seconds: float) -> dict:
    """What the sweep of a grid found, of one task; its products alone take half of the time."""
    task = {"seconds": seconds, "least_seconds": seconds / 2, "means": {"base": 0.5}, "tokens": 10}
    task |= {"part_seconds": {"layers": 1.0, "head": 1.0}, "tokens_padded": 11, "documents": 4}
    task |= {"memory_before": 1e6, "memory_peak": 4e6, "bytes_written": 5e3, "task_seconds": 1.0}
    found = {"plans": ["base"] * plans, "passes": 20, "load_seconds": 1.0}
    return found | {"tasks": {"arc_easy": task}}


def test_the_page_begins_with_what_the_parts_come_to(tmp_path):
    scored = {"tasks": {"arc_easy": {"base": {"seconds": 18.0, "mean": 0.5}}}}
    merged = scored | {"plans": {"base": {"write": 5.0, "load": 1.0, "bytes": 3e8}}}
    scan = {"tokens": 6, "plans": {"base": {"seconds": 12.0}}}
    parts = {"sweep": swept(4, 8.0), "in memory": scored, "written": merged, "layer-scan": scan}
    peers = {"tuned": {"arc_easy": {"1": 9.0}}, "best": {"arc_easy": "1"}, "rounds": [parts]}
    kept = {"peers": peers, "start": FOUND, "sweep": [swept(4, 9.0), swept(8, 12.0)]}
    made = {"peers": "abc, 2026-01-01", "start": "def, 2026-01-02", "sweep": "def, 2026-01-02"}
    for part, found in kept.items():
        (tmp_path / f"{part}.json").write_text(json.dumps({"found": found, "commit": made[part]}))
    text = page.page(tmp_path, list(__main__.PARTS), 2)
    summary = text[text.index("## In short") : text.index("## The sweep alone")]
    assert "Commits: def, 2026-01-02 (sweep, start); abc, 2026-01-01 (peers)." in text
    # 24 s for a merge and 18 s in memory over 2 s, then over 1.5 s, of a plan
    assert "| arc_easy | 12.0 | 9.0 | 50% | 16.0 | 12.0 | 50% |" in summary
    assert "7.5 s." in summary and "3 MB." in summary and "1.2 kB." in summary
    assert "| arc_easy | its matrix products at the peak | 1.00 | 1.00 | 0.5 |" in text


def test_a_merge_has_a_slice_for_each_run_of_layers():
    slices = peers.merge_config(Path("model"), parse("0:3,1:4", 4))["slices"]
    assert [s["sources"][0]["layer_range"] for s in slices] == [[0, 3], [1, 4]]


def test_measurements_run_this_checkout_with_so_many_threads(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    found = SimpleNamespace(**__main__.environment(3))
    assert found.OMP_NUM_THREADS == found.MKL_NUM_THREADS == "3"
    assert found.PYTHONPATH.startswith(f"{ROOT}:{ROOT / 'src'}:")
