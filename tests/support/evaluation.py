"""Evaluations as tests watch them: what is computed, what is stored, and what comes out."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from frankenlab.engines.torch import TorchEngine
from frankenlab.evaluate import sweep
from frankenlab.evaluate.model_spec import ModelSpec
from frankenlab.evaluate.store import Store
from frankenlab.plans.plan import looped
from tests.support.models import parse_all

MANY = [looped(i, j, k, 4) for i in range(4) for j in range(i + 1, 5) for k in (2, 3)]
FEW = parse_all(["base", "0:3,1:4", "0:2,1:4"])


def note(add, set_attribute=setattr, after=lambda: None) -> None:
    """Has `add` called with every pair that is computed, and `after` when its plan is done."""
    arrived = sweep.arrived

    def noting(results):
        for where, rows in arrived(results):
            for row in rows:
                add((row.plan, row.requests))
            after()
            yield where, rows

    set_attribute(sweep, "arrived", noting)


def stored(store: Store) -> Counter[tuple[str, str]]:
    """What the part files hold, read one by one; each must be whole."""
    tables = [pq.read_table(path) for path in sorted(store.folder.glob("part-*"))]
    return Counter(
        pair
        for table in tables
        for pair in zip(*(table[name].to_pylist() for name in ("plan", "requests")), strict=True)
    )


def assert_same_table(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Batches may differ, and with them the rounding."""
    pd.testing.assert_frame_equal(
        found.drop(columns="loglikelihoods"), expected.drop(columns="loglikelihoods"), atol=1e-4
    )
    for one, other in zip(found["loglikelihoods"], expected["loglikelihoods"], strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def must_not_be_loaded() -> TorchEngine:
    pytest.fail("the model was loaded")


def spec_of(directory: Path, **changes) -> ModelSpec:
    return replace(ModelSpec.for_directory(directory, "float32", "cpu"), **changes)
