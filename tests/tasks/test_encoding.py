"""Tokens are exactly those that lm-eval's Hugging Face model would score."""

from itertools import product

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from frankenlab.engines.token_tree import TokenRequest
from frankenlab.io.errors import UserError
from frankenlab.models.tokenizer import load_tokenizer
from frankenlab.tasks.encoding import Encoder
from frankenlab.tasks.task import Document
from tests.support.models import load_hf
from tests.support.processes import one_line
from tests.support.task_rows import load_task, passage, task_settings
from tests.support.tiny import BOS, CORPUS, EOS

LENGTH = 64

TEXTS = [
    "a",
    "The river runs past the old mill.",
    "<|begin|>The river runs",
    passage(1, 20),
    passage(2, 200),  # several windows
    "日本 größer\n\n",
    "",
]


# Every pair of these: ends of contexts and beginnings of continuations that tokenizers join, that
# are nothing but spaces or special tokens, or nothing at all.
CONTEXTS = (
    *("", " ", "\n\n ", "a", "The river runs", "The river runs ", "the wat", "answ", "x\n"),
    *(
        "größer \u00a0",
        "日本",
        "e",
        "\t",
        "a\u3000",
        "a\u2028",
        "<|begin|>The",
        "<|end|>",
        "<|begin|>",
    ),
    *("[NEW]", "a [NEW] ", "<|pad|>"),
)
CONTINUATIONS = (
    *(
        "",
        " ",
        " past",
        "past",
        "er",
        "s",
        "\n",
        "本語",
        "\u0301",
        "🙂",
        " a b",
        "  a",
        "<|begin|>",
    ),
    *("<|begin|>The", "<|end|>x", "[NEW]", " [NEW]b", "<|pad|>"),
)


def plain(directory):
    return load_tokenizer(directory)


def adding(template):
    """Make every text begin or end with special tokens: BOS as in LLaMA, EOS as few do."""

    def make(directory):
        tokenizer = load_tokenizer(directory)
        tokenizer._tokenizer.post_processor = TemplateProcessing(
            single=template, special_tokens=[(BOS, 0), (EOS, 1)]
        )
        assert len(tokenizer.encode("a")) > 1
        return tokenizer

    return make


def without_bos(directory):
    """Take the BOS token away, as in Qwen2, so that EOS stands before a text."""
    tokenizer = load_tokenizer(directory)
    tokenizer.bos_token = None
    return tokenizer


def with_bos_only(directory):
    """lm-eval adds "<|pad|>" to it, for which the model has no embedding."""
    tokenizer = load_tokenizer(directory)
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.unk_token = None
    return tokenizer


def with_added_tokens(directory):
    tokenizer = load_tokenizer(directory)
    tokenizer.add_tokens([AddedToken("[NEW]", lstrip=True, rstrip=True), AddedToken(" a b")])
    return tokenizer


def unigram(**template):
    """Return a tokenizer as LLaMA 2 has it: pieces mark spaces and starts, bytes are the rest."""

    def make(_):
        pieces = sorted({f"▁{word}" for word in CORPUS.split()} | {*CORPUS, "▁", "er", "▁a"})
        vocabulary = [(BOS, 0.0), (EOS, 0.0), ("<unk>", 0.0)]
        vocabulary += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
        vocabulary += [(piece, -9.0 + min(len(piece), 6)) for piece in pieces]
        tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=True))
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
        tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="first")
        tokenizer.add_special_tokens([BOS, EOS, "<unk>"])
        if template:
            tokenizer.post_processor = TemplateProcessing(
                **template, special_tokens=[(BOS, 0), (EOS, 1)]
            )
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, unk_token="<unk>"
        )

    return make


TOKENIZERS = {
    "plain": plain,
    "adding-bos": adding(f"{BOS} $A"),
    "adding-eos": adding(f"$A {EOS}"),
    "adding-both": adding(f"{BOS} $A {EOS}"),
    "without-bos": without_bos,
    "with-bos-only": with_bos_only,
    "with-added-tokens": with_added_tokens,
    "unigram": unigram(),
    "unigram-adding-bos": unigram(single=f"{BOS} $A"),
}


@pytest.fixture(params=TOKENIZERS)
def make_tokenizer(request):
    return TOKENIZERS[request.param]


@pytest.fixture
def both(tiny, monkeypatch):
    """Return a function that makes our encoder and a function for what HFLM would score.

    Each has a tokenizer of its own, for lm-eval changes the one that it is given.
    """

    def make(variant, make_tokenizer, length=LENGTH):
        harness = HFLM(
            pretrained=load_hf(tiny(variant)),
            tokenizer=make_tokenizer(tiny(variant)),
            max_length=length,
            batch_size=1,
        )
        captured = []

        def capture(requests, **_):
            for _, context, continuation in requests:
                # The method that this replaces begins with these checks.
                assert len(context) > 0
                assert len(continuation) > 0
                assert len(continuation) <= length
                captured.append(TokenRequest(tuple(context), tuple(continuation)))
            return [(0.0, False)] * len(requests)

        monkeypatch.setattr(harness, "_loglikelihood_tokens", capture)

        def reference(document, rolling):
            captured.clear()
            method = "loglikelihood_rolling" if rolling else "loglikelihood"
            instances = [Instance(method, {}, a, i) for i, a in enumerate(document.requests)]
            getattr(harness, method)(instances, disable_tqdm=True)
            return list(captured)

        return Encoder(make_tokenizer(tiny(variant)), length), reference

    return make


def flat(requests: list[list[TokenRequest]]) -> list[TokenRequest]:
    return [part for request in requests for part in request]


