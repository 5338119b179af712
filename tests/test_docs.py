"""Every command of the documentation: run on tiny stand-ins, tried without running, or listed.

A command of a shell block whose program is unknown fails until it is listed here with a reason.
"""

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from snakemake.cli import parse_args

from frankenlab import cli
from frankenlab.config import experiment as config
from tests.support.paths import ROOT
from tests.support.task_rows import arc_row, write_rows
from tests.support.tiny import make_tiny_model

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "config/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "profiles").rglob("*.md")),
    ROOT / "benchmarks" / "README.md",
]

# What is only parsed, and why it is not run.
NOT_RUN = {
    "evaluate MODEL --plans plans.txt --task piqa --task sciq --dtype bf16": (
        "downloads the data set of sciq"
    ),
}

# How commands begin that are neither run nor tried, and why.
LISTED = {
    "tmux": "a terminal of the user's",
    "python3 -m venv": "makes an environment, for which the next one needs a network",
    "lock=": "the address of a file, for the next command",
    ".venv/bin/pip install": "needs a network",
    "snakedeploy": "needs a network",
    "apptainer": "needs an image",
}

# Names that stand for what the reader has.
PLACEHOLDERS = ("FILE", "my.yaml")

# In a line of a table or a text only the name of the command is checked.
MENTIONED = re.compile(r"`(?:\.venv/bin/)?((?:frankenlab|make) [^`]+)`")
BLOCK = re.compile(r"^```(?:sh|bash|console|shell)\n(.*?)^```", re.M | re.S)


def commands() -> list[str]:
    """Return the commands of all shell blocks, on one line each and without comments."""
    blocks = [block for page in PAGES for block in BLOCK.findall(page.read_text("utf-8"))]
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    found = [" ".join(re.sub(r"(^|\s)#.*", "", line).split()) for line in lines]
    found = [line.removeprefix("exec ") for line in found]
    return list(dict.fromkeys(filter(None, found)))


def program(command: str) -> str:
    """Return the program that a command runs, without its folder."""
    return command.split()[0].removeprefix(".venv/bin/")


def arguments(name: str) -> list[str]:
    """Return the arguments of each command that runs a program."""
    return [c.partition(" ")[2] for c in commands() if program(c) == name]


def subcommands(parser: argparse.ArgumentParser) -> set[str]:
    (found,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return set(found.choices)


def test_every_command_is_run_or_tried_or_listed() -> None:
    known = ("frankenlab", "make", "snakemake", "srun")
    others = [command for command in commands() if program(command) not in known]
    unknown = [command for command in others if not command.startswith(tuple(LISTED))]
    assert not unknown, "write it so that it can be tried, or list it with a reason"
    assert set(NOT_RUN) <= set(arguments("frankenlab"))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with stand-ins: the default experiment's data, and a tiny model as deep as
    its model."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "config").symlink_to(ROOT / "config")
    model = make_tiny_model(folder / "MODEL_DIR", n_layers=30, hidden=16, heads=2)
    for name in ("MODEL", "smollm2-135m-instruct"):
        (folder / name).symlink_to(model)
    write_rows(folder / "questions.jsonl", [arc_row(i) for i in range(20)])
    (folder / "plans.txt").write_text("0:20,10:30\n")
    file = config.load(ROOT / config.DEFAULT).tasks["arc_easy"].data_file
    assert file is not None and file.suffix == ".arrow"
    table, path = pa.Table.from_pylist([arc_row(i) for i in range(20)]), folder / file
    path.parent.mkdir(parents=True)
    with pa.OSFile(str(path), "w") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("given", [each for each in arguments("frankenlab") if each not in NOT_RUN])
def test_a_command_by_hand_runs(workplace: Path, monkeypatch, capsys, given: str) -> None:
    monkeypatch.chdir(workplace)
    assert cli.main(shlex.split(given)) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("given", NOT_RUN)
def test_a_command_that_is_not_run_is_parsed(given: str) -> None:
    assert cli.parser().parse_args(shlex.split(given)).run


@pytest.mark.slow
@pytest.mark.parametrize("target", ["run", "plan"])
def test_make_names_a_config_that_cannot_be_read(tmp_path: Path, target: str) -> None:
    config_file = tmp_path / "latin.yaml"
    config_file.write_bytes(b"experiment: caf\xe9")
    given = [
        "--no-print-directory",
        "-o",
        ".venv/.run",
        target,
        f"BIN={Path(sys.executable).parent}",
    ]
    done = subprocess.run(
        ["make", *given, f"CONFIG={config_file}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0 and not done.stdout
    assert "latin.yaml: cannot be read (it is not UTF-8 (byte 15))" in done.stderr.splitlines()[0]


@pytest.mark.parametrize("given", dict.fromkeys([*arguments("make"), *arguments("srun")]))
def test_a_target_of_make_is_there(given: str) -> None:
    given = given.partition("make ")[2] or given
    command = ["make", "--dry-run", *shlex.split(given)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "Nothing to be done" not in done.stdout, done.stderr
    for name in re.findall(r"CONFIG=(\S+)", given):
        assert name in PLACEHOLDERS or (ROOT / name).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("given", arguments("snakemake"))
def test_a_command_of_snakemake_is_parsed_and_names_what_is_there(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.chdir(ROOT)
    _, options = parse_args(shlex.split(given))
    files = [path for path in ROOT.rglob("Snakefile") if ".venv" not in path.parts]
    rules = "".join(path.read_text("utf-8") for path in files)
    assert all(re.search(rf"^rule {name}:", rules, re.M) for name in options.targets)
    for path in options.configfile or ():
        assert path.name in PLACEHOLDERS or path.is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_command_that_a_text_mentions_is_there(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    allowed = {"make": targets, "frankenlab": subcommands(cli.parser())}
    for name, command in (found.split()[:2] for found in MENTIONED.findall(text)):
        assert command in allowed[name]
