"""The steps of the GPU check. Each takes the setup and a list to add its findings to, and raises
where something is not as it must be."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_measure import Rows, compare_engines, compare_reconstructions, compare_speed, small_plans
from gpu_models import (
    LARGE,
    TINY_EXL2,
    random_documents,
    read_texts,
    requests_from_tokens,
    tokenized,
    weights_of,
)
from random_models import random_exl2

from frankenlab.config.experiment import DEFAULT
from frankenlab.io.errors import UserError
from frankenlab.models.exl2.reading import Exl2Directory
from frankenlab.models.files import read_json, weight_files
from frankenlab.quantize.exllamav2.converter import Exllamav2Quantizer
from frankenlab.quantize.quantizer import measure_model, quantize_model

if TYPE_CHECKING:
    from benchmarks.speed.setting import Setting


@dataclass(frozen=True)
class Setup:
    """What the steps work with.

    Attributes:
        model: unquantized Hugging Face directory of the real model; None: steps that need one
            fail and say so.
        texts: file of calibration and evaluation texts; None: exllamav2's own.
        scratch: for everything that is made.
        bits: bitrates to convert to; the first is the one that is timed.
        large: config.json of the random models.
        config: of the experiment whose tokenizer, tasks and data the peers are compared on.
        peer_documents: of each of its tasks; peer_plans: plans that each peer is run on.
    """

    model: Path | None
    texts: Path | None
    scratch: Path
    device: str = "cuda"
    bits: tuple[float, ...] = (4.0, 6.0)
    head_bits: int = 6
    calibration_rows: int = 100
    row_length: int = 2048
    documents: int = 48
    large: dict[str, Any] | None = None
    config: Path = DEFAULT
    peer_documents: int = 300
    peer_plans: int = 2

    def converted(self, bits: float) -> Path:
        return self.scratch / f"{self.needed_model().name}-exl2-{bits}"

    def needed_model(self) -> Path:
        if self.model is None:
            raise UserError("no model was given: --model or --gguf")
        return self.model

    def existing(self) -> list[Path]:
        """The converted models that are there."""
        found = [d for d in map(self.converted, self.bits) if (d / "config.json").is_file()]
        if not found:
            raise UserError("there is no converted model: the step 'convert' makes them")
        return found


def compile_extension(setup: Setup, rows: Rows) -> None:
    started = time.monotonic()
    from exllamav2 import ext

    rows.append(("import of exllamav2, with its extension", f"{time.monotonic() - started:.1f} s"))
    rows.append(("extension", type(ext.exllamav2_ext).__name__))
    rows.append(("TORCH_CUDA_ARCH_LIST", os.environ.get("TORCH_CUDA_ARCH_LIST", "not set")))


def check_kernels(setup: Setup, rows: Rows) -> None:
    """Triton's kernels beside the same operations in torch."""
    if not setup.device.startswith("cuda"):
        rows.append(("Triton's kernels", "run on CUDA only"))
        return
    from gpu_kernels import compare_kernels

    compare_kernels(setup.device, rows)


def check_fixture(setup: Setup, rows: Rows) -> None:
    """What exllamav2's converter wrote elsewhere: dequantized and run by both engines."""
    compare_reconstructions(TINY_EXL2, setup.device, rows)
    documents = random_documents(512, 8, 96)
    compare_engines(TINY_EXL2, requests_from_tokens(documents), small_plans(2), setup.device, rows)


def convert(setup: Setup, rows: Rows) -> None:
    """One measurement, then every bitrate."""
    model, measurement = setup.needed_model(), setup.scratch / "measurement.json"
    texts = tuple(read_texts(setup.texts))
    quantizer = Exllamav2Quantizer(texts, rows=setup.calibration_rows, length=setup.row_length)
    if not measurement.is_file():
        started = time.monotonic()
        measure_model(quantizer, model, measurement, setup.scratch / "measuring")
        rows.append(("measurement", f"{time.monotonic() - started:.0f} s"))
    low, high = quantizer.attainable(model, read_json(measurement))
    rows.append(("attainable bits per weight", f"{low:.2f} to {high:.2f}"))
    for bits in setup.bits:
        started = time.monotonic()
        made = quantize_model(
            *(quantizer, model, setup.converted(bits), bits, setup.head_bits, measurement),
            *(setup.scratch / f"converting-{bits}", {"kind": "model", "key": f"{bits}"}),
        )
        rows.append(
            (
                f"at {bits} bits",
                f"{time.monotonic() - started:.0f} s; {made['bits_per_weight']:.3f} bits per "
                f"weight on disk; calibration perplexity {made['calibration_perplexity']:.2f}",
            )
        )


