"""Tokens are exactly those that lm-eval's Hugging Face model would score."""

import pytest
from conftest import load_hf, load_task, one_line, passage, task_settings
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers.processors import TemplateProcessing

from frankenlab.batches import TokenRequest
from frankenlab.encoding import Encoder, count_tokens
from frankenlab.errors import UserError
from frankenlab.models import load_tokenizer
from frankenlab.tasks import Document

LENGTH = 64

PAIRS = [
    ("The river runs", " past the old mill"),
    ("The river runs ", "past the old mill"),  # lm-eval moves the space to the continuation
    ("The river runs \n ", "x"),
    ("", "The river"),
    ("", "<|begin|>The river"),
    ("", "<|end|>The river"),
    ("<|begin|>The river", " runs"),
    ("größer \u00a0", "日本"),
    ("a", "b"),
]

TEXTS = [
    "a",
    "The river runs past the old mill.",
    "<|begin|>The river runs",
    passage(1, 20),
    passage(2, 200),  # several windows
    "日本 größer\n\n",
    "",
]


def plain(directory):
    return load_tokenizer(directory)


def adding_bos(directory):
    """As LLaMA's: every text begins with the BOS token."""
    tokenizer = load_tokenizer(directory)
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
    )
    assert tokenizer.encode("a")[0] == 0
    return tokenizer


def without_bos(directory):
    """As Qwen2's: there is no BOS token, so EOS stands before a text."""
    tokenizer = load_tokenizer(directory)
    tokenizer.bos_token = None
    return tokenizer


TOKENIZERS = [plain, adding_bos, without_bos]


@pytest.fixture
def both(tiny, monkeypatch):
    """Makes our encoder and a function that hands back what HFLM would score, as ours does."""

    def make(variant, make_tokenizer, length=LENGTH):
        tokenizer = make_tokenizer(tiny(variant))
        harness = HFLM(
            pretrained=load_hf(tiny(variant)), tokenizer=tokenizer, max_length=length, batch_size=1
        )
        captured = []

        def capture(requests, **_):
            captured.extend(TokenRequest(tuple(c), tuple(t)) for _, c, t in requests)
            return [(0.0, False)] * len(requests)

        monkeypatch.setattr(harness, "_loglikelihood_tokens", capture)

        def reference(document, rolling):
            captured.clear()
            method = "loglikelihood_rolling" if rolling else "loglikelihood"
            instances = [Instance(method, {}, a, i) for i, a in enumerate(document.requests)]
            getattr(harness, method)(instances, disable_tqdm=True)
            return list(captured)

        return Encoder(tokenizer, length), reference

    return make


def flat(requests: list[list[TokenRequest]]) -> list[TokenRequest]:
    return [part for request in requests for part in request]


@pytest.mark.parametrize("make_tokenizer", TOKENIZERS)
@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_is_split_as_in_lm_eval(both, make_tokenizer, pair):
    encoder, reference = both("untied", make_tokenizer)
    document = Document(0, "key", "unit", (pair,))
    found = encoder.encode(document, rolling=False)
    assert flat(found) == reference(document, rolling=False)
    assert all(r.context and r.continuation for r in flat(found))


@pytest.mark.parametrize("make_tokenizer", TOKENIZERS)
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_cut_into_windows_as_in_lm_eval(both, make_tokenizer, text):
    encoder, reference = both("untied", make_tokenizer, length=32)
    document = Document(0, "key", "unit", ((text,),))
    (windows,) = encoder.encode(document, rolling=True)
    assert windows == reference(document, rolling=True)
    scored = [token for window in windows for token in window.continuation]
    assert scored == encoder.tok_encode(text)
    assert all(len(w.context) + len(w.continuation) - 1 <= 32 for w in windows)


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
    """A context of so many tokens, and a continuation of one."""
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


def test_tokens_are_counted_as_lm_eval_would_send_them():
    """Nothing shared; the last token of a continuation is not sent."""
    requests = [[TokenRequest((1, 2, 3), (4,)), TokenRequest((1,), (2, 3))]]
    assert count_tokens(requests) == 3 + 2


def test_generation_is_refused(tiny):
    with pytest.raises(UserError):
        Encoder(load_tokenizer(tiny()), 64).generate_until([])
