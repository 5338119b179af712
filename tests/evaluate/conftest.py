"""Fixtures of the tests of evaluations."""

from pathlib import Path

import pytest

from tests.support.evaluation import note
from tests.support.tiny import make_tiny_exl2, make_tiny_model


@pytest.fixture
def noted(monkeypatch) -> list[tuple[str, str]]:
    """The (plan, requests) pairs that are computed, as they are."""
    pairs: list[tuple[str, str]] = []
    note(pairs.append, monkeypatch.setattr)
    return pairs


@pytest.fixture(scope="module")
def exl2(tmp_path_factory) -> Path:
    """Return the directory of a tiny EXL2 model with a tokenizer."""
    folder = tmp_path_factory.mktemp("exl2")
    directory = make_tiny_exl2(folder / "model")
    for path in make_tiny_model(folder / "tokenizer").glob("*token*"):
        path.rename(directory / path.name)
    return directory
