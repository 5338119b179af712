"""What the page's script reads: layers of plans, flipped documents and their texts."""

import json

import pandas as pd

from frankenlab.report import points
from frankenlab.report.points import page_data, runs
from tests.support import synthetic_tables as synthetic

ROW = {"model": "m", "quantization": "none", "stage": "search", "task": "t", "plan": "0:3,2:4"}


def read(tables: dict[str, pd.DataFrame]) -> dict:
    html = page_data(synthetic.results(tables))
    return json.loads(html[html.index(">") + 1 : html.index("</script>")])


def compared(*plans: str) -> pd.DataFrame:
    rows = [ROW | {"plan": plan, "depth": 4 + (plan != "base")} for plan in ("base", *plans)]
    return pd.DataFrame(rows)


def test_layers_are_runs_of_counts():
    assert runs([1, 1, 2, 0.5, 0.5]) == "2*1 1*2 2*0.5"
    found = read({"comparisons": compared("0:3,2:4", "not a plan")})
    assert found["layers"] == {"m": {"0:3,2:4": "2*1 1*2 1*1"}}
    assert read({}) == {"layers": {}, "flips": [], "documents": {}}


def test_documents_stand_beside_the_plan_that_flipped_them():
    changes = pd.DataFrame(
        [ROW | {"document": n, "change": c} for n, c in ((3, 1), (5, -1), (9, 1))]
    )
    documents = pd.DataFrame(
        [{"task": "t", "document": 3, "text": "Why?", "choices": '["a", "b"]', "answer": "b"}]
    )
    found = read({"flips": changes, "documents": documents})
    assert found["flips"] == [ROW | {"at": "unquantized", "up": [3, 9], "down": [5]}]
    assert found["documents"] == {"t": {"3": ["Why?", ["a", "b"], "b"]}}


def test_many_documents_have_short_texts(monkeypatch):
    rows = {"task": "t", "document": range(10), "text": "x" * 300, "choices": "[]", "answer": "y"}
    monkeypatch.setattr(points, "MOST_TEXT", 1000)
    found = read({"documents": pd.DataFrame(rows)})
    assert {len(text) for text, _, _ in found["documents"]["t"].values()} == {101}
