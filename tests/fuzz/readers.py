"""Small files of every kind that Frankenlab reads, and how it reads them."""

import gzip
import json
import math
import random
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pytest import MonkeyPatch

from frankenlab.analyse import ledger
from frankenlab.analyse.race_rounds import Round, dropped
from frankenlab.analyse.selection import Shortlist
from frankenlab.engines.torch import TorchEngine
from frankenlab.estimate import throughput as speeds
from frankenlab.evaluate.store import Store
from frankenlab.evaluate.sweep import Row
from frankenlab.io.directories import make_directory, read_manifest, verify_directory
from frankenlab.io.files import write_json
from frankenlab.io.parquet import read_parquet, write_parquet
from frankenlab.io.records import read_record
from frankenlab.models import franken as frankens
from frankenlab.models.directory import check_llama_shaped, model_shape, weights_hash
from frankenlab.models.export import materialize
from frankenlab.models.fetch import fetch_model
from frankenlab.models.footprint import Footprint
from frankenlab.models.shape import ModelShape
from frankenlab.models.sources import source_from_config
from frankenlab.models.tokenizer import load_tokenizer
from frankenlab.plans.plan import base, parse
from frankenlab.quantize import calibration
from frankenlab.quantize.resume import is_whole, load_tensors, save_tensors
from frankenlab.report.results import Results, load_frozen, load_provenance
from frankenlab.report.sections import made_html
from frankenlab.runtime import lock
from tests.support.paths import DATA
from tests.support.tiny import make_tiny_model

from .files import Subject

datasets.disable_progress_bars()
EXL2 = DATA / "llama-tiny-exl2"
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
    """Do what every job does with a model: look at its shape, load it, run it."""
    check_llama_shaped(folder)
    info = model_shape(folder)
    Footprint.of_directory(folder)
    engine = TorchEngine(folder, "float32")
    engine.decoder(base(info.n_layers), 8).feed([1, 2, 3])


def export_model(folder: Path) -> None:
    plan = parse("0:2,1", model_shape(folder).n_layers)
    materialize(folder, plan, folder.parent / "exported")


def fetch_local(folder: Path) -> None:
    value = {"path": str(folder)}
    source = source_from_config(value, "models.m.source", "model")
    fetch_model(source, folder.parent / "fetched", None, "tiny")


def read_tokenizer(folder: Path) -> None:
    load_tokenizer(folder).encode("The river runs, größer 123")


def tiny_gguf(folder: Path) -> None:
    from tests.models.test_gguf import write_gguf

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
    for row in calibration.read_data(path):
        str(row)


# --- what Frankenlab wrote itself --------------------------------------------------------------


def a_directory(folder: Path) -> None:
    def fill(directory: Path) -> dict[str, Any]:
        (directory / "a.txt").write_text("river " * 50)
        (directory / "b.txt").write_text("moon")
        return {"n_layers": 2}

    make_directory(folder / "it", {"key": "k"}, fill)


def read_directory(folder: Path) -> Any:
    found = verify_directory(folder / "it", every_hash=True).manifest
    return {name: (folder / "it" / name).read_bytes() for name in found["files"]}


IDENTITY = {"weights": "abc", "task": "arc_easy"}
PLANS = ("base", "0:2,1:4")


def a_store(folder: Path) -> None:
    draw, store = random.Random(0), Store(folder, IDENTITY)
    for part in range(2):
        store.append(
            Row(
                plan,
                f"{part}-{n}",
                (draw.gauss(-20, 9), draw.gauss(-20, 9)),
                (True, False),
                "a CPU",
            )
            for n in range(100)
            for plan in PLANS
        )


def read_store(folder: Path) -> Any:
    """Return the rows in the store; some may be missing, the others must be as written."""
    found = Store(folder, IDENTITY).load(PLANS)
    rows = [
        tuple(tuple(value) if isinstance(value, np.ndarray) else value for value in row)
        for row in found.itertuples(index=False)
    ]
    return Part(rows)


