"""What fits a GPU, what does not, and the llama experiment's table of both."""

from pathlib import Path

import pytest

from frankenlab.config import experiment as config
from frankenlab.estimate import memory
from frankenlab.estimate.resources import predict
from frankenlab.estimate.summary import grid_summary
from frankenlab.estimate.throughput import quantizing_seconds
from frankenlab.estimate.work import Workload
from frankenlab.io.errors import UserError
from frankenlab.models.fetch import fetch_model
from frankenlab.models.memory import GB, disk_bytes
from frankenlab.models.quantization import NONE
from frankenlab.models.sources import Source
from tests.support.paths import ROOT
from tests.support.processes import one_line
from tests.support.task_rows import write_rows

LLAMA = ROOT / "config" / "experiments" / "llama.yaml"


@pytest.fixture(scope="module")
def llama() -> config.Experiment:
    return config.load(LLAMA)


def small(tmp_path: Path, **keys) -> dict:
    """A 7B on a GPU, with text of its own to calibrate on."""
    write_rows(tmp_path / "text.jsonl", [{"text": "words"}])
    shapes = {"hidden_size": 4096, "intermediate_size": 11008, "n_heads": 32, "vocab_size": 32000}
    return {
        "experiment": "small",
        "device": "cuda",
        "gpu_memory_gb": 9,
        "models": {"seven": {"source": {"path": "x"}, "n_layers": 32, "shapes": shapes}},
        "quantizations": ["exl2-4.0", "exl2-8.0", "none"],
        "exl2": {"calibration": {"file": str(tmp_path / "text.jsonl"), "field": "text"}},
        "tasks": {"arc_easy": {"metric": "acc"}},
        "plans": [{"generator": "layer"}],
        **keys,
    }


def test_what_fits_is_told_for_each_quantization(tmp_path):
    experiment = config.check(small(tmp_path))
    rows = [*memory.requirements(Workload(experiment), "seven").values()]
    told = [(row.quantization, row.engine, row.fits, row.evaluated) for row in rows]
    assert told == [
        ("exl2-4.0", "exllamav2", True, True),
        ("exl2-8.0", "exllamav2", False, True),
        ("none", "torch", False, True),
    ]
    assert rows[0].memory.total < 9 * GB < rows[1].memory.total < rows[2].memory.total


def test_what_does_not_fit_is_refused_in_one_line_that_says_what_does(tmp_path):
    experiment = config.check(small(tmp_path))
    memory.check_fits(experiment, "seven", "exl2-4.0")
    with pytest.raises(UserError) as error:
        memory.check_fits(experiment, "seven", "exl2-8.0")
    line = one_line(error)
    for part in ("seven at exl2-8.0", "gpu_memory_gb is 9", "these fit: exl2-4.0", "weights 6"):
        assert part in line
    assert memory.too_large(Workload(experiment))[0] == line
    assert len(memory.too_large(Workload(experiment))) == 2


def test_a_model_that_is_split_needs_less_of_each_gpu(tmp_path):
    def needs(gpus: int, quantization: str) -> memory.Requirements:
        raw = small(tmp_path)
        raw["models"]["seven"]["gpus"] = {quantization: gpus}
        return memory.requirements(Workload(config.check(raw)), "seven")[quantization]

    for quantization in ("none", "exl2-8.0"):
        whole, halves = (needs(gpus, quantization).memory for gpus in (1, 2))
        rest = halves.total - halves.weights
        assert rest == whole.total - whole.weights
        # The layers are the larger part by far; a card has whole ones, and embeddings or head.
        assert 0.5 * whole.weights <= halves.weights < 0.53 * whole.weights
    assert needs(2, "exl2-8.0").fits and "on each of 2 GPUs" in needs(2, "exl2-8.0").needs
    tied = small(tmp_path)
    tied["models"]["seven"]["shapes"] |= {"tied": True, "vocab_size": 1_000_000}
    tied["models"]["seven"]["gpus"] = 2
    own = memory.requirements(Workload(config.check(tied)), "seven")["none"].memory.weights
    assert own > 2 * 4096 * 1_000_000 + 2 * 15 * 4 * 4096**2


@pytest.mark.slow
def test_a_30b_at_16_bits_runs_on_two_cards_of_48_gb():
    raw = config.load(LLAMA).settings.plain()
    raw["models"] = {"llama-30b": raw["models"]["llama-30b"] | {"quantizations": ["none"]}}
    raw["gpu_memory_gb"] = 48
    assert len(memory.too_large(Workload(config.check(raw)))) == 1
    raw["models"]["llama-30b"]["gpus"] = 2
    assert memory.too_large(Workload(config.check(raw))) == []


