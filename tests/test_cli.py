"""The command line: the same steps by hand, and every mistake on one line with status 2."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from frankenlab import cli
from tests.support.models import load_hf
from tests.support.processes import one_line
from tests.support.task_rows import arc_row, boolq_row, passage, write_rows


@pytest.fixture
def experiment(tiny, tmp_path, monkeypatch) -> Path:
    """Return a config with a search and a guard task; work in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "arc.jsonl", [arc_row(i) for i in range(150)])
    write_rows(tmp_path / "boolq.jsonl", [boolq_row(i) for i in range(20)])
    config = {
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
        "plans": [
            {"generator": "layer", "times": [2, 3]},
            {"generator": "explicit", "plans": ["0:2,1:4", "0:4,1@attn"]},
        ],
        "stages": {"confirm": {"limit": 40}},
    }
    return write_config(tmp_path, config)


def write_config(folder: Path, config: dict) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def edit_config(path: Path, **changes) -> None:
    write_config(path.parent, yaml.safe_load(path.read_text()) | changes)


def evaluate(model: Path, *more: str) -> int:
    given = ["--config", "config.yaml", "--output", "out/scores.parquet", "--dtype", "float32"]
    return cli.main(["evaluate", str(model), *given, *more])


def test_evaluate_writes_a_row_per_plan_and_document(tiny, experiment, capsys):
    plans = ["--plan", "base", "--plan", "0:3,1:4"]
    tasks = ["--task", "arc_easy", "--task", "boolq_passages"]
    assert evaluate(tiny(), *plans, *tasks, "--limit", "6") == 0
    table = pd.read_parquet("out/scores.parquet")
    assert {
        "model", "quantization", "task", "stage", "engine", "precision", "weights", "data", "seed",
        "code", "plan", "document", "key", "cluster", "loglikelihoods", "is_greedy", "target",
        "acc", "acc_norm", "word_perplexity", "word_perplexity_weight", "byte_perplexity",
    } <= set(table.columns)  # fmt: skip
    counts = table.groupby(["task", "plan"], observed=True)["document"].agg(list).to_dict()
    assert counts == {
        (task, plan): [0, 1, 2, 3, 4, 5]
        for task in ("arc_easy", "boolq_passages")
        for plan in ("base", "0:3,1:4")
    }
    arc = table[table["task"] == "arc_easy"]
    assert arc["acc"].notna().all() and arc["word_perplexity"].isna().all()
    assert set(table["stage"]) == {"all"} and set(table["precision"]) == {"float32"}
    assert "notice" not in capsys.readouterr().err


@pytest.mark.slow
def test_evaluate_takes_the_documents_of_a_stage(tiny, experiment):
    documents = []
    for stage in ("search", "select", "confirm"):
        assert evaluate(tiny(), "--plan", "base", "--task", "arc_easy", "--stage", stage) == 0
        documents.append(set(pd.read_parquet("out/scores.parquet")["document"]))
    assert sorted(i for stage in documents for i in stage) == list(range(150))


def test_a_plan_listed_twice_is_folded_with_a_notice(tiny, experiment, capsys):
    plans = ["0:3,1:4", "base", "0:3,1:3,3", "0:4"]
    arguments = [text for plan in plans for text in ("--plan", plan)]
    assert evaluate(tiny(), *arguments, "--task", "arc_easy", "--limit", "2") == 0
    assert "notice: listed more than once, folded: 0:3,1:4, base" in capsys.readouterr().err
    table = pd.read_parquet("out/scores.parquet")
    assert list(table["plan"].unique()) == ["0:3,1:4", "base"] and len(table) == 4


def test_a_second_run_needs_no_model(tiny, experiment, monkeypatch):
    arguments = ["--plan", "base", "--task", "arc_easy", "--limit", "5"]
    assert evaluate(tiny(), *arguments) == 0
    first = Path("out/scores.parquet").read_bytes()
    monkeypatch.setattr("frankenlab.engines.torch.TorchEngine", None)
    assert evaluate(tiny(), *arguments) == 0
    assert Path("out/scores.parquet").read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--plan", "base", "--task", "arc_esy"], ['"arc_esy"', 'did you mean "arc_easy"?']),
        (["--plan", "base", "--task", "zzz"], ['"zzz"', "it has arc_easy, boolq_passages"]),
        (["--plan", "base", "--task", "boolq_passages", "--stage", "search"],
         ['"boolq_passages"', "search", "only confirmed"]),
        (["--plan", "base", "--task", "arc_easy", "--config", "absent.yaml"], ["absent.yaml"]),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_and_status_2(tiny, experiment, capsys, arguments, parts):
    assert evaluate(tiny(), *arguments) == 2
    message = one_line(capsys.readouterr().err)
    assert message.startswith("frankenlab: ") and all(part in message for part in parts)
    assert not Path("out").exists() and not Path("results").exists()


@pytest.mark.parametrize("plan", ["0:5", "0:3,4"])
def test_a_layer_out_of_range_is_shown_with_the_models_depth(tiny, experiment, capsys, plan):
    """The one error with two more lines: the text, and a caret under the fault."""
    assert evaluate(tiny(), "--plan", plan, "--task", "arc_easy") == 2
    message, text, caret = capsys.readouterr().err.splitlines()
    assert message.startswith(f'frankenlab: plan "{plan}": ') and "4 layers, 0 to 3" in message
    assert text.strip() == plan and caret.strip() == "^"


