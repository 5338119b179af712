"""Fixtures of the tests of engines."""

from pathlib import Path

import pytest

from tests.support.exl2_models import EXL2_VARIANTS, FIXTURE
from tests.support.tiny import make_tiny_exl2


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """Return a function: name of a variant -> directory of that tiny EXL2 model."""
    made = {"fixture": FIXTURE}

    def get(variant: str) -> Path:
        if variant not in made:
            target = tmp_path_factory.mktemp("exl2") / variant
            made[variant] = make_tiny_exl2(target, **EXL2_VARIANTS[variant])
        return made[variant]

    return get