@pytest.mark.parametrize("change", [{"device": "cpu"}, {"gpu_memory_gb": None}, {"models": None}])
def test_nothing_is_refused_without_a_gpu_its_memory_or_the_models_shapes(tmp_path, change):
    raw = small(tmp_path)
    if change == {"models": None}:
        del raw["models"]["seven"]["shapes"]
    elif change == {"gpu_memory_gb": None}:
        del raw["gpu_memory_gb"]
    else:
        raw |= change
    experiment = config.check(raw)
    for quantization in experiment.quantizations:
        memory.check_fits(experiment, "seven", quantization)
    assert memory.too_large(Workload(experiment)) == []


def test_a_gpu_too_small_for_all_says_so(tmp_path):
    experiment = config.check(small(tmp_path, gpu_memory_gb=2))
    with pytest.raises(UserError, match="no quantization of the config fits"):
        memory.check_fits(experiment, "seven", "exl2-4.0")


def test_a_model_that_is_there_is_measured_by_its_own_config(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = small(tmp_path, quantizations=["none"])
    raw["models"]["seven"]["n_layers"] = 4
    model = config.check(raw).models["seven"]
    assert memory.sizes_of(model) == model.sizes
    fetch_model(Source("path", str(tiny())), config.RESOURCES / "models" / model.folder, 4, "")
    assert memory.sizes_of(model).hidden_size == 32 != model.sizes.hidden_size


def test_texts_and_larger_grids_need_more(tmp_path):
    def need(**keys) -> int:
        experiment = config.check(small(tmp_path, **keys))
        return next(iter(memory.requirements(Workload(experiment), "seven").values())).memory.total

    plain = need(token_budget=2048)
    text = {"wikitext": {"role": "guard", "metric": "word_perplexity"}}
    tasks = {"arc_easy": {"metric": "acc"}} | text
    assert need(tasks=tasks, token_budget=2048) > plain
    assert need(plans=[{"generator": "rys"}], token_budget=4096) > need(token_budget=4096) > plain


def test_a_timed_run_is_within_what_is_counted_for_it():
    assert config.PROMPT_TOKENS + config.DECODED_TOKENS <= memory.TIMED_TOKENS


def test_quantizing_takes_time_with_the_weights(llama):
    seven, thirteen = (llama.models[name] for name in ("llama-7b", "llama-13b"))
    small, large = (quantizing_seconds(llama, model) for model in (seven, thirteen))
    assert 60 < small.quantize < small.measure < 7200
    # Twice the weights in 40 layers of 32.
    assert 1.8 < large.measure / small.measure < 1.96


@pytest.mark.slow
def test_the_llama_experiment_evaluates_only_what_fits_its_gpu(llama):
    assert memory.too_large(Workload(llama)) == []
    fits = {
        (row.model, row.quantization): row.fits
        for model in llama.models
        for row in memory.requirements(Workload(llama), model).values()
    }
    assert fits["llama-7b", "none"] and fits["llama-30b", "exl2-4.0"]
    assert not fits["llama-30b", "exl2-6.0"] and not fits["llama-13b", "none"]


def test_the_llama_experiment_names_commits_of_the_hub(llama):
    assert {"llama-7b", "llama-13b", "llama-30b"} < set(llama.models)
    assert all(model.source.kind == "hub" for model in llama.models.values())


def test_the_llama_experiments_shapes_give_the_published_numbers_of_parameters(llama):
    published = {
        "llama-7b": 6_738_415_616, "llama-13b": 13_015_864_320, "llama-30b": 32_528_943_616,
        "llama-2-7b": 6_738_415_616, "llama-2-13b": 13_015_864_320, "llama-3-8b": 8_030_261_248,
    }  # fmt: skip
    found = {name: disk_bytes(model.sizes, NONE, 6) // 2 for name, model in llama.models.items()}
    assert found == published


@pytest.mark.slow
def test_the_llama_experiments_summary_has_sizes_times_and_what_fits(llama, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = grid_summary(predict(llama).thorough())
    assert "unknown" not in text
    line = next(x for x in text.splitlines() if x.startswith("  exl2-6.0 (not evaluated): 24.7 GB"))
    assert line.endswith("of 24 GB: DOES NOT FIT")
    assert "measured once for EXL2 (quantizer: exllamav2), about" in text
    assert "44% of 165.2 TFLOP/s (rtx-4090) promised" in text and "of quantizing" in text
    assert "GB of models" in text.splitlines()[-1]
