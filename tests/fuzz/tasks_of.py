"""A task specification -> a task YAML, its data, and the settings that a config would give."""

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
import yaml

from .specs import DocSpec, TaskSpec

NAME, SPLIT = "fuzzed", "validation"

# The module that the YAML of a task with a data set of its own names.
SOURCE = '''"""The data set of a fuzzed task."""

import json
from pathlib import Path

import datasets


def load(**_):
    rows = json.loads((Path(__file__).parent / "rows.json").read_text())
    return {split: datasets.Dataset.from_list(docs) for split, docs in rows.items()}
'''


def write_task(spec: TaskSpec, folder: Path) -> dict[str, Any]:
    """Write the YAML and the data; return what a config says of the task beside its name."""
    tasks = folder / "tasks"
    tasks.mkdir(parents=True)
    config = _yaml(spec)
    settings: dict[str, Any] = {"metric": spec.metrics[0], "split": SPLIT}
    rows = documents(spec)
    if spec.data == "own":
        (tasks / "source.py").write_text(SOURCE)
        (tasks / "rows.json").write_text(json.dumps(rows))
    else:
        settings["data_file"] = _write_rows(rows[SPLIT], spec.data, folder)
    if spec.shots and spec.shots_by == "settings":
        settings["num_fewshot"] = spec.shots
    elif spec.shots and spec.shots_by == "overrides":
        settings["overrides"] = {"num_fewshot": spec.shots}
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    (tasks / f"{NAME}.yaml").write_text(text.replace("FUNCTION", "!function source.load"))
    return settings


def documents(spec: TaskSpec) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each split of the task's data."""
    splits = {SPLIT: [_row(doc, spec) for doc in spec.docs]}
    if spec.data == "own" and spec.examples:
        splits["train"] = [_row(doc, spec) for doc in spec.examples]
    return splits


def _row(doc: DocSpec, spec: TaskSpec) -> dict[str, Any]:
    answer = doc.answer % len(doc.choices) if doc.choices else 0
    return {
        "text": doc.text,
        "choices": list(doc.choices),
        "answer": answer,
        "label": doc.choices[answer] if doc.choices else "",
        "golds": sorted({answer, 0}),
        "target": doc.choices[0] if doc.choices else "",
    }


def _yaml(spec: TaskSpec) -> dict[str, Any]:
    config: dict[str, Any] = {
        "task": NAME,
        "output_type": spec.kind,
        f"{SPLIT}_split": SPLIT,
        "target_delimiter": spec.delimiter,
        "fewshot_delimiter": spec.shot_delimiter,
        "metric_list": [{"metric": name} for name in spec.metrics],
        **_templates(spec),
        "metadata": {"version": 1.0},
    }
    if spec.description:
        config["description"] = spec.description
    if spec.data == "own":
        config |= {"dataset_path": "none", "custom_dataset": "FUNCTION"}
        if spec.examples:
            config["training_split"] = "train"
    else:
        config["dataset_path"] = "json"
    if spec.shots:
        config |= _fewshot(spec)
    return config


def _templates(spec: TaskSpec) -> dict[str, Any]:
    text = f"{spec.before}{{{{text}}}}{spec.after}"
    if spec.kind == "loglikelihood_rolling":
        return {"doc_to_text": "", "doc_to_target": text}
    if spec.kind == "loglikelihood":
        return {"doc_to_text": text, "doc_to_target": "{{target}}"}
    if spec.form == "inputs":
        ending = {"doc_to_text": "answer", "doc_to_target": text}
        return ending | {"doc_to_choice": "choices"}
    target = {"index": "answer", "label": "{{label}}", "golds": "golds"}[spec.form]
    return {"doc_to_text": text, "doc_to_choice": "choices", "doc_to_target": target}


def _fewshot(spec: TaskSpec) -> dict[str, Any]:
    own: dict[str, Any] = {"sampler": spec.sampler}
    found: dict[str, Any] = {"fewshot_config": own}
    if spec.shots_from == "samples":
        own["samples"] = [_row(doc, spec) for doc in spec.examples]
    elif spec.shots_from == "train" and spec.data == "own":
        found["fewshot_split"] = "train"
    if spec.shots_by == "yaml":
        found["num_fewshot"] = spec.shots
    return found


def _write_rows(rows: list[dict[str, Any]], kind: str, folder: Path) -> Path:
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    table = datasets.Dataset.from_list(rows)
    if kind == "parquet":
        pyarrow.parquet.write_table(table.data.table, path)
    else:
        with (
            pyarrow.OSFile(str(path), "wb") as sink,
            pyarrow.ipc.new_stream(sink, table.data.table.schema) as writer,
        ):
            writer.write_table(table.data.table)
    return path
