"""The command line: the same steps by hand, and every mistake on one line with status 2."""

import argparse
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from lm_eval.utils import make_table

from frankenlab import __version__, cli
from tests.support.models import load_hf
from tests.support.processes import one_line
from tests.support.task_rows import (
    arc_row,
    boolq_row,
    passage,
    winogrande_row,
    write_rows,
)


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
    return cli.main(["evaluate", str(model), *given, "--force", *more])


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


def test_evaluate_prints_each_score_with_its_error_and_its_change_against_the_base(
    tiny, experiment, capsys
):
    Path("plans.txt").write_text("# two\n0:3,1:4\n0:4,1@attn  # attention\n\n")
    tasks = ["--task", "arc_easy", "--task", "boolq_passages"]
    assert evaluate(tiny(), "--plans", "plans.txt", *tasks, "--limit", "20") == 0
    printed = capsys.readouterr().out
    rows = [re.split(r"  +", line) for line in printed.splitlines()]
    head = next(row for row in rows if row[0] == "task")
    assert head[3:] == ["n", "value", "stderr", "change", "95 % interval", "p", "q"]
    found = {tuple(row[:3]): row[3:] for row in rows if len(row) > 3}
    table = pd.read_parquet("out/scores.parquet")
    arc = table[table["task"] == "arc_easy"].pivot(index="document", columns="plan", values="acc")
    value = arc["0:3,1:4"]
    shown = found["arc_easy", "acc", "0:3,1:4"]
    assert shown[:3] == ["20", f"{value.mean():.4f}", f"{value.std() / 20**0.5:.4f}"]
    assert shown[3] == f"{100 * (value - arc['base']).mean():+.2f} points"
    assert re.fullmatch(r"\[[+-][\d.]+, [+-][\d.]+\]", shown[4]) and 0 < float(shown[5]) <= 1
    assert len(found["arc_easy", "acc", "base"]) == 3
    assert "log-percent" in found["boolq_passages", "word_perplexity", "0:4,1@attn"][3]
    assert ("arc_easy", "acc_norm", "0:4,1@attn") in found