def check_converted(setup: Setup, rows: Rows) -> None:
    for directory in setup.existing():
        compare_reconstructions(directory, setup.device, rows)


def check_sweep(setup: Setup, rows: Rows) -> None:
    """Both engines on texts, over the plans of a small grid."""
    for directory in setup.existing():
        n_layers = Exl2Directory(directory).shape.n_layers
        # The last texts: the first are those that it was calibrated with.
        texts = list(reversed(read_texts(setup.texts)))
        documents = tokenized(texts, directory, setup.documents, 200)
        requests = requests_from_tokens(documents)
        compare_engines(directory, requests, small_plans(n_layers), setup.device, rows)


def time_converted(setup: Setup, rows: Rows) -> None:
    compare_speed(setup.existing()[0], setup.device, rows)


def time_large(setup: Setup, rows: Rows) -> None:
    """A random model of 7B's shape: made, checked against `reconstruct`, timed."""
    config = setup.large or LARGE
    started = time.monotonic()
    directory = random_exl2(setup.scratch / "random-large", config, setup.device)
    size = sum(path.stat().st_size for path in weight_files(directory)) / 1e9
    rows.append(
        (
            f"random model, {weights_of(config) / 1e9:.2f}e9 weights",
            f"made in {time.monotonic() - started:.0f} s, {size:.2f} GB",
        )
    )
    linears = sorted(Exl2Directory(directory).linears)
    compare_reconstructions(directory, setup.device, rows, linears[:7] + linears[-1:])
    requests = requests_from_tokens(random_documents(config["vocab_size"], 8, 96))
    plans = small_plans(config["num_hidden_layers"])[:2]
    compare_engines(directory, requests, plans, setup.device, rows)
    compare_speed(directory, setup.device, rows)


def peers_setting(setup: Setup, rows: Rows) -> "Setting":
    """Return the random model that the sweep and its peers run, and what they run it on."""
    from gpu_peers import random_with_tokenizer, setting_of

    scratch = setup.scratch / "peers"
    shapes = setup.large or LARGE
    model = random_with_tokenizer(scratch / "model", shapes, setup.config, setup.device, rows)
    return setting_of(
        *(model, setup.config, scratch, setup.device, setup.peer_documents, setup.peer_plans)
    )


def compare_peers(setup: Setup, rows: Rows) -> None:
    """Time the card's matrix products, the sweep, lm-eval in memory, and mergekit's merges."""
    from gpu_peers import time_harness, time_merges, time_products, time_sweeps

    setting = peers_setting(setup, rows)
    peak = time_products(setting.model, setup.device, rows)
    sweep = time_sweeps(setting, peak, rows)
    time_merges(setting, time_harness(setting, sweep, rows), sweep, rows)


def profile_peers_sweep(setup: Setup, rows: Rows) -> None:
    from gpu_peers import profile_sweep

    profile_sweep(peers_setting(setup, rows), rows)


# In this order; what each is called in the report.
STEPS: dict[str, tuple[str, Callable[[Setup, Rows], None]]] = {
    "kernels": ("The kernels in Triton", check_kernels),
    "extension": ("exllamav2's extension compiles and loads", compile_extension),
    "fixture": ("The tiny model that exllamav2 converted elsewhere", check_fixture),
    "large": ("A random model of 7B's shape", time_large),
    "convert": ("exllamav2's own converter", convert),
    "reconstruct": ("Dequantized weights, bit for bit", check_converted),
    "sweep": ("Log-probabilities of both engines", check_sweep),
    "speed": ("Tokens per second", time_converted),
    "peers": ("The sweep beside lm-evaluation-harness and mergekit", compare_peers),
    "profile": ("Where the sweep's time goes", profile_peers_sweep),
}
