"""A command that looks like exllamav2's converter for the tiny model and fails as it does.

`python fake_converter.py MODE -i … -o … …`: the modes are in `main`. What it "quantizes" is the
fixture that the real converter made of the same model.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from tests.support.paths import DATA

# Attention and MLP of a layer of the tiny model, and the bits per weight of the options.
WEIGHTS = {"self_attn": 2 * 128 * 128 + 2 * 64 * 128, "mlp": 3 * 128 * 352}
OPTIONS = (2.5, 4.0, 8.0)


def measurement(mode: str) -> dict:
    found = {}
    for layer in range(1 if mode == "short" else 2):
        for part, weights in WEIGHTS.items():
            found[f"model.layers.{layer}.{part}"] = [
                {
                    "accuracy": float("nan") if mode == "nan-accuracy" else 0.9,
                    "total_bits": int(bits * weights),
                }
                for bits in OPTIONS
            ]
    return {"measurement": found, "last_module_idx": 6}


def state(folder: Path, progress: str, **more) -> None:
    (folder / "job_new.json").write_text(json.dumps({"progress": progress, **more}))


def hang_once(folder: Path, invalid: dict) -> None:
    """Saves a state and works for ever; the next time, says whether the state was still there."""
    marker = folder.parent.parent / "hung"
    if marker.exists():
        marker.write_text("resumed" if (folder / "half-done").exists() else "started clean")
        return
    marker.touch()
    state(folder, "quant", **invalid)
    (folder / "half-done").touch()
    print(" -- Saving checkpoint...", flush=True)
    while True:
        # As the real one it ends when nobody listens any more.
        print(" -- one more row", flush=True)
        time.sleep(0.05)


def main(mode: str, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    for flag in ("-i", "-o", "-om", "-m", "-cf", "-b", "-hb", "-c"):
        parser.add_argument(flag)
    for flag in ("-r", "-l", "-mr", "-ml"):
        parser.add_argument(flag, type=int)
    parser.add_argument("-nr", action="store_true")
    parser.add_argument("-so", "--status_output", action="store_true")
    given = parser.parse_args(arguments)
    folder = Path(given.o)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "seen.json").write_text(json.dumps(vars(given)))
    print(f" -- Beginning {'new job' if given.nr else 'or resuming'}")
    print('[STATUS]{"stage": "Measuring", "completion": 0.5}[/STATUS]')
    if mode == "says-error-exits-0":
        print(" ## Error: 7 is not a supported option for head layer bitrate")
        return
    if mode == "crash":
        print("torch.OutOfMemoryError: CUDA out of memory.")
        sys.exit(1)
    if mode == "internal-error":
        print(" ## Measurement/inference error (2)")
        print(" -- more words")
        sys.exit(1)
    if mode in ("hangs-once", "hangs-once-invalid"):
        hang_once(folder, {"invalid": True} if mode == "hangs-once-invalid" else {})
    if given.om:
        Path(given.om).write_text(json.dumps(measurement(mode)))
        state(folder, "finished")
        return
    print(f" -- Module quantized, calibration perplexity (quant): {perplexity(mode)}")
    compile_model(mode, given)
    state(folder, "finished")


def perplexity(mode: str) -> str:
    return {"nan-perplexity": "nan", "inf-perplexity": "inf"}.get(mode, "511.0301")


def compile_model(mode: str, given: argparse.Namespace) -> None:
    result = Path(given.cf)
    result.mkdir(parents=True)
    for path in Path(given.i).iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, result / path.name)
    if mode == "stale-index":
        (result / "model.safetensors.index.json").write_text("{}")
    if mode != "no-tensors":
        shutil.copy(DATA / "llama-tiny-exl2" / "output.safetensors", result)
    if mode == "cut-tensors":
        with (result / "output.safetensors").open("r+b") as file:
            file.truncate(100_000)
    if mode == "no-declaration":
        return
    config = json.loads((result / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "exl2",
        "version": "0.3.2",
        "bits": float(given.b),
        "head_bits": int(given.hb),
        "calibration": {"rows": given.r, "length": given.l, "dataset": "calibration.parquet"},
    }
    (result / "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
