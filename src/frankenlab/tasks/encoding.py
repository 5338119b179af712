"""Requests of lm-evaluation-harness -> token ids, as its own Hugging Face model makes them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import configure_pad_token, has_bos_prefix
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from frankenlab.engines.token_tree import TokenRequest, TokenTree, token_tree
from frankenlab.io.errors import UserError
from frankenlab.io.files import content_hash
from frankenlab.models.directory import model_shape
from frankenlab.models.tokenizer import check_vocabulary, load_tokenizer
from frankenlab.tasks.task import Document

# A tokenizer is loaded only where a row is missing, and importing transformers takes long.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The most characters of a text that an error shows.
SHOWN = 40


class Encoder(TemplateLM):
    """Tokenizes documents; `TemplateLM` splits them into context and continuation.

    For lm-eval it is a model, which returns the tokens of each request instead of their scores.

    Args:
        max_length: the most tokens that the model reads.
        vocab_size: the number of the model's embeddings; None checks no token against it.

    Raises:
        UserError: the tokenizer has no token that could stand before a text.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", max_length: int, vocab_size: int | None = None
    ) -> None:
        super().__init__()
        # lm-eval's model does the same; it may add a token.
        self.tokenizer = configure_pad_token(tokenizer)
        self.max_length = max_length
        self.vocab_size = vocab_size
        if self.prefix_token_id is None:
            raise UserError(
                f"{tokenizer.name_or_path or 'tokenizer'}: it has neither a BOS nor an EOS token, "
                "one of which lm-eval puts before every text; name one in tokenizer_config.json"
            )

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """Return the token before a text: BOS, or EOS where there is none (as in HFLM)."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: object
    ) -> list[int]:
        if add_special_tokens is None and has_bos_prefix(
            string, self.tokenizer.decode(self.prefix_token_id)
        ):
            add_special_tokens = False
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return self.tokenizer.encode(string, **special)

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> Any:
        return [(context, target) for _, context, target in requests]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        return [self._windows(text) for (text,) in (request.args for request in requests)]

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        raise UserError("generation tasks are not scored by log-likelihood")

    def encode(self, document: Document, rolling: bool) -> list[list[TokenRequest]]:
        """Return the token requests of each request of a document (several for a text in windows).

        Raises:
            UserError: lm-eval could not score a request, or would score something else: it is
                longer than the model's context, one side of it has no token, or a token has no
                embedding. The message names the document and the request.
        """
        instances = [
            Instance("loglikelihood_rolling" if rolling else "loglikelihood", {}, arguments, i)
            for i, arguments in enumerate(document.requests)
        ]
        if rolling:
            encoded = self.loglikelihood_rolling(instances)
        else:
            # lm-eval would look at the first token of such a continuation, and there is none.
            for i, (context, continuation) in enumerate(document.requests):
                if context == "" and not self.tok_encode(continuation, add_special_tokens=False):
                    raise self._without_tokens(document, i, [self.prefix_token_id], [])
            pairs = self.loglikelihood(instances, disable_tqdm=True)
            for i, (context, target) in enumerate(pairs):
                if not (context and target):
                    raise self._without_tokens(document, i, context, target)
            encoded = [[TokenRequest(tuple(context), tuple(t))] for context, t in pairs]
        for i, requests in enumerate(encoded):
            for request in requests:
                self._check_length(request, document)
                self._check_embeddings(request, document, i)
        return encoded

    def _windows(self, text: str) -> list[TokenRequest]:
        windows = get_rolling_token_windows(
            self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=1
        )
        pairs = map(make_disjoint_window, windows)
        return [TokenRequest(tuple(context), tuple(target)) for context, target in pairs]

    def _without_tokens(
        self, document: Document, number: int, context_tokens: list[int], target: list[int]
    ) -> UserError:
        context, continuation = document.requests[number]
        shown = repr(context if len(context) <= SHOWN else f"…{context[-SHOWN:]}")
        what = f"document {document.index}, request {number + 1} of {len(document.requests)}: "
        if not context_tokens:
            what += f"the context {shown} has no token for {continuation!r} to follow"
        else:
            what += f"the continuation {continuation!r} has no token of its own after {shown}"
            whole = self.tok_encode(context + continuation) if context else target
            pairs = zip(whole, [*context_tokens, None], strict=False)
            joined = next((a for a, b in pairs if a != b), None)
            if continuation and joined is not None:
                token = self.tokenizer.convert_ids_to_tokens(joined)
                what += f": the tokenizer joins the two in one token, {token!r}"
        return UserError(
            f"{what}; lm-eval cannot score it: end the context and begin the continuation where "
            "words do"
        )

    def _check_embeddings(self, request: TokenRequest, document: Document, number: int) -> None:
        highest = max(*request.context, *request.continuation)
        if self.vocab_size is not None and highest >= self.vocab_size:
            token = self.tokenizer.convert_ids_to_tokens(highest)
            raise UserError(
                f"document {document.index}, request {number + 1} of {len(document.requests)}: "
                f"token {token!r} is id {highest}; the model has only {self.vocab_size} embeddings"
            )

    def _check_length(self, request: TokenRequest, document: Document) -> None:
        """Refuse a request whose context lm-eval would silently cut on the left."""
        length = len(request.context) + len(request.continuation) - 1
        if length > self.max_length:
            raise UserError(
                f"document {document.index}: a request of {length} tokens is longer than the "
                f"model's context of {self.max_length}; use fewer few-shot examples or another task"
            )


def encoder_of(directory: str | Path) -> Encoder:
    """Return the encoder for the model in a directory.

    Raises:
        UserError: as `load_tokenizer`, `model_shape`, `check_vocabulary` and `Encoder`.
    """
    info, tokenizer = model_shape(directory), load_tokenizer(directory)
    check_vocabulary(tokenizer, info.vocab_size, str(directory))
    return Encoder(tokenizer, info.max_position_embeddings, info.vocab_size)


def requests_name(document: Document) -> str:
    """Return the name of a document's requests, equal for documents with equal requests."""
    return content_hash(document.requests)


def document_trees(
    encoder: Encoder, documents: Iterable[Document], rolling: bool, task: str
) -> dict[str, TokenTree]:
    """Return the token tree of each document's requests, by their name.

    A text in windows has all its windows under one request.

    Raises:
        UserError: as `Encoder.encode`, with the name of the task.
    """
    try:
        return {requests_name(d): _tree(encoder.encode(d, rolling)) for d in documents}
    except UserError as error:
        raise UserError(f'task "{task}": {error}') from error


def _tree(requests: Sequence[Sequence]) -> TokenTree:
    tree = token_tree(part for request in requests for part in request)
    parts = iter(tree.requests)
    tree.requests = [[i for _ in request for i in next(parts)] for request in requests]
    return tree