class Part(frozenset):
    """Equal to what it is a part of."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, frozenset) and self <= other

    __hash__ = frozenset.__hash__


def a_fetched_model(folder: Path) -> None:
    tiny_model(folder / "source")
    source = source_from_config({"path": str(folder / "source")}, "models.m.source", "model")
    fetch_model(source, folder / "it", None, "tiny")
    for path in (folder / "it").iterdir():  # those of a local source are links
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    shutil.rmtree(folder / "source")


def read_fetched_model(folder: Path) -> None:
    """Read what jobs take from a manifest without looking at the model."""
    manifest = read_manifest(folder / "it")
    weights_hash(manifest)
    n_layers = ModelShape.from_manifest(manifest, folder / "it").n_layers
    frankens.manifest("m", "none", model_shape(folder / "it"), [(base(n_layers), "base")])


def a_quantizer_part(folder: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    tensors = {"codes": torch.randint(0, 255, (40, 3), generator=draw).to(torch.uint8)}
    tensors |= {"scales": torch.randn(9, generator=draw).half(), "one": torch.ones(1).bfloat16()}
    save_tensors(folder / "layer.safetensors", tensors)


def read_quantizer_part(folder: Path) -> Any:
    path = folder / "layer.safetensors"
    if not is_whole(path):
        return None
    return {k: v.tolist() for k, v in load_tensors(path).items()}


TABLE = pd.DataFrame(
    {"plan": ["base", "0:3,1:4"] * 30, "value": [n / 7 for n in range(60)], "n": range(60)}
)


def a_table(folder: Path) -> None:
    write_parquet(TABLE, folder / "table.parquet")


def read_table(folder: Path) -> Any:
    return read_parquet(folder / "table.parquet").to_csv()


# File -> what a job writes into it.
INFO = ModelShape(
    *("llama", 4, 32, 96, 4, 2, 8, 384, 512, False, 1e-5, {"rope_theta": 1e4}, "float32"),
)
FREEZE = {
    "model": "llama",
    "frozen": "0:3,1:4",
    "group": "rys",
    "controls": ["0:2,0:4"],
    "finalists": ["0:2,1:4"],
    "reference_quantization": "none",
    "as_good": ["0:3,1:4", "0:2,1:4"],
    "same_plan": 0.5,
    "reason": "the cheapest",
}
PLAN_TEXTS = ("base", "0:3,1:4", "0:3,1:3@attn*0.5,3")
RECORDS: dict[str, Any] = {
    "frankens.json": frankens.manifest(
        "llama", "none", INFO, [(parse(text, 4), "group") for text in PLAN_TEXTS]
    ),
    "race.json": {
        "model": "llama",
        "round": 1,
        "documents": {"arc_easy": 40},
        "passes": 12.5,
        "leaders": ["base", "0:3,1:4"],
        "leader": "base",
        "kept": ["base"],
        "dropped": {"0:3,1:4": {"behind": 3.5, "ahead_at_most": -1.0}},
    },
    "frozen/llama.json": FREEZE,
    "shortlist.json": {
        "model": "llama",
        "plans": [{"plan": "0:3,1:4", "group": "rys"}],
        "best_of": [],
    },
    "plans.json": [["0:3,1:4", "rys"], ["0:2,1:4", "rys"]],
    "provenance.json": {
        "experiment": "e",
        "created": "2026-11-20",
        "models": {"llama": {"description": "d", "source": "s", "n_layers": 4}},
        "grid": {"plans": 3, "duplicates_folded": 0, "generators": {"rys": 3}},
        "commit": "abc",
        "command": "snakemake",
        "resolved": {"engine": "torch"},
        "data": {"arc": {"source": "s", "files": "abc"}},
        "code": {"scoring": "abc"},
        "versions": {"python": "3.12"},
        "machine": {"cpu_count": 2},
        "config": {"a": [1, 2]},
    },
}


def records(folder: Path) -> None:
    for name, value in RECORDS.items():
        write_json(folder / name, value)


def read_records(folder: Path) -> None:
    """Read the records as the workflow's scripts do."""
    found = read_record(folder / "frankens.json", frankens.Manifest)
    pd.DataFrame(found["frankens"]).drop(columns=["key", "loop", "occurrences"])
    frankens.plans_of(found)
    race = read_record(folder / "race.json", Round)
    dropped([race])
    comparisons = pd.DataFrame(
        {
            "plan": ["base", "0:3,1:4"],
            "role": "search",
            "n": 40,
            "task": "arc_easy",
            "dropped": None,
            "effect": [0.0, 1.0],
        }
    )
    sum(race["documents"].values()), race["passes"] + 1, len(comparisons)
    read_record(folder / "shortlist.json", Shortlist)
    read_record(folder / "plans.json", list[tuple[str, str]])
    frozen, made = load_frozen(folder / "frozen"), load_provenance(folder / "provenance.json")
    made_html(Results(frozen=frozen, provenance=made))


def notes(folder: Path) -> None:
    """Write what is kept beside the results: ledger, speeds, lock."""
    look = {"experiment": "e", "model": "m", "quantization": "none", "task": "t", "plan": "0:3"}
    for documents in (["a"], ["b"], ["c"]):
        ledger.record(folder / "ledger.jsonl", look, documents)
    sizes = ("llama", (4, 3072, 32, 384), "torch", "none", "bfloat16", "cpu", "a CPU")
    speed = speeds.Measured(*sizes, 1000.0, 200.0, True)
    write_json(folder / "speeds.json", [asdict(speed)])
    write_json(folder / ".lock", asdict(lock.Holder.here("e")))


def read_notes(folder: Path) -> None:
    ledger.table(folder / "ledger.jsonl", ["m"], ["t"])
    look = {"experiment": "f", "model": "m", "quantization": "none", "task": "t", "plan": "0:3"}
    ledger.record(folder / "ledger.jsonl", look, ["a"])
    holder = lock.read(folder / ".lock")
    if holder is not None:
        f"{holder} {holder.ended()}".encode()
    with MonkeyPatch.context() as patch:
        patch.setattr(speeds, "speeds_file", lambda: folder / "speeds.json")
        for row in speeds.read_speeds():
            math.log(row.shapes[0] * row.shapes[1]), row.tokens / 2, row.key


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
    "fetched model": Subject(a_fetched_model, "it/manifest.json", read_fetched_model),
    "quantizer's part": Subject(a_quantizer_part, "*", read_quantizer_part, sealed=True),
    "table": Subject(a_table, "*", read_table, sealed=True),
    "records": Subject(records, "**/*.json", read_records),
    "notes": Subject(notes, "**/*.*", read_notes),
    "store": Subject(a_store, "*/*", read_store, sealed=True),
}
