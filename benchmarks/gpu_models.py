"""What the GPU check works on: a real model from wherever it was carried, a random large one, and
texts."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch

from frankenlab.batches import TokenRequest
from frankenlab.directories import make_directory
from frankenlab.errors import UserError
from frankenlab.exl2.declaration import Declaration
from frankenlab.exl2.format import QuantizedLinear, padded
from frankenlab.exl2.packing import packed_words
from frankenlab.exl2.shapes import HEAD, ModelShapes
from frankenlab.exl2.writing import stored_tensors, write_exl2
from frankenlab.fetching import fetch_model
from frankenlab.sources import Source

FIXTURES = Path(__file__).resolve().parents[1] / "tests" / "data"
TINY_HF, TINY_EXL2 = FIXTURES / "llama-tiny-hf", FIXTURES / "llama-tiny-exl2"

# The shape of LLaMA 7B (Touvron et al. 2023).
LARGE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 4096,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
}
GROUP = 128  # inputs of a group, as exllamav2 takes them at 4 bits and more

# Standard deviation of code − 2^(b−1) over uniform codes, times that of (s + 1)² over uniform s.
SPREAD = {bits: ((4**bits - 1) / 12) ** 0.5 * 123.5 for bits in (4, 5)}

SHORTEST = 24  # tokens of a document

TEXT_FILES = (".txt", ".utf8", ".md")
TEXT_COLUMNS = ("passage", "text", "question")


def join_pieces(pieces: Sequence[Path], target: Path) -> Path:
    """One file out of parts, in their order."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as whole:
        for piece in pieces:
            with piece.open("rb") as part:
                shutil.copyfileobj(part, whole)
    return target


def model_directory(source: Path, scratch: Path) -> Path:
    """A Hugging Face directory of the model: the source itself, or what its GGUF becomes."""
    if source.is_dir():
        return source
    target = scratch / f"{source.stem}-hf"
    fetch_model(Source("path", str(source)), target, None, f"{source.name}, dequantized")
    return target


def read_texts(path: Path | None) -> list[str]:
    """Paragraphs of a text file, or rows of an Arrow or Parquet file; without one, the articles
    that exllamav2 calibrates with."""
    if path is None:
        path = _standard_texts()
    if path.suffix in TEXT_FILES:
        parts = path.read_text(errors="replace").split("\n\n")
    else:
        parts = _column(path)
    texts = list(dict.fromkeys(part.strip() for part in parts if len(part) > 200))
    if not texts:
        raise UserError(f"{path}: it has no text of 200 characters")
    return texts


def _standard_texts() -> Path:
    from importlib.util import find_spec

    spec = find_spec("exllamav2")
    if spec is None or spec.origin is None:
        raise UserError("no texts were given, and exllamav2, which has some, is not installed")
    return Path(spec.origin).parent / "conversion" / "standard_cal_data" / "wiki.utf8"


def _column(path: Path) -> list[str]:
    import pyarrow
    from pyarrow import parquet

    if path.suffix == ".parquet":
        table = parquet.read_table(path)
    else:
        with pyarrow.memory_map(str(path)) as source:
            try:
                table = pyarrow.ipc.open_stream(source).read_all()
            except pyarrow.ArrowInvalid:
                table = pyarrow.ipc.open_file(source).read_all()
    for name in TEXT_COLUMNS:
        if name in table.column_names:
            return [text or "" for text in table[name].to_pylist()]
    raise UserError(f"{path}: none of its columns is {', '.join(TEXT_COLUMNS)}")


def requests_from_tokens(
    documents: Sequence[Sequence[int]], scored: int = 8, branch: int = 4
) -> list[list[TokenRequest]]:
    """Requests of one token each, so that every log-probability can be compared: the last `scored`
    tokens of a document, and the first `branch` tokens of the next one in their place."""
    requests = []
    for number, tokens in enumerate(documents):
        tokens, other = tuple(tokens), tuple(documents[(number + 1) % len(documents)][:branch])
        start = len(tokens) - scored
        own = [TokenRequest(tokens[:k], tokens[k : k + 1]) for k in range(start, len(tokens))]
        context = tokens[:start]
        requests.append(own)
        requests[-1] += [
            TokenRequest(context + other[:k], other[k : k + 1]) for k in range(len(other))
        ]
    return requests


