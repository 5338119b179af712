"""Passages that several questions share, each once."""

import datasets


def unique_passages(dataset: datasets.Dataset) -> datasets.Dataset:
    """The passages in order of first appearance, without the questions."""
    passages = list(dict.fromkeys(dataset["passage"]))
    return datasets.Dataset.from_dict({"passage": passages})
