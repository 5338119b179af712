"""Do both engines work on this machine's GPU, are they right, and how fast are they?

One command, which needs no network: it tries the kernels in Triton, compiles exllamav2's extension,
compares its dequantized weights with ours bit for bit, converts a model with exllamav2's own
converter, compares both engines' log-probabilities, and times them, the sweep beside
lm-evaluation-harness and mergekit where these are installed, and all beside the card's matrix peak.
A step that fails is a line in the table; the others go on, and the exit status is 1.

    python benchmarks/gpu_check.py --model DIR --texts FILE --out benchmarks/gpu.md

Where packages are missing, --wheels names a folder of wheels to take them from; a GGUF that
travelled in parts is put together by --pieces. What was made is kept in --scratch, so that a
second command goes on with other --steps, and --earlier puts both into one report.
"""

import argparse
import importlib.util
import json
import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
STEP_NAMES = ("kernels", "extension", "fixture", "large", "convert", "reconstruct", "sweep")
STEP_NAMES += ("speed", "peers", "profile")


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", type=Path, help="a Hugging Face directory of LLaMA's shape")
    parser.add_argument("--gguf", type=Path, help="the model as a GGUF, instead of --model")
    parser.add_argument(
        "--pieces", type=Path, nargs="+", help="the GGUF in parts, in their order; joined as --gguf"
    )
    parser.add_argument(
        "--texts", type=Path, help="text, Arrow or Parquet file; else exllamav2's own texts"
    )
    parser.add_argument("--wheels", type=Path, help="folder of wheels of packages that are missing")
    parser.add_argument("--out", type=Path, default=Path("gpu-check.md"), help="the report")
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/frankenlab-gpu-check"))
    parser.add_argument("--steps", nargs="+", choices=STEP_NAMES, default=list(STEP_NAMES))
    parser.add_argument("--bits", type=float, nargs="+", default=[4.0, 6.0])
    parser.add_argument("--calibration-rows", type=int, default=100)
    parser.add_argument("--row-length", type=int, default=2048, help="tokens of a row")
    parser.add_argument(
        "--config",
        type=Path,
        default=HERE.parent / "config" / "config.yaml",
        help="experiment whose tokenizer, tasks and data the peers are compared on",
    )
    parser.add_argument("--peer-documents", type=int, default=300, help="of each of its tasks")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--large", type=Path, help="config.json of the random models, else a 7B's")
    parser.add_argument(
        "--limit", type=float, default=3600, help="seconds after which no step is begun"
    )
    parser.add_argument(
        "--earlier", type=Path, help="the .json of an earlier report, to go on with"
    )
    parser.add_argument("--commit", help="of the code, where this is no checkout")
    found = parser.parse_args(given)
    if found.pieces and not found.gguf:
        found.gguf = found.scratch / "joined.gguf"
    return found


def prepare(given: argparse.Namespace) -> None:
    """Paths and settings that this process and the converter's must share."""
    site = given.scratch / "site"
    paths = [str(SOURCE), str(HERE), str(HERE.parent), str(site)]
    sys.path[:0] = paths
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(given.scratch / "extensions"))
    # Without flash-attn, exllamav2's attention by torch's SDPA sees the future (0.2.9 to 0.3.2).
    os.environ["EXLLAMA_NO_SDPA"] = "1"
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TQDM_DISABLE"):
        os.environ.setdefault(name, "1")
    if given.wheels:
        install_missing(given.wheels, site)
    if headers := cuda_headers():
        os.environ.setdefault("CPATH", os.pathsep.join(headers))


def cuda_headers() -> list[str]:
    """The headers that torch's CUDA packages bring: a compiler of CUDA from packages has no others,
    and exllamav2's extension needs those of the libraries."""
    spec = importlib.util.find_spec("nvidia")
    folders = spec.submodule_search_locations if spec else None
    found = (path for folder in folders or () for path in Path(folder).glob("cu[0-9]*/include"))
    return [str(path) for path in sorted(found)]


def install_missing(wheels: Path, site: Path) -> None:
    """Unpacks those wheels whose packages cannot be imported here."""
    missing = [
        wheel
        for wheel in sorted(wheels.glob("*.whl"))
        if importlib.util.find_spec(wheel.name.partition("-")[0]) is None
    ]
    if missing:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        subprocess.run([*pip, "--target", str(site), *map(str, missing)], check=True)
        importlib.invalidate_caches()


def gpu_name() -> str | None:
    """The first GPU and its architecture, for which the extension is compiled; None: no GPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", f"{major}.{minor}")
    os.environ.setdefault("MAX_JOBS", str(os.cpu_count() or 1))
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return f"{torch.cuda.get_device_name()}, {memory:.0f} GiB, sm_{major}{minor}"


def run(given: argparse.Namespace, gpu: str, command: str) -> int:
    """Runs the steps; 1 if any failed."""
    from gpu_measure import free_memory
    from gpu_report import Report, run_step
    from gpu_steps import STEPS, Setup

    started = time.monotonic()
    report = Report(given.out, gpu, [command], given.commit)
    if given.earlier:
        report.take(given.earlier)
    model: Path | None = given.model

    def load_model(rows: list[tuple[str, str]]) -> None:
        nonlocal model
        from gpu_models import join_pieces, model_directory

        if given.pieces:
            join_pieces(given.pieces, given.gguf)
        model = model_directory(given.gguf, given.scratch)
        rows.append(("model", model.name))

    def too_late(rows: list[tuple[str, str]]) -> None:
        raise TimeoutError(f"not begun: {given.limit:.0f} s had passed")

    if given.gguf:
        report.record(run_step("model", "The model that was carried here", load_model))
    setup = Setup(
        model,
        given.texts,
        given.scratch,
        bits=tuple(given.bits),
        calibration_rows=given.calibration_rows,
        row_length=given.row_length,
        device=given.device,
        large=json.loads(given.large.read_text()) if given.large else None,
        config=given.config,
        peer_documents=given.peer_documents,
    )
    for name in (step for step in STEP_NAMES if step in given.steps):
        title, work = STEPS[name]
        late = time.monotonic() - started > given.limit
        step = too_late if late else partial(work, setup)
        report.record(run_step(name, title, step))
        free_memory()
    print(f"\n{report.page()}", flush=True)
    return int(any(result.error for result in report.results))


def main(given: Sequence[str] = sys.argv[1:]) -> int:
    found = arguments(given)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    prepare(found)
    gpu = gpu_name() if found.device == "cuda" else "none: on the CPU"
    if gpu is None:
        print("gpu-check: torch finds no CUDA device here, so there is nothing to check")
        return 1
    shown = Path(__file__).resolve().relative_to(HERE.parent)
    return run(found, gpu, f"python {shown} {shlex.join(given)}")


if __name__ == "__main__":
    sys.exit(main())
