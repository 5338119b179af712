"""Hypothesis strategies that draw the cases of the parity fuzzer.

The first value of each choice is the plainest one: that is what a failing case shrinks to.
"""

from hypothesis import strategies as st

from .models_of import ROPES
from .specs import Case, DocSpec, ModelSpec, TaskSpec, TokenizerSpec
from .tokenizers_of import BOS, EOS, WORDS

NAMED = ("PreTrainedTokenizerFast", "TokenizersBackend", None, "LlamaTokenizer", "Qwen2Tokenizer")
MULTIPLE_CHOICE_METRICS = ("acc", "acc_norm", "acc_bytes", "exact_match", "acc_mutual_info")
KINDS = ((3, "multiple_choice"), (2, "loglikelihood"), (2, "loglikelihood_rolling"))
ROLLING_METRICS = ("word_perplexity", "byte_perplexity", "bits_per_byte")


def weighted(*choices: tuple[int, object]) -> st.SearchStrategy:
    """Draw one of (weight, value)."""
    return st.sampled_from([value for weight, value in choices for _ in range(weight)])


def _texts(least: int, most: int) -> st.SearchStrategy[str]:
    """Draw words with and without a space before them, odd blanks, other scripts, special
    tokens."""
    piece = st.one_of(
        st.sampled_from(WORDS),
        st.sampled_from(WORDS).map(lambda word: " " + word),
        st.sampled_from(WORDS).map(lambda word: " " + word),
        st.sampled_from((" ", "\n", "  ", "\n\n", "\t", "\u00a0", "\u2028", ",", "'")),
        st.text(
            st.characters(exclude_categories=("Cs",), exclude_characters="\x00"),
            min_size=1,
            max_size=3,
        ),
        weighted((3, "the"), (1, BOS), (1, EOS)),
    )
    return st.lists(piece, min_size=least, max_size=most).map("".join)


TEXTS = _texts(1, 8)
LONG_TEXTS = st.builds(lambda text, times: (text + " ") * times, _texts(2, 5), st.integers(8, 40))


@st.composite
def models(draw: st.DrawFn) -> ModelSpec:
    """Draw a model whose sizes fit each other."""
    architecture = draw(st.sampled_from(("llama", "mistral", "qwen2")))
    heads = draw(st.sampled_from((1, 2, 3, 4, 6)))
    kv_heads = draw(st.sampled_from([n for n in (1, 2, 3, 4, 6) if heads % n == 0]))
    named_dim = draw(st.sampled_from((None, None, 2, 4, 6, 10)))
    hidden = heads * draw(st.sampled_from((4, 6, 8)))
    if named_dim is not None:
        # Llama and Qwen2 want a multiple of the heads, odd or not; Mistral takes any size.
        hidden = heads * draw(st.sampled_from((5, 3, 8)))
        hidden += draw(weighted((2 if architecture == "mistral" else 19, 0), (1, 1)))
    return ModelSpec(
        architecture=architecture,
        n_layers=draw(st.integers(1, 5)),
        hidden=hidden,
        inner=draw(st.sampled_from((12, 7, 16, 33))),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=named_dim,
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        rope=draw(st.sampled_from([*(r for r in ROPES if r != "dynamic")] * 8 + ["dynamic"])),
        theta=draw(st.sampled_from((10000.0, 100.0, 1e6))),
        old_rope=draw(st.sampled_from(("", "", "rope_type", "type"))),
        tied=draw(weighted((36, "no"), (18, "yes"), (6, "stored"), (1, "other"))),
        dtype=draw(weighted((3, "float32"), (1, "bfloat16"), (1, "float16"))),
        files=draw(weighted((6, "single"), (3, "shards"), (2, "names"), (1, "decoys"), (1, "two"))),
        window=draw(weighted((24, "none"), (12, "wide"), (12, "off"), (1, "narrow"))),
        context=draw(weighted((12, 512), (6, 128), (1, 24), (1, 33))),
        padding=draw(weighted((24, 0), (6, 1), (6, 13), (1, -1))),
        norm_eps=draw(st.sampled_from((1e-5, 1e-6, 1e-2))),
        seed=draw(st.integers(0, 5)),
    )


@st.composite
def tokenizers(draw: st.DrawFn) -> TokenizerSpec:
    """Draw a tokenizer; one without BOS or EOS cannot add it."""
    both = (24, (True, True)), (8, (False, True)), (8, (True, False)), (1, (False, False))
    bos, eos = draw(weighted(*both))
    can_add = [""] + ["bos"] * bos + ["eos"] * eos + ["both"] * (bos and eos)
    return TokenizerSpec(
        kind=draw(st.sampled_from(("bytes", "bytes", "pieces", "unigram"))),
        corpus=draw(st.integers(0, 5)),
        merges=draw(st.sampled_from((40, 8, 90))),
        splits=draw(st.booleans()),
        prefix_space=draw(st.booleans()),
        normalizer=draw(weighted((5, "none"), (1, "nfc"), (1, "nfkc"), (1, "lower"))),
        bos=bos,
        eos=eos,
        adds=draw(st.sampled_from(can_add)),
        added=draw(weighted((4, ()), (1, ("the cat",)), (1, (" dog", "er")), (1, ("\n\n",)))),
        named=draw(st.sampled_from((*NAMED[:1] * 6, *NAMED))),
        flag=draw(weighted((6, None), (1, True), (1, False))),
    )


