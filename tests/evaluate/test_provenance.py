import subprocess

import pytest

from frankenlab.config.experiment import check
from frankenlab.evaluate.provenance import commit, resolved
from tests.support.two_models import settings


def git(folder, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.slow
def test_the_commit_says_whether_files_differ_from_it(tmp_path):
    assert commit(tmp_path) is None
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("a = 1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-m", "first")
    found = commit(tmp_path)
    assert found and len(found) == 40
    (tmp_path / "results").write_text("not part of it")
    assert commit(tmp_path) == found
    (tmp_path / "code.py").write_text("a = 2\n")
    assert commit(tmp_path) == f"{found}, with uncommitted changes"


def test_a_broken_checkout_has_no_commit(tmp_path):
    (tmp_path / ".git").write_text("gitdir: nowhere")
    assert commit(tmp_path) is None


def test_settings_are_recorded_as_they_resolved():
    found = resolved(check(settings(engine="auto", device="cpu")))
    assert found["engine"] == "torch" and found["device"] == "cpu"
    assert found["precision"] == {
        "search": "float32",
        "select": "float32",
        "confirm": "float32",
    }
    assert found["seeds"]["statistics"] == 1 and "quantizer" not in found


def test_what_differs_between_weights_is_named():
    calibration = {"file": str(__file__), "field": "text"}
    several = settings(
        engine="auto",
        device="cuda",
        quantizations=["none", "exl2-4.0"],
        exl2={"calibration": calibration},
    )
    found = resolved(check(several))
    assert found["engine"]["small unquantized"] == "torch"
    assert found["engine"]["small at exl2-4.0"] == "exllamav2"
    assert found["precision"]["confirm"]["large at exl2-4.0"] == "float16"
    assert found["quantizer"] == "exllamav2"
