"""Requests of lm-evaluation-harness -> token ids, exactly as its Hugging Face model makes them."""

from collections.abc import Sequence

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import has_bos_prefix
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import PreTrainedTokenizerBase

from frankenlab.batches import TokenRequest
from frankenlab.errors import UserError
from frankenlab.tasks import Document


class Encoder(TemplateLM):
    """Tokenizes documents; the split of context and continuation is `TemplateLM`'s own.

    It is a model that hands back the tokens of each request instead of scoring them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.max_length = max_length

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """Conditions the first token of a text: BOS, or EOS where there is none (as HFLM)."""
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

    def _loglikelihood_tokens(self, requests, **kwargs):  # noqa: ANN001, ANN202
        return [TokenRequest(tuple(context), tuple(target)) for _, context, target in requests]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):  # noqa: ANN001, ANN201
        return [self._windows(text) for (text,) in (request.args for request in requests)]

    def generate_until(self, requests, disable_tqdm=False):  # noqa: ANN001, ANN201
        raise UserError("generation tasks are not scored by log-likelihood")

    def encode(self, document: Document, rolling: bool) -> list[list[TokenRequest]]:
        """Token requests of each request of a document (several for a text in windows).

        Raises:
            UserError: a request is longer than the model's context.
        """
        instances = [
            Instance("loglikelihood_rolling" if rolling else "loglikelihood", {}, arguments, i)
            for i, arguments in enumerate(document.requests)
        ]
        if rolling:
            return self.loglikelihood_rolling(instances)
        requests = self.loglikelihood(instances, disable_tqdm=True)
        for request in requests:
            self._check_length(request, document)
        return [[request] for request in requests]

    def _windows(self, text: str) -> list[TokenRequest]:
        windows = get_rolling_token_windows(
            self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=1
        )
        pairs = map(make_disjoint_window, windows)
        return [TokenRequest(tuple(context), tuple(target)) for context, target in pairs]

    def _check_length(self, request: TokenRequest, document: Document) -> None:
        """lm-eval would cut the context on the left; a comparison of plans must not hide that."""
        length = len(request.context) + len(request.continuation) - 1
        if length > self.max_length:
            raise UserError(
                f"document {document.index}: a request of {length} tokens is longer than the "
                f"model's context of {self.max_length}; use fewer few-shot examples or another task"
            )


def count_tokens(requests: Sequence[Sequence[TokenRequest]]) -> int:
    """Tokens as lm-eval would send them: nothing shared."""
    return sum(len(r.context) + len(r.continuation) - 1 for request in requests for r in request)
