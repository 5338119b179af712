"""exllamav2's quantizer with a converter that only looks like exllamav2's (see fake_converter)."""

import sys
from pathlib import Path
from typing import Any

from frankenlab.quantize.exllamav2.converter import Exllamav2Quantizer
from frankenlab.quantize.quantizer import quantize_model
from tests.support.paths import DATA, SUPPORT

MODEL = DATA / "llama-tiny-hf"
# What the fake converter "makes", whatever it is asked for.
FIXTURE_BITS = 3.9513
CORPUS = "The river runs past the old mill, and the miller's children run after it. "
TEXTS = tuple(f"{number}. {CORPUS * 20}" for number in range(20))
SMALL = {"measured_rows": 2, "rows": 2, "length": 64}


def fake(mode: str = "works", **more: Any) -> Exllamav2Quantizer:
    """The quantizer with the fake converter in one of its modes."""
    command = (sys.executable, str(SUPPORT / "fake_converter.py"), mode)
    return Exllamav2Quantizer(**{"texts": TEXTS, "command": command, **SMALL, **more})


def make(
    folder: Path,
    measurement: Path,
    mode: str = "works",
    bits: float = FIXTURE_BITS,
    head_bits: int = 6,
    model: Path = MODEL,
) -> dict[str, Any]:
    """Quantizes the tiny model to `folder`/exl2, with the work in `folder`/work."""
    facts = {"kind": "model", "key": "tiny-4", "source": "tests"}
    return quantize_model(
        *(fake(mode), model, folder / "exl2", bits, head_bits, measurement),
        *(folder / "work", facts),
    )
