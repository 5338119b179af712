"""What the GPU check works on: a real model from wherever it was carried, the shape of a large one,
and texts."""

import shutil
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch

from frankenlab.engines.token_tree import TokenRequest
from frankenlab.io.errors import UserError
from frankenlab.models.fetch import fetch_model
from frankenlab.models.shape import ModelShape
from frankenlab.models.sources import Source

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
    from frankenlab.models.tokenizer import load_tokenizer

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


def weights_of(config: Mapping[str, Any]) -> int:
    """Weights of the linear layers and the embeddings."""
    shapes = ModelShape.from_config(config)
    return sum(prod(shape) for shape in (*shapes.linears.values(), *shapes.others.values()))