@st.composite
def documents(draw: st.DrawFn, delimiter: str, rolling: bool) -> DocSpec:
    """Draw a document; often a text that was cut anywhere, the rest of which is a choice.

    Long texts are windows of a rolling task; elsewhere they are too long and refused.
    """
    kind = draw(st.integers(0, 9 if rolling else 49))
    if kind % 5 < 2:  # the tokenizer may join what is cut
        whole = draw(_texts(2, 8))
        cut = draw(st.integers(0, len(whole)))
        text, right = whole[:cut], whole[cut:].removeprefix(delimiter) or whole[-1]
        choices = draw(st.lists(TEXTS, min_size=1, max_size=3))
        choices.insert(draw(st.integers(0, len(choices))), right)
    else:
        text = draw(LONG_TEXTS if kind in (9, 49) else TEXTS)
        choices = draw(st.lists(TEXTS, min_size=2, max_size=4))
    if draw(st.integers(0, 4)) == 4:  # a duplicate, or a prefix of another
        first = choices[0]
        choices.append(first[: draw(st.integers(1, len(first)))] if draw(st.booleans()) else first)
    if draw(st.integers(0, 39)) == 39:
        choices[draw(st.integers(0, len(choices) - 1))] = ""
    if draw(st.integers(0, 39)) == 39:
        text = ""
    return DocSpec(text, tuple(choices), draw(st.integers(0, len(choices) - 1)))


@st.composite
def tasks(draw: st.DrawFn) -> TaskSpec:
    """Draw a task with a few documents."""
    kind = draw(weighted(*KINDS))
    delimiter = draw(weighted((4, " "), (3, ""), (1, "\n")))
    shots = draw(weighted((4, 0), (1, 1), (1, 2), (1, 3)))
    data = draw(weighted((3, "jsonl"), (2, "own"), (1, "parquet"), (1, "arrow")))
    sources = ["samples", "samples", "same", *["train"] * (3 if data == "own" else 0)]
    source = draw(st.sampled_from(sources)) if shots else "samples"
    document = documents(delimiter, kind == "loglikelihood_rolling")
    if kind == "loglikelihood_rolling":
        metrics = tuple(draw(st.permutations(ROLLING_METRICS)))
    elif kind == "loglikelihood":
        metrics = draw(st.sampled_from((("perplexity", "acc"), ("acc",))))
    else:
        metrics = tuple(draw(st.permutations(MULTIPLE_CHOICE_METRICS))[: draw(st.integers(1, 4))])
    return TaskSpec(
        kind=kind,
        form=draw(weighted((8, "index"), (4, "label"), (1, "golds"), (4, "inputs"))),
        before=draw(weighted((3, ""), (1, "Q: "), (1, "\n"), (1, " "))),
        after=draw(weighted((4, ""), (2, "\nA:"), (1, " "), (1, "  "))),
        delimiter=delimiter,
        description=draw(weighted((5, ""), (1, "Answer.\n"), (1, "Read: "))),
        data=data,
        shots=shots,
        shots_from=source,
        shots_by=draw(st.sampled_from(("settings", "yaml", "overrides"))),
        sampler=draw(st.sampled_from(("default", "first_n", "first_n"))),
        shot_delimiter=draw(weighted((3, "\n\n"), (1, " "), (1, ""))),
        metrics=metrics,
        docs=tuple(draw(st.lists(document, min_size=1, max_size=6))),
        examples=tuple(draw(st.lists(document, min_size=shots, max_size=shots + 3))),
    )


@st.composite
def plans(draw: st.DrawFn, n_layers: int) -> str:
    """Draw the text of a plan: the base, or segments that skip, loop, swap, scale and part, and
    damped windows of some."""
    if draw(st.integers(0, 5)) == 0:
        return "base"
    item = st.one_of(_segments(n_layers), _segments(n_layers), _windows(n_layers))
    return ",".join(draw(st.lists(item, min_size=1, max_size=5)))


@st.composite
def _windows(draw: st.DrawFn, n_layers: int) -> str:
    inside = draw(st.lists(_segments(n_layers, scaled=False), min_size=1, max_size=2))
    times = draw(weighted((3, ""), (1, "x2")))
    return f"({','.join(inside)}){times}" + draw(weighted((3, "*0.5"), (1, "*-0.25"), (1, "")))


@st.composite
def _segments(draw: st.DrawFn, n_layers: int, scaled: bool = True) -> str:
    start = draw(st.integers(0, n_layers - 1))
    stop = draw(st.integers(start + 1, n_layers))
    text = f"{start}" if stop == start + 1 else f"{start}:{stop}"
    text += draw(weighted((5, ""), (2, "x2"), (1, "x3")))
    part = draw(weighted((5, ""), (2, "@attn"), (2, "@mlp")))
    # Powers of two: another scale is rounded where an export is stored in 16 bits.
    scale = draw(weighted((6, ""), (1, "*0.5"), (1, "*-1"), (1, "*2"))) if scaled else ""
    return text + part + scale


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a case."""
    model = draw(models())
    plan = plans(model.n_layers)
    return Case(
        model=model,
        tokenizer=draw(tokenizers()),
        task=draw(tasks()),
        plan=draw(plan),
        beside=tuple(draw(st.lists(plan, max_size=2))),
        earlier=draw(st.booleans()),
        budget=draw(st.sampled_from((4096, 60))),
        limit=draw(weighted((6, None), (1, 1), (1, 2), (1, 3))),
    )
