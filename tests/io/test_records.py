"""JSON files that jobs write for each other: read as what they were written as, or refused."""

import json

import pytest

from frankenlab.analyse.selection import Frozen
from frankenlab.io.errors import UserError
from frankenlab.io.records import read_record
from frankenlab.models.directory import model_shape
from frankenlab.models.franken import Manifest, plans_of
from frankenlab.models.shape import ModelShape
from tests.support.processes import one_line

FREEZE = {
    "model": "m",
    "frozen": "0:3,1:4",
    "group": "rys",
    "controls": ["0:2,0:4"],
    "finalists": ["0:2,1:4"],
    "reference_quantization": "none",
    "as_good": ["0:3,1:4", "0:2,1:4"],
    "same_plan": 0.5,
    "reason": "the cheapest",
}


def written(tmp_path, text: str):
    path = tmp_path / "it.json"
    path.write_text(text)
    return path


def test_what_was_written_is_read_and_may_say_more(tmp_path):
    found = read_record(written(tmp_path, json.dumps(FREEZE | {"more": 1})), Frozen)
    assert found == FREEZE | {"more": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"model": "m", "fro', "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "should be an object"),
        (
            json.dumps(FREEZE | {"controls": ["0:2", None]}),
            "valid string, not None",
        ),
        (json.dumps({k: v for k, v in FREEZE.items() if k != "frozen"}), "frozen: Field required"),
    ],
)
def test_what_is_damaged_is_refused_with_the_file_and_the_place(tmp_path, text, said):
    path = written(tmp_path, text)
    with pytest.raises(UserError) as error:
        read_record(path, Frozen)
    assert said in one_line(error) and str(error.value).startswith(f"{path}: ")
    assert "run again" in str(error.value)


def test_bytes_that_are_no_text_and_files_that_are_not_there_are_refused(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe{}")
    for name, said in (("bytes", "not JSON"), ("absent", "no such file"), ("", "directory")):
        with pytest.raises(UserError) as error:
            read_record(tmp_path / name, list[tuple[str, str]])
        assert said in one_line(error)


def test_a_count_is_no_fraction(tmp_path):
    (tmp_path / "it.json").write_text(
        json.dumps({"model": "m", "quantization": "none", "n_layers": 4.0, "frankens": []})
    )
    with pytest.raises(UserError, match="n_layers: Input should be a valid integer.*, not 4.0"):
        read_record(tmp_path / "it.json", Manifest)


@pytest.mark.parametrize(
    ("plan", "occurrences", "said"),
    [
        ("0:99", [], "99"),
        ("0:2", [[0, "block", 1.0]], "does not match its occurrences"),
        ("0:2", [[0, "block", 1.0], [1, "block"]], "does not match its occurrences"),
        ("0:2", ["x", None], "does not match its occurrences"),
    ],
)
def test_plans_whose_steps_are_others_are_refused(plan, occurrences, said):
    with pytest.raises(UserError) as error:
        plans_of({"n_layers": 4, "frankens": [{"plan": plan, "occurrences": occurrences}]})
    assert said in one_line(error)


def test_limits_of_a_list_count(tmp_path):
    path = written(tmp_path, "[1, 2, 3]")
    assert read_record(path, tuple[int, int, int]) == [1, 2, 3]
    with pytest.raises(UserError, match="3: Field required"):
        read_record(path, tuple[int, int, int, int])
    with pytest.raises(UserError, match="should be an object"):
        read_record(path, Manifest)


def test_the_shape_in_a_manifest_is_that_of_a_model(tiny):
    info = model_shape(tiny())
    assert ModelShape.from_manifest({"shape": info.to_manifest()}, "m") == info
    wrong = [{"n_layers": "4"}, {"parameters_head": {}}, {"n_layers": 4.0}, {"more": 1}]
    for changed in [*wrong, {"parameters_mlp": 3}]:
        with pytest.raises(UserError) as error:
            ModelShape.from_manifest({"shape": info.to_manifest() | changed}, "m")
        assert "no shape of the model" in one_line(error)
