"""GPTQ beside round-to-nearest, in the same format with the same bits for every layer.

Prints a Markdown table: word perplexity of passages that no calibration text is among, with the
weights as distributed and at several bitrates.

    python benchmarks/quantizers.py MODEL DATA.arrow --passages 300
"""

import argparse
import math
import re
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from frankenlab.io.errors import UserError
from frankenlab.io.files import content_hash
from frankenlab.models.exl2.reading import Exl2Directory
from frankenlab.models.tokenizer import load_tokenizer
from frankenlab.quantize.calibration import calibration_rows, calibration_texts
from frankenlab.quantize.quantizer import measure_model, quantize_model
from frankenlab.quantize.reference import ReferenceQuantizer
from frankenlab.tasks.data_files import read_data
from frankenlab.tasks.encoding import Encoder


def held_out(file: Path, field: str, count: int) -> list[str]:
    """Passages from the other end of the order that calibration texts are taken from."""
    return sorted(set(read_data(file)[field]), key=content_hash)[:count]


@torch.inference_mode()
def perplexities(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> tuple[float, float]:
    """Per word, as lm-evaluation-harness counts words, and per token."""
    encoder = Encoder(tokenizer, model.config.max_position_embeddings)
    total, words, tokens = 0.0, 0, 0
    for text in texts:
        ids = torch.tensor([[encoder.prefix_token_id, *encoder.tok_encode(text)]])
        logprobs = model(ids[:, :-1]).logits[0].log_softmax(-1)
        total -= float(logprobs.gather(1, ids[0, 1:, None]).double().sum())
        words += len(re.split(r"\s+", text))
        tokens += ids.shape[1] - 1
    return math.exp(total / words), math.exp(total / tokens)


def load(model: Path, exl2: Path | None = None) -> torch.nn.Module:
    """The model in float32, with the weights that an EXL2 directory of it stands for."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    if exl2 is not None:
        made = Exl2Directory(exl2)
        # The quantized head is not the embeddings any more.
        loaded.lm_head.weight = torch.nn.Parameter(torch.empty_like(loaded.lm_head.weight))
        for name, parameter in loaded.named_parameters():
            parameter.data = made.get(name, torch.float32)
    return loaded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a model directory with unquantized weights")
    parser.add_argument("data", type=Path, help="an .arrow, .parquet or .jsonl file of texts")
    parser.add_argument("--field", default="passage", help="the field that holds the text")
    parser.add_argument("--passages", type=int, default=200, help="held-out texts")
    parser.add_argument("--texts", type=int, default=300, help="calibration texts, at most")
    parser.add_argument("--rows", type=int, default=64, help="rows of calibration tokens")
    parser.add_argument("--measured-rows", type=int, default=16, help="rows to choose options by")
    parser.add_argument("--methods", nargs="+", default=["gptq", "rtn"], help="gptq, rtn")
    parser.add_argument("--length", type=int, default=256, help="tokens in a row")
    parser.add_argument("--bits", type=float, nargs="+", default=[6.0, 4.0, 3.0])
    parser.add_argument("--head-bits", type=int, default=6)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    texts = calibration_texts(arguments.data, arguments.field, arguments.texts)
    passages = held_out(arguments.data, arguments.field, arguments.passages)
    if not set(passages).isdisjoint(texts):
        raise UserError("calibration and held-out texts overlap; ask for fewer of either")
    tokenizer = load_tokenizer(arguments.model)
    rows = calibration_rows(texts, tokenizer, arguments.rows, arguments.length)
    print("| weights | bits per weight | word perplexity | token perplexity | seconds |")
    print("|---|---|---|---|---|")

    def line(name: str, bits: str, model: torch.nn.Module, seconds: float | None) -> None:
        word, token = perplexities(model, tokenizer, passages)
        spent = "" if seconds is None else f"{seconds:.0f}"
        print(f"| {name} | {bits} | {word:.2f} | {token:.2f} | {spent} |", flush=True)

    line("as distributed", "16", load(arguments.model), None)
    with tempfile.TemporaryDirectory() as folder:
        work, measurement = Path(folder) / "work", Path(folder) / "measurement.json"
        begun = time.monotonic()
        quantizer = ReferenceQuantizer(rows, {}, measured_rows=arguments.measured_rows)
        measure_model(quantizer, arguments.model, measurement, work)
        measuring = time.monotonic() - begun
        for bits in arguments.bits:
            for method in arguments.methods:
                target = Path(folder) / f"{method}-{bits}"
                begun = time.monotonic()
                manifest = quantize_model(
                    *(replace(quantizer, method=method), arguments.model, target, bits),
                    *(arguments.head_bits, measurement, work, {"key": target.name}),
                )
                spent = time.monotonic() - begun
                stored = f"{manifest['bits_per_weight']:.3f}"
                line(f"{method} {bits}", stored, load(arguments.model, target), spent)
    print(f"\nMeasuring all options, once for all bitrates: {measuring:.0f} seconds; ", end="")
    print(f"{arguments.threads} threads, {arguments.rows} rows of {arguments.length} tokens,")
    print(f"{arguments.measured_rows} of them to choose the options by,")
    print(f"{len(passages)} held-out passages, {arguments.head_bits} bits for the head.")


if __name__ == "__main__":
    main()
