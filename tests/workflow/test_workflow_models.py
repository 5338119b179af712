"""Two tiny models in one experiment: overview, a page each, frozen plans on the other model."""

import json
import re

import pandas as pd
import pytest

from tests.support.laboratory import Laboratory
from tests.support.tiny import make_tiny_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    laboratory = Laboratory(tmp_path_factory.mktemp("laboratory"))
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
