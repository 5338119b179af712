"""The workflow end to end on a tiny model, and what makes which of its jobs stale.

The tests share one finished run; each that changes something changes it back.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from frankenlab.engines.devices import processor_name
from frankenlab.io.files import sha256_file
from tests.support.laboratory import Laboratory, left_of
from tests.support.paths import ROOT
from tests.support.warm_python import warm_python

pytestmark = pytest.mark.slow

SEARCH_TABLE = "results/tiny/comparisons/search/tiny/none.parquet"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    laboratory = Laboratory(tmp_path_factory.mktemp("laboratory"))
    python = warm_python()
    # The run that they share starts every process as a user does.
    laboratory.snakemake()
    laboratory.python = python
    return laboratory


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def scoring(jobs: Counter) -> tuple[int, int]:
    """How many jobs score plans before the confirmation, and in it; each scores all tasks."""
    return jobs["evaluate"], jobs["confirm"]


def test_a_run_ends_with_the_page_the_tables_and_the_pictures(lab: Laboratory) -> None:
    page = (lab.results / "report" / "index.html").read_text()
    assert "free lunch" in page.lower() and "<svg" in page
    verdicts = pd.read_csv(lab.results / "tables" / "verdicts.csv")
    assert set(verdicts["task"]) == {"animals", "liquids", "passages"}
    assert set(verdicts["group"]) == {"frozen", "control"}
    costs = pd.read_csv(lab.results / "tables" / "costs.csv")
    assert set(costs["device"]) == {"cpu"} and set(costs["hardware"]) == {processor_name()}
    assert set(verdicts["hardware"]) == {processor_name()} and set(verdicts["mixed"]) == {0}
    assert "computed by the same hardware" in page
    probe = pd.read_csv(lab.results / "tables" / "probe.csv")
    assert (probe.groupby("task").size() == 4).all() and set(probe["task"]) < set(verdicts["task"])
    assert "Why?" in page and "median a layer" in page
    drawn = ("block_map.animals", "layer_effects", "confirm_forest", "quality_speed")
    for name in (*drawn, "layer_updates", "state_similarity"):
        for suffix in ("png", "svg"):
            assert (lab.results / "figures" / "tiny" / "none" / f"{name}.{suffix}").is_file()


def test_everything_that_a_run_makes_is_in_the_lists_of_files(lab: Laboratory) -> None:
    for folder, where in (("results", lab.results), ("resources", lab.folder / "resources")):
        listed = (ROOT / folder / "README.md").read_text()
        assert not [path.name for path in where.iterdir() if path.name not in listed]


@pytest.mark.skipif(sys.platform != "linux", reason="such processes are for Linux only")
def test_a_process_with_libraries_imported_is_as_any_other(tmp_path: Path) -> None:
    """The runs below are such processes, and so are their jobs."""
    package = tmp_path / "src" / "frankenlab"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("HERE = 1\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "import frankenlab\n"
        "found = [frankenlab.HERE, os.getcwd(), os.environ['GIVEN'], 'torch' in sys.modules]\n"
        "print(*found, sys.argv[1:])\n"
        "exec(sys.argv[1])\n"
    )
    environment = {"PYTHONPATH": str(tmp_path / "src"), "GIVEN": "a b"}

    def run(code: str) -> subprocess.CompletedProcess:
        command = [*warm_python(), script, code]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    for code, status, error in (
        ("pass", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('no')", 1, "no\n"),
        ("os.kill(os.getpid(), 9)", -9, ""),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
    ):
        done = run(code)
        assert done.returncode == status and done.stderr.endswith(error)
        if status >= 0:
            assert done.stdout == f"1 {tmp_path} a b True {[code]}\n"


def test_stages_share_no_document(lab: Laboratory) -> None:
    for task in ("animals", "liquids"):
        seen = [
            set(pd.read_parquet(lab.results / f"scores/{stage}/tiny/none/{task}.0.parquet")["key"])
            for stage in ("search", "select", "confirm")
        ]
        assert sum(map(len, seen)) == len(set.union(*seen))


def test_the_ledger_counts_one_look_a_task(lab: Laboratory) -> None:
    looks = pd.read_csv(lab.results / "tables" / "ledger.csv")
    assert Counter(looks["task"]) == Counter(["animals", "liquids", "passages"])


def test_nothing_is_stale_after_a_run(lab: Laboratory) -> None:
    assert lab.jobs() == Counter()


def test_results_copied_without_metadata_are_recognised(lab: Laboratory, tmp_path: Path) -> None:
    other = object.__new__(Laboratory)
    other.folder, other.config = tmp_path / "copy", lab.config
    other.repository = other.folder
    other.python = lab.python
    shutil.copytree(
        lab.folder, other.folder, symlinks=True, ignore=shutil.ignore_patterns(".snakemake")
    )
    assert other.jobs() == Counter()
    edit(
        other.folder / "src/frankenlab/plans/trie.py",
        "total, pending = 0.0",
        "total, pending = 0.5",
    )
    assert scoring(other.jobs()) == (2, 1)


def test_an_added_prompt_evaluates_itself_alone_and_touches_no_verdict(lab: Laboratory) -> None:
    before, verdicts = lab.scored(), (lab.results / "tables" / "verdicts.csv").read_bytes()
    prompts = {"two": {"num_fewshot": 2}, "so": {"doc_to_text": "So: {{question}}"}}
    lab.config["tasks"]["liquids"]["prompts"] = prompts
    jobs = lab.jobs()
    assert jobs["confirm_prompts"] == 1 and jobs["check_prompts"] == 1
    assert not jobs.keys() & {"evaluate", "race", "shortlist", "freeze", "construct_frankens"}
    lab.snakemake()
    assert {task for task, _, _ in lab.scored() - before} == {"liquids@two", "liquids@so"}
    scores = pd.read_parquet(lab.results / "scores/confirm/tiny/none/liquids@two.0.parquet")
    assert not set(scores["document"]) & {0, 1}, "the worked examples are in no stage"
    table = pd.read_csv(lab.results / "tables" / "prompts.csv")
    assert set(table["prompt"]) == {"own", "two", "so"} and set(table["task"]) == {"liquids"}
    assert (lab.results / "tables" / "verdicts.csv").read_bytes() == verdicts
    assert "Does the prompt matter?" in (lab.results / "report" / "index.html").read_text()
    looks = pd.read_csv(lab.results / "tables" / "ledger.csv")
    assert Counter(looks["task"]) == Counter(["animals", "liquids", "passages"])
    del lab.config["tasks"]["liquids"]["prompts"]
    lab.snakemake()
    assert lab.jobs() == Counter()


def test_an_added_plan_evaluates_one_plan(lab: Laboratory) -> None:
    before = lab.scored()
    lab.config["plans"].append({"generator": "explicit", "plans": ["0:4x2"]})
    assert scoring(lab.jobs()) == (2, 1)  # search, and select and confirm behind it
    lab.snakemake(SEARCH_TABLE)
    assert {plan for _, plan, _ in lab.scored() - before} == {"0:4x2"}
    assert (lab.scored() - before).total() == 2 * 20
    lab.config["plans"].pop()
    lab.snakemake(SEARCH_TABLE)
    assert (lab.scored() - before).total() == 2 * 20
    assert lab.jobs() == Counter()


def test_a_changed_prompt_reruns_its_task_and_changing_it_back_costs_nothing(
    lab: Laboratory,
) -> None:
    before = lab.scored()
    lab.write_task("liquids", " a")
    dry = lab.snakemake("--dry-run", "--quiet", "reason").stdout
    stale = [line for line in dry.splitlines() if "output: results/tiny/scores/search" in line]
    assert len(stale) == 1 and "liquids" in stale[0]
    lab.snakemake("results/tiny/scores/search/tiny/none/liquids.0.parquet")
    changed = lab.scored()
    assert {task for task, _, _ in changed - before} == {"liquids"}
    lab.write_task("liquids")
    lab.snakemake(SEARCH_TABLE)
    assert lab.scored() == changed
    assert lab.jobs() == Counter()


def test_an_added_task_is_scored_alone_by_the_job_of_all_tasks(lab: Laboratory) -> None:
    before = lab.scored()
    lab.config["tasks"]["beasts"] = lab.config["tasks"]["animals"] | {"task": "animals"}
    assert scoring(lab.jobs(SEARCH_TABLE)) == (1, 0)
    lab.snakemake(SEARCH_TABLE)
    added = lab.scored() - before
    assert {task for task, _, _ in added} == {"beasts"} and set(added.values()) == {1}
    del lab.config["tasks"]["beasts"]
    lab.snakemake(SEARCH_TABLE)
    assert lab.scored() - before == added and lab.jobs() == Counter()


def replaced(path: Path) -> bytes:
    """Changes a file's contents, and leaves its size and its time of modification; what it held."""
    before, contents = path.stat(), path.read_bytes()
    path.write_bytes(contents[:-9] + bytes(b ^ 1 for b in contents[-9:-2]) + contents[-2:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == len(contents)
    return contents


def test_a_local_model_or_data_file_that_was_replaced_makes_what_it_affects_stale(
    lab: Laboratory,
) -> None:
    weights = lab.folder / "tiny-model" / "model.safetensors"
    original = replaced(weights)
    stale = lab.jobs()
    assert (stale["download_model"], scoring(stale)) == (1, (2, 1))
    # The next job that would load it is told so: none scores the new weights as the old ones.
    table = "results/tiny/scores/search/tiny/none/animals.0.parquet"
    (lab.folder / table).unlink()
    before = lab.scored()
    failed = lab.snakemake(table, "--allowed-rules", "evaluate", check=False)
    assert failed.returncode and lab.scored() == before
    assert "model.safetensors: its content differs" in failed.stderr
    weights.write_bytes(original)
    lab.snakemake(table, "--allowed-rules", "evaluate")
    assert lab.jobs() == Counter() and lab.scored() == before

    data = lab.folder / "animals.jsonl"
    original = replaced(data)
    dry = lab.snakemake("--dry-run", "--quiet", "reason").stdout
    stale = [line for line in dry.splitlines() if "output: results/tiny/scores/search" in line]
    assert len(stale) == 1 and "animals" in stale[0]
    data.write_bytes(original)
    assert lab.jobs() == Counter()


def test_a_flipped_bit_in_the_store_is_computed_again(lab: Laboratory) -> None:
    parts = (lab.folder / "results" / "store").glob("*/part-*.parquet")
    made_by = {p: json.loads((p.parent / "identity.json").read_text()) for p in parts}
    own = [part for part, identity in made_by.items() if identity["task"] == "animals"]
    part = max(own, key=lambda path: path.stat().st_size)  # the search's
    before, contents = lab.scored(), bytearray(part.read_bytes())
    contents[len(contents) // 3] ^= 4
    part.write_bytes(contents)
    table = "results/tiny/scores/search/tiny/none/animals.0.parquet"
    (lab.folder / table).unlink()
    lab.snakemake(table)
    assert not part.exists() and lab.scored() == before
    log = (lab.results / "logs/evaluate/search.tiny.none.0.log").read_text()
    assert f"{part.name}: damaged, its rows are computed again" in log


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_table_is_made_again_without_scoring(
    lab: Laboratory, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = lab.scored()
    table = "results/tiny/scores/search/tiny/none/animals.0.parquet"
    path = lab.folder / table
    whole = path.read_bytes()
    # Without a row to score, torch is not even imported.
    broken = lab.folder / "broken" / "torch.py"
    broken.parent.mkdir(exist_ok=True)
    broken.write_text("raise RuntimeError('torch was imported')")
    monkeypatch.setattr(lab, "python", Laboratory.python)
    monkeypatch.setattr(lab, "environment", {"PYTHONPATH": f"{lab.folder / 'src'}:{broken.parent}"})
    middle = len(whole) // 2
    rest = bytes([whole[middle] ^ 1]) + whole[middle + 1 :] if damage == "flipped" else b""
    path.write_bytes(whole[:middle] + rest)
    assert lab.jobs(table)["evaluate"] == 1
    done = lab.snakemake(table)
    assert "animals.0.parquet is damaged: made again" in done.stderr
    assert path.read_bytes() == whole
    assert lab.scored() == before


def test_a_changed_number_of_shards_recomputes_and_changes_nothing(lab: Laboratory) -> None:
    before, table = lab.scored(), pd.read_parquet(lab.folder / SEARCH_TABLE)
    lab.config["stages"]["search"]["shards"] = 3
    lab.snakemake(SEARCH_TABLE)
    folder = lab.results / "scores" / "search" / "tiny" / "none"
    shards = [pd.read_parquet(path) for path in folder.glob("animals.*.parquet")]
    # The base is in one of them, and every comparison is with it.
    assert ["base" in set(shard["plan"]) for shard in shards].count(True) == 1 < len(shards)
    order = ["task", "plan"]
    found = pd.read_parquet(lab.folder / SEARCH_TABLE).sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(found, table.sort_values(order, ignore_index=True))

    lab.config["plans"].append({"generator": "explicit", "plans": ["0:4x2"]})
    assert lab.jobs(SEARCH_TABLE)["evaluate"] == 1
    lab.config["plans"].pop()
    del lab.config["stages"]["search"]["shards"]
    lab.snakemake(SEARCH_TABLE)
    assert lab.scored() == before


@pytest.mark.parametrize("shards", [1, 3])
def test_a_dry_run_counts_the_jobs_as_snakemake_does(lab: Laboratory, shards: int) -> None:
    lab.config["stages"]["search"]["shards"] = shards
    text = lab.snakemake("--dry-run", "--forceall", "--quiet", "reason", "rules").stdout
    del lab.config["stages"]["search"]["shards"]
    total = int(re.search(r"^total +(\d+)$", text, re.MULTILINE)[1])
    # The target `all` does nothing.
    assert left_of(text).total() == total - 1
    assert f"jobs: {total - 1}, {total - 1} left to do" in text


def test_a_dry_run_ends_with_the_grid_and_what_is_left_of_the_jobs(lab: Laboratory) -> None:
    text = lab.snakemake("--dry-run", "--forceall").stdout
    summary = text[text.index("experiment tiny") :]
    assert "layer passes" in summary and "duplicates folded" in summary
    assert "predicted" in summary and "longest path of what is left" in summary

    text = lab.snakemake("--dry-run", "--quiet", "all").stdout
    assert "none left to do" in text and left_of(text) == Counter()
    # What the jobs took stands beside what was predicted for them.
    assert re.search(r"evaluate: 2 in all, 0 left; 2 took \d.*, predicted \d", text)


def test_jobs_of_a_model_that_is_split_ask_for_all_its_gpus(lab: Laboratory) -> None:
    lab.config["device"] = "cuda"
    lab.config["models"]["tiny"]["gpus"] = 2
    text = lab.snakemake("--dry-run", "--forceall").stdout
    del lab.config["device"], lab.config["models"]["tiny"]["gpus"]
    asked = re.findall(r"^rule (\w+):\n(?:    .*\n)*?    resources: (.*)$", text, re.MULTILINE)
    taken = {rule: re.findall(r"gpu=\d|nodes=\d", resources) for rule, resources in asked}
    models = {rule for rule, found in taken.items() if found}
    assert models == {"evaluate", "confirm", "measure_cost", "probe"}
    assert all(taken[rule] == ["gpu=2", "nodes=1"] for rule in models)


def test_after_part_of_a_run_the_rest_is_left(lab: Laboratory) -> None:
    table = lab.results / "scores/confirm/tiny/none/passages.0.parquet"
    aside = table.rename(lab.folder / "aside")
    text = lab.snakemake("--dry-run", "--quiet", "all").stdout
    assert re.search(r"confirm: 1 in all, 1 left \(\d+ \w+\)\n", text)
    assert left_of(text)["tables"] == 1 and "aggregate: 3 in all, 1 left" in text
    assert left_of(text) == lab.jobs()
    aside.rename(table)
    assert lab.jobs() == Counter()


def test_a_wrong_variable_of_a_plan_ends_in_one_line(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRANKENLAB_GPUS", "four")
    done = lab.snakemake("--dry-run", check=False)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert 'FRANKENLAB_GPUS "four": a whole number from 1 on is expected' in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plns": []}, 'config: unknown key "plns"; did you mean "plans"?'),
        ({"plans": [{"generator": "layer", "layer": 4}]}, "the model has 4 layers"),
        ({"plans": []}, "the grid is empty"),
    ],
)
def test_a_wrong_config_ends_in_one_line(lab: Laboratory, change: dict, message: str) -> None:
    right = lab.config
    lab.config = right | change
    done = lab.snakemake("--dry-run", check=False)
    lab.config = right
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if message in line]
    assert len(lines) == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize("plan", ["0:3,1:4", "0:4,1x2@attn*-0.5,3"])
def test_a_checkpoint_of_any_plan_on_request_needs_no_search(lab: Laboratory, plan: str) -> None:
    target = f"results/tiny/checkpoints/tiny/{plan}"
    right = lab.config
    # Nothing of this experiment is there, so that a search would be listed.
    lab.config = right | {"experiment": "other"}
    other = target.replace("/tiny/", "/other/", 1)
    assert lab.jobs(other) == Counter(["materialize_franken"])
    assert "freeze" in lab.jobs("results/other/checkpoints/tiny/frozen")
    lab.config = right
    lab.snakemake(target)
    assert (lab.folder / target / "model.safetensors").is_file()


def test_a_checkpoint_of_a_wrong_plan_is_refused_before_anything_runs(lab: Laboratory) -> None:
    done = lab.snakemake("results/tiny/checkpoints/tiny/0:9", check=False)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert 'plan "0:9": 9 is too large, at most 4 can stand here' in done.stderr


def snapshot(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Every file but Snakemake's own and compiled code: time, size, hash."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if not {".snakemake", "__pycache__"} & set(path.parts):
            state = path.lstat()
            content = sha256_file(path) if path.is_file() else ""
            name = str(path.relative_to(folder))
            found[name] = (state.st_mtime_ns, state.st_size, content)
    return found


READING = [
    ("--dry-run",),
    ("--dry-run", "--forceall"),
    ("--lint",),
    ("--summary",),
    ("--dag",),
    ("--list-rules",),
    ("--list-changes", "input"),
]


def assert_reading_changes_nothing(lab: Laboratory) -> None:
    lab.write_config()
    before = snapshot(lab.folder)
    for arguments in READING:
        lab.snakemake(*arguments, check=False)
        assert snapshot(lab.folder) == before, arguments
    lab.command("plans", "--config", "tiny.yaml")
    assert snapshot(lab.folder) == before


def test_reading_changes_nothing_where_nothing_is_yet(tmp_path: Path) -> None:
    fresh = Laboratory(tmp_path)
    fresh.python = warm_python()
    assert_reading_changes_nothing(fresh)
    assert not (tmp_path / "results").exists() and not (tmp_path / "resources").exists()


def test_reading_changes_nothing_in_results_that_are_stale_damaged_or_foreign(
    lab: Laboratory,
) -> None:
    table = lab.results / "scores/search/tiny/none/animals.0.parquet"
    whole = table.read_bytes()
    foreign = lab.results / "mine.parquet"
    foreign.write_bytes(b"not parquet")
    table.write_bytes(whole[:100])
    lab.config["statistics"]["resamples"] = 300
    try:
        assert_reading_changes_nothing(lab)
        assert "evaluate" in lab.jobs()
        # Neither does a run delete what it would not make.
        lab.snakemake("results/tiny/scores/search/tiny/none/animals.0.parquet")
        assert foreign.read_bytes() == b"not parquet" and table.read_bytes() == whole
    finally:
        lab.config["statistics"]["resamples"] = 200
        foreign.unlink()
    lab.snakemake(SEARCH_TABLE)


def test_a_report_writes_its_page_alone(lab: Laboratory) -> None:
    lab.snakemake()
    before = snapshot(lab.folder)
    lab.snakemake("--report", "page.html")
    after = snapshot(lab.folder)
    assert after.pop("page.html")
    found = json.loads((lab.results / "report" / "answer.json").read_text())
    assert found["headline"] in (lab.folder / "page.html").read_text()
    assert {name: after.get(name) for name in before if name != "."} == before


def test_a_plan_that_leaves_layers_out_is_noticed_once(lab: Laboratory) -> None:
    right = lab.config
    lab.config = right | {"plans": [*right["plans"], {"generator": "explicit", "plans": ["0:3"]}]}
    done = lab.snakemake("--dry-run")
    lab.config = right
    text = "notice: tiny: plan 0:3 (explicit) never runs the layer 3 and ends with layer 2"
    assert done.stderr.count(text) == 1


def test_a_key_that_is_there_twice_is_refused_by_name(lab: Laboratory) -> None:
    lab.write_config()
    text = (lab.folder / "tiny.yaml").read_text()
    (lab.folder / "twice.yaml").write_text(text + "device: cuda\ndevice: cpu\n")
    done = lab.run("--dry-run", "--configfile", "twice.yaml")
    (lab.folder / "twice.yaml").unlink()
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert 'the key "device" is there twice' in done.stderr
