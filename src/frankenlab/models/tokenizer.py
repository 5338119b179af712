"""Whether a model's tokenizer goes with the model, and with its own tokenizer.json."""

import logging
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from frankenlab.io.errors import UserError

log = logging.getLogger(__name__)


def check_vocabulary(tokenizer: Any, vocab_size: int, where: str) -> None:
    """Checks that the model has an embedding for every token of its tokenizer.

    A token that was added to the tokenizer afterwards (often "[PAD]") may have none: that harms no
    text without it, so there is a warning, and `encoding.Encoder` refuses the texts that have it.

    Raises:
        UserError: ordinary tokens have none: the tokenizer is another model's.
    """
    beyond = {i: token for token, i in tokenizer.get_vocab().items() if i >= vocab_size}
    if not beyond:
        return
    ordinary = beyond.keys() - tokenizer.added_tokens_decoder.keys()
    example = min(ordinary or beyond)
    reason = (
        f"{where}: the tokenizer has id {max(beyond)}, the model only {vocab_size} embeddings; "
        f"token {beyond[example]!r} is id {example}"
    )
    if ordinary:
        raise UserError(f"{reason}; the tokenizer is another model's")
    log.warning("%s; a text with such a token is refused, others are scored", reason)


def warn_of_other_tokens(tokenizer: Any, directory: Path, texts: Sequence[str], name: str) -> None:
    """Warns where tokenizer.json by itself would cut one of `texts` into other tokens.

    transformers goes by the name of a class or by the model's type, and some classes bring a
    splitting of their own: GPT2Tokenizer splits spaces before digits otherwise than the
    tokenizer.json of SmolLM2 does. Scores are of the tokens that transformers makes, as in lm-eval.
    """
    if not (directory / "tokenizer.json").is_file():
        return
    from tokenizers import Tokenizer

    alone = Tokenizer.from_file(str(directory / "tokenizer.json"))
    for text in texts:
        found, other = tokenizer.encode(text), alone.encode(text).ids
        if found != other:
            pairs = zip_longest(map(tokenizer.decode, found), map(tokenizer.decode, other))
            one, another = next((a, b) for a, b in pairs if a != b)
            log.warning(
                "%s: transformers' %s cuts %r otherwise than tokenizer.json by itself, the first "
                "time into %r and not %r; scores are of its tokens, as lm-eval's are",
                *(name, type(tokenizer).__name__, text, one, another),
            )
            return
