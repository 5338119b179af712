"""The parts of a case of the parity fuzzer: frozen values that JSON can hold."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class ModelSpec:
    """A tiny model with random weights.

    Attributes:
        head_dim: None leaves it to hidden / heads, else it is named in config.json.
        attention_bias, mlp_bias: read for llama only; qwen2 always has biases of q, k and v.
        rope: the rotary parameters.
        old_rope: "" writes them as `rope_parameters`; "rope_type" or "type" as `rope_theta` and
            `rope_scaling`, where this key names the kind.
        tied: "no", "yes", "stored" (tied, and the head is in the file all the same) or "other"
            (tied, and another head is in the file).
        dtype: how the weights are stored.
        files: "single", "shards", "names" (shards with names of their own), "decoys" (a file of
            other weights beside the model's) or "two" (a stale set of shards beside the model).
        window: "none", "wide" (not below the context), "off" (qwen2's unused window) or "narrow".
        padding: embeddings beyond the tokenizer's last token.
    """

    architecture: str = "llama"
    n_layers: int = 2
    hidden: int = 8
    inner: int = 12
    heads: int = 2
    kv_heads: int = 1
    head_dim: int | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    rope: str = "default"
    theta: float = 10000.0
    old_rope: str = ""
    tied: str = "no"
    dtype: str = "float32"
    files: str = "single"
    window: str = "none"
    context: int = 128
    padding: int = 0
    norm_eps: float = 1e-5
    seed: int = 0


@dataclass(frozen=True)
class TokenizerSpec:
    """A tokenizer that is trained on a small random corpus.

    Attributes:
        kind: "bytes" (byte-level BPE), "pieces" (BPE over ▁ with byte fallback, as LLaMA 2) or
            "unigram" (Metaspace).
        corpus: number of the random corpus.
        splits: whether words are cut before merging; without it tokens span words.
        adds: what the post-processor adds: "", "bos", "eos" or "both".
        added: tokens added after training.
        named: the class that tokenizer_config.json names, None for none.
        flag: what it says of `add_bos_token`, None for nothing.
    """

    kind: str = "bytes"
    corpus: int = 0
    merges: int = 40
    splits: bool = True
    prefix_space: bool = False
    normalizer: str = "none"
    bos: bool = True
    eos: bool = True
    adds: str = ""
    added: tuple[str, ...] = ()
    named: str | None = "PreTrainedTokenizerFast"
    flag: bool | None = None


@dataclass(frozen=True)
class DocSpec:
    """A document: a text, its choices (the first is the target of a likelihood task) and the
    number of the right one."""

    text: str = "the"
    choices: tuple[str, ...] = ("cat", "dog")
    answer: int = 0


@dataclass(frozen=True)
class TaskSpec:
    """A task in a YAML of its own, with its documents.

    Attributes:
        kind: lm-eval's output type.
        form: of multiple choice: "index", "label" (the target is the choice's text), "golds" (a
            list of right choices) or "inputs" (the choices are contexts, as in WinoGrande).
        before, after: what the template puts around the text.
        data: "jsonl", "parquet" or "arrow" (a file named in the config), or "own" (the YAML's
            own data set, with a training split).
        shots_from: "samples" (in the YAML), "train" (own data only) or "same" (the documents
            that are evaluated).
        shots_by: who says how many: "settings", "yaml" or "overrides".
        metrics: lm-eval's, the first is the primary one.
    """

    kind: str = "multiple_choice"
    form: str = "index"
    before: str = ""
    after: str = ""
    delimiter: str = " "
    description: str = ""
    data: str = "jsonl"
    shots: int = 0
    shots_from: str = "samples"
    shots_by: str = "settings"
    sampler: str = "default"
    shot_delimiter: str = "\n\n"
    metrics: tuple[str, ...] = ("acc", "acc_norm")
    docs: tuple[DocSpec, ...] = (DocSpec(),)
    examples: tuple[DocSpec, ...] = ()


@dataclass(frozen=True)
class Case:
    """One comparison: a plan of a model with a tokenizer on a task.

    Attributes:
        beside: plans that the sweep scores too; earlier: before it, into the same store. Neither
            must matter.
        budget: tokens of a batch, which must not matter.
        limit: how many documents are scored, None for all.
    """

    model: ModelSpec = ModelSpec()
    tokenizer: TokenizerSpec = TokenizerSpec()
    task: TaskSpec = TaskSpec()
    plan: str = "base"
    beside: tuple[str, ...] = ()
    earlier: bool = False
    budget: int = 4096
    limit: int | None = None


def to_json(case: Case) -> str:
    """Return the case as one line of JSON, without what is as it is by default."""
    return json.dumps(_changed(case), ensure_ascii=True)


def from_json(text: str) -> Case:
    """Return the case that `to_json` wrote."""
    return _built(Case, json.loads(text))


def _changed(spec: Any) -> Any:
    if isinstance(spec, tuple):
        return [_changed(item) for item in spec]
    if not dataclasses.is_dataclass(spec):
        return spec
    values = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    default = type(spec)()
    return {name: _changed(v) for name, v in values.items() if v != getattr(default, name)}


def _built(kind: Any, value: Any) -> Any:
    if get_origin(kind) is tuple:
        return tuple(_built(get_args(kind)[0], item) for item in value)
    if not dataclasses.is_dataclass(kind):
        return value
    hints = get_type_hints(kind)
    return kind(**{name: _built(hints[name], item) for name, item in value.items()})