def tokenized(texts: Sequence[str], directory: Path, count: int, longest: int) -> list[list[int]]:
    """Documents of different lengths up to `longest`, each of SHORTEST tokens at least."""
    from frankenlab.models import load_tokenizer

    tokenizer = load_tokenizer(directory)
    documents: list[list[int]] = []
    for text in texts:
        length = SHORTEST + (37 * len(documents)) % (longest - SHORTEST)
        tokens = tokenizer.encode(text[: 20 * length], add_special_tokens=False)[:length]
        if len(tokens) >= SHORTEST:
            documents.append(tokens)
        if len(documents) == count:
            return documents
    raise UserError(
        f"the texts make {len(documents)} documents of {SHORTEST} tokens; {count} are needed"
    )


def random_documents(vocabulary: int, count: int, length: int) -> list[list[int]]:
    """Documents of one length: a measurement of speed without padding."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary, (count, length), generator=generator).tolist()


def random_exl2(target: Path, config: Mapping[str, Any], device: str) -> Path:
    """A valid EXL2 directory of random weights: of the right shapes and sizes, without meaning.

    An eighth of each layer's groups has 5 bits, the others 4, as a 4-bit model of exllamav2 has.
    """
    declared = Declaration("random codes of the GPU check", bits=4.0, head_bits=4)

    def fill(directory: Path) -> dict[str, Any]:
        write_exl2(directory, config, declared, _random_tensors(config, device))
        return {"quantizer": declared.quantizer}

    make_directory(target, {"kind": "random", "key": target.name, "config": dict(config)}, fill)
    return target


def _random_tensors(config: Mapping[str, Any], device: str) -> Iterator[tuple[str, torch.Tensor]]:
    shapes = ModelShapes.from_config(config)
    torch.manual_seed(0)
    for name, shape in shapes.others.items():
        if len(shape) == 1:
            yield name, torch.ones(shape)
        else:
            yield name, torch.randn(shape, device=device, dtype=torch.float16)
    for name, (outputs, inputs) in shapes.linears.items():
        if not (name == HEAD and shapes.tied):
            linear = random_linear(outputs, inputs, device)
            yield from stored_tensors(name, linear).items()


def random_linear(outputs: int, inputs: int, device: str) -> QuantizedLinear:
    """Random codes, scales and order; weights of standard deviation 0.5 / sqrt(inputs)."""
    sizes = [min(GROUP, inputs - start) for start in range(0, inputs, GROUP)]
    bits = [5 if number < len(sizes) / 8 else 4 for number in range(len(sizes))]
    entries, word = [], 0
    for width, rows in zip(bits, sizes, strict=True):
        entries += [width, word]
        word += packed_words(rows, width)
    stored = padded(outputs)

    def words(*shape: int) -> torch.Tensor:
        return torch.randint(-(2**31), 2**31, shape, dtype=torch.int32, device=device)

    largest = [0.5 * 256 / (SPREAD[width] * inputs**0.5) for width in bits]
    return QuantizedLinear(
        q_weight=words(word, stored),
        q_scale=words(len(sizes), stored // 8),
        q_scale_max=torch.tensor(largest, dtype=torch.float16),
        q_groups=torch.tensor(entries, dtype=torch.int32).to(torch.int16),
        q_invperm=torch.randperm(inputs, device=device).to(torch.int32),
    )


def weights_of(config: Mapping[str, Any]) -> int:
    """Weights of the linear layers and the embeddings."""
    shapes = ModelShapes.from_config(config)
    return sum(prod(shape) for shape in (*shapes.linears.values(), *shapes.others.values()))