@pytest.mark.parametrize("limit", ["0", "-3", "many", "٣", "9" * 60])
def test_a_limit_that_is_no_number_of_documents_is_refused(tiny, experiment, capsys, limit):
    with pytest.raises(SystemExit) as error:
        evaluate(tiny(), "--plan", "base", "--task", "arc_easy", "--limit", limit)
    assert error.value.code == 2
    assert repr(limit) in capsys.readouterr().err


def test_a_directory_that_is_no_model_is_refused(experiment, tmp_path, capsys):
    assert evaluate(tmp_path, "--plan", "base", "--task", "arc_easy") == 2
    assert "config.json" in one_line(capsys.readouterr().err)


def test_a_request_longer_than_the_context_is_refused(tiny, experiment, capsys):
    write_rows(Path("arc.jsonl"), [arc_row(0) | {"question": passage(1, 700)}])
    assert evaluate(tiny(), "--plan", "base", "--task", "arc_easy") == 2
    assert "context of 512" in one_line(capsys.readouterr().err)


def test_too_few_documents_for_three_stages_are_refused(tiny, experiment, capsys):
    write_rows(Path("arc.jsonl"), [arc_row(i) for i in range(30)])
    arguments = ["--plan", "base", "--task", "arc_easy", "--stage", "search"]
    assert evaluate(tiny(), *arguments) == 2
    assert "30 documents are too few for three stages" in one_line(capsys.readouterr().err)


def test_plans_prints_the_grid_and_its_cost(experiment, capsys):
    assert cli.main(["plans", "--config", "config.yaml", "--tokens-per-second", "1000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tiny (4 layers)"
    assert [line.split() for line in lines[1:11]] == [
        ["base", "base"],
        *(["layer", text] for text in ("0,0:4", "0:2,1:4", "0:3,2:4", "0:4,3")),
        *(["layer", text] for text in ("0x2,0:4", "0:2,1,1:4", "0:3,2,2:4", "0:4,3x2")),
        ["explicit", "0:4,1@attn"],
    ]
    rest = "\n".join(lines[11:])
    assert "10 plans" in rest and "1 duplicates folded" in rest


def test_plans_summarizes_without_the_list(experiment, capsys):
    assert cli.main(["plans", "--config", "config.yaml", "--summary"]) == 0
    found = capsys.readouterr().out
    assert "10 plans" in found and "0:4,1@attn" not in found


@pytest.mark.parametrize(
    ("plans", "parts"),
    [
        ([], ["config: plans", "empty"]),
        ([{"generator": "explicit", "plans": ["base"]}], ["config: plans", "empty"]),
        ([{"generator": "layer", "layer": 4}], ["plans.0 (layer)", "4 layers, 0 to 3"]),
    ],
)
def test_plans_refuses_a_grid_that_is_empty_or_out_of_range(experiment, capsys, plans, parts):
    edit_config(experiment, plans=plans)
    assert cli.main(["plans", "--config", "config.yaml"]) == 2
    message = one_line(capsys.readouterr().err)
    assert all(part in message for part in parts)


def test_an_unknown_key_is_refused_with_the_nearest(experiment, capsys):
    edit_config(experiment, plns=[])
    assert cli.main(["plans", "--config", "config.yaml"]) == 2
    assert 'unknown key "plns"; did you mean "plans"?' in one_line(capsys.readouterr().err)


def test_fetch_makes_the_models_directory_where_the_workflow_looks(experiment, capsys):
    assert cli.main(["fetch", "--config", "config.yaml"]) == 0
    (directory,) = map(Path, capsys.readouterr().out.splitlines())
    assert directory.parent == Path("resources/models")
    assert load_hf(directory).config.num_hidden_layers == 4
    assert evaluate(directory, "--plan", "base", "--task", "arc_easy", "--limit", "3") == 0


def test_materialize_writes_a_checkpoint_of_the_plans_depth(tiny, experiment, capsys):
    arguments = ["materialize", str(tiny()), "--plan", "0:3,1:4", "--output", "franken"]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.strip() == "franken"
    assert load_hf(Path("franken")).config.num_hidden_layers == 6
    assert cli.main(arguments) == 2
    assert "franken: exists already" in one_line(capsys.readouterr().err)


def test_a_plan_that_leaves_layers_out_is_noticed_by_every_command(tiny, experiment, capsys):
    text = "notice: plan 0:3 never runs the layer 3 and ends with layer 2 (the model has 4 layers"
    assert evaluate(tiny(), "--plan", "0:3", "--task", "arc_easy", "--limit", "2") == 0
    assert capsys.readouterr().err.count(text) == 1
    assert cli.main(["materialize", str(tiny()), "--plan", "0:3", "--output", "franken"]) == 0
    assert capsys.readouterr().err.count(text) == 1
    edit_config(experiment, plans=[{"generator": "explicit", "plans": ["0:3", "0:4,3"]}])
    assert cli.main(["plans", "--config", "config.yaml", "--summary"]) == 0
    noticed = [x for x in capsys.readouterr().err.splitlines() if x.startswith("notice")]
    assert noticed == [text.replace("plan 0:3", "tiny: plan 0:3 (explicit)") + ", 0 to 3)"]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["plans", "--config", "config.yaml"]])
def test_the_package_runs_as_the_command(experiment, arguments):
    done = subprocess.run(
        [sys.executable, "-m", "frankenlab", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0 and ("usage: frankenlab" in done.stdout or "tiny (4" in done.stdout)


@pytest.mark.slow
def test_the_command_is_installed(experiment):
    command = Path(sys.executable).with_name("frankenlab")
    arguments = ["plans", "--config", "config.yaml", "--summary", "--tokens-per-second", "1000"]
    done = subprocess.run([command, *arguments], capture_output=True, text=True)
    assert done.returncode == 0 and "experiment small" in done.stdout
