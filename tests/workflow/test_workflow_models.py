"""Two tiny models in one experiment: overview, a page each, frozen plans on the other model.

A task of it is on the hub, and no job but a download has a network.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator

import pandas as pd
import pytest

from tests.support.hub import Hub, data_set, serving
from tests.support.laboratory import Laboratory
from tests.support.paths import ROOT
from tests.support.tiny import make_tiny_model

pytestmark = pytest.mark.slow


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving(Hub("owner/texts", {})) as served:
        yield served


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> Laboratory:
    laboratory = Laboratory(tmp_path_factory.mktemp("laboratory"))
    texts = laboratory.folder / "passages.jsonl"
    rows = [json.loads(line) for line in texts.read_text().splitlines()]
    hub.commits[COMMIT] = data_set({"default": {"validation": rows}})
    texts.unlink()
    path = laboratory.folder / "config/tasks/passages.yaml"
    path.write_text(
        path.read_text().replace(": local", ": owner/texts\nvalidation_split: validation")
    )
    del laboratory.config["tasks"]["passages"]["data"]
    forbidden = ROOT / "tests" / "support" / "no_network"
    laboratory.environment = {
        "PYTHONPATH": os.pathsep.join([str(forbidden), str(laboratory.folder / "src")]),
        "FRANKENLAB_TEST_NETWORK": str(laboratory.folder / "network"),
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(laboratory.folder / "hf"),
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    }
    make_tiny_model(laboratory.folder / "larger-model", n_layers=6, hidden=128)
    laboratory.config["models"]["larger"] = {"source": {"path": "larger-model"}, "n_layers": 6}
    laboratory.config["plans"] = [
        {"generator": "layer", "times": 2},
        {"generator": "block", "start": [0.25, 0.5], "length": 0.25, "times": [2, 3]},
    ]
    laboratory.config["stages"]["confirm"]["transfer"] = True
    laboratory.config["probe"] = {"documents": 0}
    del laboratory.config["tasks"]["liquids"]
    laboratory.snakemake()
    return laboratory


def test_downloads_alone_ask_for_the_network_and_say_what_they_got(
    lab: Laboratory, hub: Hub
) -> None:
    lines = [line.split() for line in (lab.folder / "network").read_text().splitlines()]
    assert {name for name, what, *_ in lines if what == "asked"} == {"download_data.py"}
    # The hub's libraries are told so, too, and downloads have the user's own setting.
    offline = {name: rest for name, what, *rest in lines if what == "offline"}
    for name in ("evaluate.py", "measure_cost.py", "flips.py", "plot.py"):
        assert offline[name] == ["1"]
    assert offline["download_data.py"] == offline["download_model.py"] == []
    assert any(path.endswith("validation.parquet") for path in hub.requests)
    (folder,) = (lab.folder / "resources/data").glob("owner-texts-*")
    assert json.loads((folder / "manifest.json").read_text())["revision"] == COMMIT
    made_with = json.loads((lab.results / "provenance.json").read_text())["data"]
    assert made_with[folder.name]["revision"] == COMMIT


# What jobs of each kind may import of the libraries that take long.
SCORING = {"torch", "transformers", "datasets", "lm_eval"}
NEEDED = {
    "download_data.py": {"datasets"},
    "construct_frankens.py": set(),
    "evaluate.py": SCORING,
    "aggregate.py": {"scipy.stats"},
    "shortlist.py": set(),
    "freeze.py": set(),
    "measure_cost.py": {"torch"},
    "flips.py": {"datasets", "lm_eval"},
    "tables.py": {"scipy.stats"},
    "provenance.py": set(),
    "plot.py": {"altair"},
    "ipykernel_launcher.py": {"altair"},
    "render_notebook.py": {"scipy.stats"},
}


def test_a_job_imports_what_it_needs(lab: Laboratory) -> None:
    lines = [line.split() for line in (lab.folder / "network").read_text().splitlines()]
    found: dict[str, set[str]] = {}
    for name, what, *libraries in lines:
        if what == "imported":
            found[name] = found.get(name, set()) | set(libraries)
    assert found.keys() >= NEEDED.keys()
    assert {
        name: found[name] - needed for name, needed in NEEDED.items() if found[name] - needed
    } == {}


def test_what_was_purged_is_fetched_again_and_nothing_else_runs(lab: Laboratory) -> None:
    (data,) = (lab.folder / "resources/data").glob("owner-texts-*/validation.parquet")
    (weights,) = (lab.folder / "resources/models").glob("tiny-*/model.safetensors")
    data.unlink()
    weights.unlink()
    assert not lab.jobs()
    assert lab.jobs("fetch") == Counter(["download_model", "download_data"])
    lab.snakemake("fetch")
    assert data.is_file() and weights.is_file()
    assert not lab.jobs() and not lab.jobs("fetch")


def table(lab: Laboratory, name: str) -> pd.DataFrame:
    return pd.read_parquet(lab.results / "tables" / f"{name}.parquet")


def test_the_models_see_the_same_documents(lab: Laboratory) -> None:
    for stage, task in (("search", "animals"), ("select", "animals"), ("confirm", "passages")):
        keys = [
            set(
                pd.read_parquet(lab.results / f"scores/{stage}/{model}/none/{task}.0.parquet")[
                    "key"
                ]
            )
            for model in ("tiny", "larger")
        ]
        assert keys[0] == keys[1] != set()


def test_each_frozen_plan_ran_on_the_other_model_without_a_verdict(lab: Laboratory) -> None:
    moved = table(lab, "transfer")
    frozen = {
        model: json.loads((lab.results / f"frozen/{model}.json").read_text())
        for model in ("tiny", "larger")
    }
    there = moved[moved["source"] != moved["model"]]
    assert set(there["model"]) == {"tiny", "larger"} and (there["n"] > 10).all()
    claimed = table(lab, "verdicts")
    for row in there.itertuples():
        allowed = [frozen[row.model]["frozen"], *frozen[row.model]["controls"]]
        named = claimed[(claimed["model"] == row.model) & (claimed["plan"] == row.plan)]
        assert row.plan in allowed or named.empty
    assert set(claimed["group"]) == {"frozen", "control"}
    timed = table(lab, "costs").groupby("model").size()
    assert (timed <= 2 + len(frozen["tiny"]["controls"])).all()


def test_designs_are_compared_between_the_models(lab: Laboratory) -> None:
    found = table(lab, "sizes")
    assert {"line", "single", "frozen", "transferred"} == set(found["design"])
    larger = found[(found["model"] == "larger") & (found["against"] == "tiny")]
    assert larger["difference"].notna().all() and set(larger["shared"]) <= {20, 30, 16}
    assert set(table(lab, "family")["model_a"]) == {"tiny"}


def test_the_first_page_links_to_a_page_of_each_model(lab: Laboratory) -> None:
    first = (lab.results / "report" / "index.html").read_text()
    assert 'id="overview"' in first and 'id="size"' in first and 'id="transfer"' in first
    for model in ("tiny", "larger"):
        assert f'href="model.{model}.html"' in first
        page = (lab.results / "report" / f"model.{model}.html").read_text()
        assert 'href="index.html"' in page and 'id="verdict"' in page
        assert set(re.findall(r'data-model="(\w+)"', page)) == {model}
        assert len(page) < 8e6
    assert first.count("<figure") == 2 and "Not drawn" not in first
    # Everything is there: a second run has nothing to do.
    assert not lab.jobs()


def test_a_plan_is_transferred_between_models_only(lab: Laboratory) -> None:
    alone = lab.config | {"models": {"tiny": lab.config["models"]["tiny"]}}
    lab.config, whole = alone, lab.config
    done = lab.snakemake("--dry-run", check=False)
    lab.config = whole
    assert done.returncode and "stages.confirm.transfer: there is one model only" in (
        done.stdout + done.stderr
    )