def test_a_single_document_leaves_errors_and_intervals_open(tiny, experiment, capsys):
    arguments = ["--plan", "0:3,1:4", "--task", "boolq_passages", "--limit", "1"]
    assert evaluate(tiny(), *arguments) == 0
    assert "[-, -]" in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_evaluate_writes_what_the_ending_says_and_over_no_file(tiny, experiment, capsys, ending):
    output = Path(f"out/scores.{ending}")
    given = ["evaluate", str(tiny()), "--config", "config.yaml", "--dtype", "fp32"]
    given += ["--plan", "0:3,1:4", "--task", "arc_easy", "--limit", "5", "--output", str(output)]
    assert cli.main(given) == 0
    before = output.read_bytes()
    if ending == "json":
        results = json.loads(before)
        # lm-eval's own table of it.
        table = make_table(results)
        assert "|arc_easy " in table and "|arc_easy [0:3,1:4]" in table
        assert results["results"]["arc_easy"]["acc_stderr,none"] > 0
        assert results["versions"]["arc_easy"] == 1.0 and results["n-shot"]["arc_easy"] == 0
        assert results["n-samples"]["arc_easy"] == {"original": 150, "effective": 5}
    else:
        read = pd.read_csv if ending == "csv" else pd.read_parquet
        assert list(read(output)["plan"]) == ["base"] * 5 + ["0:3,1:4"] * 5
    capsys.readouterr()
    assert cli.main([*given, "--store", "other"]) == 2
    assert "exists already; name another file, or add --force" in one_line(capsys.readouterr().err)
    assert output.read_bytes() == before and not Path("other").exists()
    assert cli.main([*given, "--force"]) == 0


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("scores.xlsx", "its ending must be one of .parquet, .csv, .json"),
        ("folder.csv", "is a directory"),
        ("config.yaml/scores.csv", "nothing can be written to"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_anything_else(
    experiment, capsys, output, message
):
    Path("folder.csv").mkdir()
    assert cli.main(["evaluate", "absent", "--task", "absent", "--output", output]) == 2
    assert message in one_line(capsys.readouterr().err)


def test_a_task_needs_no_config_and_takes_its_data_from_a_file(tiny, experiment, capsys):
    """What lm-eval has: the task's own YAML with other data, its first metric, and more shots."""
    write_rows(Path("own.jsonl"), [winogrande_row(i) for i in range(9)])
    Path("config.yaml").unlink()
    given = ["evaluate", str(tiny()), "--output", "out/scores.parquet", "--task", "winogrande"]
    assert cli.main([*given, "--data", "own.jsonl", "--token-budget", "64"]) == 0
    table = pd.read_parquet("out/scores.parquet")
    assert set(table["task"]) == {"winogrande"} and len(table) == 9
    assert list(table["plan"].unique()) == ["base"] and table["acc"].notna().all()
    assert set(table["precision"]) == {"bfloat16"}
    assert re.search(r"winogrande +acc +base +9 ", capsys.readouterr().out)


def test_a_model_of_the_config_and_its_data_are_fetched_where_they_are_missing(
    tiny, experiment, capsys
):
    assert evaluate(Path("tiny"), "--task", "arc_easy", "--limit", "3") == 0
    (directory,) = Path("resources/models").glob("tiny-*")
    assert (directory / "manifest.json").is_file()
    assert evaluate(Path("tini"), "--task", "arc_easy") == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.endswith(
        'model "tini": there is no such directory here, and it is neither a model of config.yaml '
        "(tiny) nor owner/name of the Hugging Face hub"
    )


@pytest.mark.parametrize("named", ["owner/name", "owner/name@v2", f"owner/name@{'ab' * 20}"])
def test_a_model_of_the_hub_is_taken_at_the_commit_that_its_branch_names(
    tiny, experiment, monkeypatch, named
):
    asked = []
    commit = "ab" * 20

    def repo_info(self, name, revision):
        asked.append((name, revision))
        return SimpleNamespace(sha=commit)

    def fetch_model(source, target, n_layers, description, sizes=None):
        assert (source.kind, source.location, source.revision) == ("hub", "owner/name", commit)
        shutil.copytree(tiny(), target)

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", repo_info)
    monkeypatch.setattr("frankenlab.models.fetch.fetch_model", fetch_model)
    assert evaluate(Path(named), "--task", "arc_easy", "--limit", "2") == 0
    revision = named.partition("@")[2] or "main"
    assert asked == ([] if revision == commit else [("owner/name", revision)])


def test_a_hub_that_cannot_be_reached_is_one_line(experiment, monkeypatch, capsys):
    def refuse(*_, **__):
        raise ConnectionError

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", refuse)
    assert evaluate(Path("owner/name"), "--task", "arc_easy") == 2
    message = one_line(capsys.readouterr().err)
    assert "Hugging Face hub owner/name at main: the hub cannot be reached" in message


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_what_is_complete_and_the_next_run_goes_on(tiny, experiment, number):
    """The process asks itself to end at its second plan; the next one scores the other two."""
    plans = ["--plan", "0:3,1:4", "--plan", "0:2,1:4"]
    given = ["evaluate", str(tiny()), "--config", "config.yaml", "--dtype", "float32", *plans]
    given += ["--task", "arc_easy", "--limit", "9", "--output", "scores.csv"]
    program = (
        "import os, sys\n"
        "from frankenlab import cli\n"
        "from frankenlab.engines.torch import TorchEngine\n"
        "score, stop, calls = TorchEngine.score, int(sys.argv.pop(1)), []\n"
        "def noted(*arguments):\n"
        "    calls.append(1)\n"
        "    if stop and len(calls) == 2: os.kill(os.getpid(), stop)\n"
        "    print('scored', flush=True)\n"
        "    return score(*arguments)\n"
        "TorchEngine.score = noted\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )

    def run(stop: int) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", program, str(stop), *given]
        return subprocess.run(command, capture_output=True, text=True)

    first = run(int(number))
    # Where its libraries take longer to end than it may take, the kernel ends it.
    assert first.returncode in (128 + number, -signal.SIGALRM)
    assert first.stdout.split() == ["scored"]
    last = first.stderr.splitlines()[-1]
    assert last.startswith(f"frankenlab: stopped by {number.name}: ") and "Traceback" not in last
    assert not Path("scores.csv").exists() and list(Path("results/store").rglob("part-*.parquet"))
    second = run(0)
    assert second.returncode == 0 and second.stdout.count("scored") == 2
    assert len(pd.read_csv("scores.csv")) == 27


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
        (["--task", "arc_esy"], ['"arc_esy"', "did you mean arc_easy", "config.yaml has "]),
        (["--task", "arc_easy", "--data", "absent"], ["--data", "absent does not exist"]),
        (["--task", "arc_easy", "--data", "piqa=config.yaml"], ['"piqa" is not given as --task']),
        (["--task", "arc_easy", "--plans", "absent.txt"], ["--plans", "absent.txt does not exist"]),
        (["--task", "arc_easy", "--metric", "f1"], ['metric "f1"', "acc, acc_norm"]),
        (["--task", "boolq_passages", "--stage", "search"],
         ['"boolq_passages"', "search", "only confirmed"]),
        (["--plan", "base", "--task", "arc_easy", "--config", "absent.yaml"], ["absent.yaml"]),
        (["--task", "arc_easy", "--gpus", "2", "--device", "cpu"], ["--gpus 2: needs --device"]),
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


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["--version"])
    assert error.value.code == 0 and capsys.readouterr().out == f"frankenlab {__version__}\n"


def commands() -> dict[str, argparse.ArgumentParser]:
    (found,) = (a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    return found.choices


@pytest.mark.parametrize("name", commands())
def test_every_help_has_examples_that_the_command_takes(name, capsys):
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    _, examples = re.split(r"\nexamples?:\n", capsys.readouterr().out)
    for line in examples.splitlines():
        words = shlex.split(re.split(r" >>? ", line)[0])
        assert words[:2] == ["frankenlab", name]
        assert cli.parser().parse_args(words[1:]).run


def test_show_draws_a_line_for_each_pass(experiment, capsys):
    assert cli.main(["show", "0:3,1:3@attn,1@mlp*0.5,2:4", "--config", "config.yaml"]) == 0
    said, _, *drawn = capsys.readouterr().out.splitlines()
    assert said.endswith("layers run, the model has 4")
    assert drawn[:-1] == ["███", " ▀▀", " ▒██"]
    assert cli.main(["show", "0:20,10:30", "--layers", "30"]) == 0
    _, numbers, *drawn = capsys.readouterr().out.splitlines()
    assert numbers == "0         10        20" and drawn[1] == " " * 10 + "█" * 20
    assert cli.main(["show", "0:9", "--layers", "4"]) == 2


def test_a_damped_window_is_drawn_as_one(capsys):
    assert cli.main(["show", "0,(1:3)x2*0.5,3", "--layers", "4"]) == 0
    assert capsys.readouterr().out.splitlines()[2:4] == ["█▒▒", " ▒▒█"]


def test_tasks_lists_those_at_hand_and_those_that_match(experiment, capsys):
    assert cli.main(["tasks", "--config", "config.yaml"]) == 0
    found = capsys.readouterr().out
    assert re.search(r"  arc_easy +search +acc", found) and "  boolq_passages" in found
    assert cli.main(["tasks", "arc_eas*", "--config", "config.yaml"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [["arc_easy", "acc"]]
    assert cli.main(["tasks", "gsm8k_cot_zeroshot"]) == 0
    assert "not scored here: generate_until" in capsys.readouterr().out
    assert cli.main(["tasks", "nosuchtask"]) == 2
    assert 'no task matches "nosuchtask"' in one_line(capsys.readouterr().err)


def test_generators_lists_every_one_with_its_keys(capsys):
    assert cli.main(["generators"]) == 0
    found = capsys.readouterr().out
    names = [line for line in found.splitlines() if not line.startswith(" ")]
    assert {"layer", "block", "rys", "explicit", "window"} < set(names)
    assert "    - times (2): " in found and "    - length (needed): " in found


def test_a_reader_that_has_seen_enough_is_no_error():
    command = f"{sys.executable} -m frankenlab tasks a | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.count("\n") == 1 and done.stderr == ""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["ev"], ["evaluate"]),
        (["evaluate", "--to"], ["--token-budget"]),
        (["evaluate", "m", "--device", "c"], ["cpu", "cuda"]),
        (["completion", ""], ["bash", "zsh", "fish", "-h", "--help"]),
    ],
)
def test_bash_completes_commands_options_and_values(typed, offered, capsys):
    assert cli.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    words = " ".join(shlex.quote(word) for word in ["frankenlab", *typed])
    program = (
        f"{script}COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _frankenlab\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == offered


def test_fish_completes_commands_options_and_values(capsys):
    """Tried in fish 3.6, which is not installed where the tests run."""
    assert cli.main(["completion", "fish"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(shlex.split(line)[:4] == ["complete", "-c", "frankenlab", "-n"] for line in lines)
    start = "complete -c frankenlab -n __fish_use_subcommand -f -a evaluate -d 'score plans"
    assert any(line.startswith(start) for line in lines)
    evaluate = "complete -c frankenlab -n '__fish_seen_subcommand_from evaluate'"
    assert any(line.startswith(f"{evaluate} -l device -x -a 'auto cpu cuda'") for line in lines)
    assert any(line.startswith(f"{evaluate} -l force -f -d ") for line in lines)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "has no plan"),
        (b"# none\n\n", "has no plan"),
        (b"caf\xe9", "is not UTF-8 text (byte 3)"),
    ],
)
def test_a_file_that_lists_no_plan_is_refused(tiny, experiment, capsys, content, fault):
    Path("plans.txt").write_bytes(content)
    assert evaluate(tiny(), "--task", "arc_easy", "--plans", "plans.txt") == 2
    assert f"--plans: plans.txt {fault}" in one_line(capsys.readouterr().err)


def test_a_wrong_plan_of_a_file_is_named_with_its_line(tiny, experiment, capsys):
    Path("plans.txt").write_text("0:3,2:4  # one\n\n0:9\n")
    assert evaluate(tiny(), "--task", "arc_easy", "--plans", "plans.txt") == 2
    assert '--plans: plans.txt, line 3: plan "0:9": 9 is' in capsys.readouterr().err


def test_a_store_that_cannot_be_written_to_is_refused_before_anything_else(experiment, capsys):
    given = ["evaluate", "absent", "--task", "absent", "--store", "config.yaml/store"]
    assert cli.main(given) == 2
    assert "--store config.yaml/store: nothing can be written to" in one_line(
        capsys.readouterr().err
    )


@pytest.mark.parametrize("option", ["--store", "--output", "--plans", "--config"])
def test_an_option_without_a_name_is_refused(capsys, option):
    with pytest.raises(SystemExit) as error:
        cli.main(["evaluate", "model", "--task", "sst2", option, ""])
    assert error.value.code == 2 and f"{option}: the name of a" in capsys.readouterr().err


def test_a_wrong_speed_is_refused_before_the_plans_are_listed(experiment, capsys):
    assert cli.main(["plans", "--config", "config.yaml", "--tokens-per-second", "x"]) == 2
    assert not capsys.readouterr().out


def test_a_wrong_option_is_one_line_and_a_task_is_named_with_the_nearest(experiment, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["evaluate", "model", "--task", "sst2", "--device", "gpu"])
    message = one_line(capsys.readouterr().err)
    assert error.value.code == 2 and "see frankenlab evaluate --help" in message
    assert cli.main(["tasks", "arc_esy", "--config", "config.yaml"]) == 2
    assert "did you mean arc_easy" in one_line(capsys.readouterr().err)


def test_later_config_files_change_earlier_ones(experiment, capsys):
    Path("more.yaml").write_text("experiment: other\nstages: {search: {limit: 17}}\n")
    given = ["--summary", "--tokens-per-second", "1000"]
    assert cli.main(["plans", "--config", "config.yaml", "more.yaml", *given]) == 0
    found = capsys.readouterr().out
    assert found.startswith("experiment other\n") and "x 17 documents" in found
    # What the second file does not say is as in the first.
    assert "model tiny: 10 plans" in found
