"""Small files of every kind that Frankenlab reads, and how it reads them."""

import gzip
import json
import random
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tiny import make_tiny_model

from frankenlab.directories import complete_manifest
from frankenlab.engines.torch import TorchEngine
from frankenlab.export import materialize
from frankenlab.fetching import fetch_model
from frankenlab.footprints import Footprint
from frankenlab.models import check_llama_shaped, load_tokenizer, model_info
from frankenlab.plans import base, parse
from frankenlab.sources import source_from_config
from frankenlab.store import Row, Store
from frankenlab.tasks import read_data

from .files import TESTS, Subject

datasets.disable_progress_bars()
EXL2 = TESTS / "data" / "llama-tiny-exl2"
SMALL = {"n_layers": 2, "hidden": 16, "heads": 2, "kv_heads": 1, "vocab": 258}


def tiny_model(folder: Path) -> None:
    make_tiny_model(folder, **SMALL)


def tiny_shards(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    tiny_model(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="15KB")


def tiny_exl2(folder: Path) -> None:
    shutil.copytree(EXL2, folder, dirs_exist_ok=True)


def read_model(folder: Path) -> None:
    """What every job does with a model: look at its shape, load it, run it."""
    check_llama_shaped(folder)
    info = model_info(folder)
    Footprint.of_directory(folder)
    engine = TorchEngine(folder, "float32")
    engine.decoder(base(info.n_layers), 8).feed([1, 2, 3])


def export_model(folder: Path) -> None:
    plan = parse("0:2,1", model_info(folder).n_layers)
    materialize(folder, plan, folder.parent / "exported")


def fetch_local(folder: Path) -> None:
    value = {"path": str(folder)}
    source = source_from_config(value, "models.m.source", "model")
    fetch_model(source, folder.parent / "fetched", None, "tiny")


def read_tokenizer(folder: Path) -> None:
    load_tokenizer(folder).encode("The river runs, größer 123")


def tiny_gguf(folder: Path) -> None:
    from test_gguf import write_gguf

    tiny_model(folder / "model")
    write_gguf(folder / "tiny.gguf", folder / "model", **{})
    shutil.rmtree(folder / "model")


def fetch_gguf(folder: Path) -> None:
    value = {"path": str(folder / "tiny.gguf")}
    source = source_from_config(value, "models.m.source", "model")
    fetch_model(source, folder.parent / "fetched", None, "tiny")


# --- data ------------------------------------------------------------------------------------

ROWS = [
    {
        "id": n,
        "question": f"Which animal lives in the water? {n}",
        "choices": {"text": [f"fish {n}", "bird"], "label": ["A", "B"]},
        "answer": bool(n % 2),
        "weight": n / 3,
    }
    for n in range(40)
]


def arrow(folder: Path, stream: bool) -> None:
    table = pa.Table.from_pylist(ROWS)
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(str(folder / "data.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=16)


def parquet(folder: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "data.parquet", row_group_size=16)


def json_lines(folder: Path, zipped: bool) -> None:
    text = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    name = "data.jsonl.gz" if zipped else "data.jsonl"
    (folder / name).write_bytes(gzip.compress(text, mtime=0) if zipped else text)


def read_rows(folder: Path) -> None:
    (path,) = folder.iterdir()
    for row in read_data(path):
        str(row)


# --- what Frankenlab wrote itself --------------------------------------------------------------


def a_directory(folder: Path) -> None:
    from frankenlab.directories import make_directory

    def fill(directory: Path) -> dict[str, Any]:
        (directory / "a.txt").write_text("river " * 50)
        (directory / "b.txt").write_text("moon")
        return {"n_layers": 2}

    make_directory(folder / "it", {"key": "k"}, fill)


def read_directory(folder: Path) -> Any:
    found = complete_manifest(folder / "it", verify=True)
    return found and {name: (folder / "it" / name).read_bytes() for name in found["files"]}


IDENTITY = {"weights": "abc", "task": "arc_easy"}
PLANS = ("base", "0:2,1:4")


def a_store(folder: Path) -> None:
    draw, store = random.Random(0), Store(folder, IDENTITY)
    for part in range(2):
        store.append(
            Row(plan, f"{part}-{n}", (draw.gauss(-20, 9), draw.gauss(-20, 9)), (True, False))
            for n in range(100)
            for plan in PLANS
        )


def read_store(folder: Path) -> Any:
    """Rows may be missing, and are then made again; those that are there are as written."""
    found = Store(folder, IDENTITY).load(PLANS)
    rows = [
        (plan, requests, tuple(values), tuple(greedy))
        for plan, requests, values, greedy in found.itertuples(index=False)
    ]
    return Part(rows)


class Part(frozenset):
    """Equal to what it is a part of."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, frozenset) and self <= other

    __hash__ = frozenset.__hash__


SUBJECTS: dict[str, Subject] = {
    "safetensors": Subject(tiny_model, "*.safetensors", read_model),
    "safetensors exported": Subject(tiny_model, "*.safetensors", export_model),
    "safetensors fetched": Subject(tiny_model, "*.safetensors", fetch_local),
    "shards": Subject(tiny_shards, "*.safetensors*", read_model),
    "shards exported": Subject(tiny_shards, "*.safetensors*", export_model),
    "index": Subject(tiny_shards, "*.index.json", read_model),
    "config.json": Subject(tiny_model, "config.json", read_model),
    "config.json exported": Subject(tiny_model, "config.json", export_model),
    "config.json fetched": Subject(tiny_model, "*config.json", fetch_local),
    "tokenizer": Subject(tiny_model, "tokenizer*.json", read_tokenizer),
    "tokenizer fetched": Subject(tiny_model, "tokenizer*.json", fetch_local),
    "EXL2": Subject(tiny_exl2, "*.safetensors", read_model),
    "EXL2 config.json": Subject(tiny_exl2, "config.json", read_model),
    "EXL2 fetched": Subject(tiny_exl2, "*.safetensors", fetch_local),
    "GGUF": Subject(tiny_gguf, "*.gguf", fetch_gguf),
    "Arrow stream": Subject(partial(arrow, stream=True), "*.arrow", read_rows),
    "Arrow file": Subject(partial(arrow, stream=False), "*.arrow", read_rows),
    "Parquet": Subject(parquet, "*.parquet", read_rows),
    "JSON lines": Subject(partial(json_lines, zipped=False), "*.jsonl", read_rows),
    "JSON lines, gzipped": Subject(partial(json_lines, zipped=True), "*.gz", read_rows),
    "directory": Subject(a_directory, "it/*.txt", read_directory, sealed=True),
    "manifest": Subject(a_directory, "it/manifest.json", read_directory),
    "store": Subject(a_store, "*/*", read_store, sealed=True),
}