@pytest.mark.slow
def test_every_pair_is_split_as_in_lm_eval_or_refused_by_both(both, make_tokenizer):
    encoder, reference = both("untied", make_tokenizer)
    refused = 0
    for pair in product(CONTEXTS, CONTINUATIONS):
        document = Document(3, "key", "unit", (pair,))
        try:
            expected = reference(document, rolling=False)
        except (AssertionError, IndexError):
            expected = None
        if expected is None:
            refused += 1
            with pytest.raises(UserError) as error:
                encoder.encode(document, rolling=False)
            assert "document 3, request 1 of 1: the con" in one_line(error), pair
        else:
            found = flat(encoder.encode(document, rolling=False))
            assert found == expected, pair
    assert 0 < refused < len(CONTEXTS) * len(CONTINUATIONS) / 4


def test_a_text_is_cut_into_windows_as_in_lm_eval(both, make_tokenizer):
    encoder, reference = both("untied", make_tokenizer, length=32)
    for text in {*TEXTS, *CONTEXTS, *CONTINUATIONS}:
        document = Document(0, "key", "unit", ((text,),))
        (windows,) = encoder.encode(document, rolling=True)
        assert windows == reference(document, rolling=True), text
        scored = [token for window in windows for token in window.continuation]
        assert scored == encoder.tok_encode(text)
        assert all(len(w.context) + len(w.continuation) - 1 <= 32 for w in windows)


def test_all_requests_of_a_document_are_encoded_in_their_order(both, make_tokenizer):
    """Also the same twice, and some that begin others."""
    encoder, reference = both("untied", make_tokenizer)
    endings = (" past", " past the mill", " past", " p", "\n past")
    document = Document(0, "key", "unit", tuple(("The river runs", end) for end in endings))
    found = encoder.encode(document, rolling=False)
    assert len(found) == 5 and flat(found) == reference(document, rolling=False)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("The wat", "er"), "'er' has no token of its own after 'The wat': the tokenizer joins"),
        (("The river", ""), "the continuation '' has no token of its own after 'The river'; lm"),
        (("", ""), "the continuation '' has no token of its own after ''; lm-eval"),
        (("", BOS), f"the continuation '{BOS}' has no token of its own after ''; lm-eval"),
        ((" ", "x"), "the context ' ' has no token for 'x' to follow; lm-eval"),
    ],
)
def test_a_request_without_tokens_is_refused_by_name(tiny, pair, message):
    document = Document(5, "key", "unit", (("The river", " runs"), pair))
    with pytest.raises(UserError) as error:
        Encoder(load_tokenizer(tiny()), LENGTH).encode(document, rolling=False)
    assert "document 5, request 2 of 2: " in one_line(error) and message in str(error.value)
    if "joins" in message:
        assert "in one token, 'Ġwater'" in str(error.value)


@pytest.mark.parametrize("rolling", [False, True])
def test_a_token_without_an_embedding_is_refused_by_name(tiny, rolling):
    tokenizer = load_tokenizer(tiny())
    tokenizer.add_tokens(["[PAD]"])
    encoder = Encoder(tokenizer, LENGTH, vocab_size=384)
    texts = ("The river [PAD]",) if rolling else ("The [PAD] river", " runs")
    with pytest.raises(UserError) as error:
        encoder.encode(Document(5, "key", "unit", (texts,)), rolling)
    assert "document 5, request 1 of 1: token '[PAD]' is id 384" in one_line(error)
    assert "only 384 embeddings" in str(error.value)
    fine = Document(5, "key", "unit", (("The river",) if rolling else ("The", " river"),))
    assert encoder.encode(fine, rolling)


def test_a_tokenizer_without_a_token_to_begin_with_is_refused(tiny):
    """lm-eval fails at the first text."""
    tokenizer = load_tokenizer(tiny())
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(UserError) as error:
        Encoder(tokenizer, LENGTH)
    assert str(tiny()) in one_line(error) and "neither a BOS nor an EOS" in str(error.value)


@pytest.mark.parametrize("variant", ["qwen2", "mistral"])
@pytest.mark.parametrize("name", ["arc_easy", "winogrande", "lambada_openai", "boolq_passages"])
def test_whole_tasks_are_encoded_as_in_lm_eval(both, tmp_path, variant, name):
    encoder, reference = both(variant, plain, length=512)
    task = load_task(task_settings(tmp_path, name))
    for document in task.documents(task.indices(None)):
        found = encoder.encode(document, task.rolling)
        assert len(found) == len(document.requests)
        assert flat(found) == reference(document, task.rolling)


def pair_of_length(encoder: Encoder, tokens: int) -> Document:
    """Return a context of so many tokens, and a continuation of one."""
    context = " ".join("a" * tokens)
    while len(encoder.tok_encode(context)) > tokens:
        context = context[:-2]
    assert len(encoder.tok_encode(context)) == tokens
    return Document(7, "key", "unit", ((context, ","),))


def test_a_request_that_just_fits_is_taken(both):
    """The last token is only predicted: it needs no place in the context."""
    encoder, _ = both("untied", plain)
    (request,) = flat(encoder.encode(pair_of_length(encoder, LENGTH), rolling=False))
    assert len(request.context) == LENGTH and len(request.continuation) == 1


def test_a_request_longer_than_the_context_is_refused_with_its_length(both):
    """lm-eval would cut it on the left."""
    encoder, _ = both("untied", plain)
    with pytest.raises(UserError) as error:
        encoder.encode(pair_of_length(encoder, LENGTH + 1), rolling=False)
    assert f"document 7: a request of {LENGTH + 1} tokens" in one_line(error)
    assert f"context of {LENGTH}" in str(error.value)


def test_generation_is_refused(tiny):
    with pytest.raises(UserError):
        Encoder(load_tokenizer(tiny()), 64).generate_until([])
