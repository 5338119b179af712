"""A model's tokenizer: loading it, and whether it goes with the model and its tokenizer.json."""

import logging
import os
from itertools import zip_longest
from pathlib import Path
from typing import Any

from frankenlab.io.errors import UserError, one_line
from frankenlab.models.files import TOKENIZER_FILES, read_json

log = logging.getLogger(__name__)

# The class that is just what tokenizer.json says, as transformers 4 and 5 call it.
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")

# Where tokenizers of this family are known to disagree: digits after runs of spaces and line
# breaks, contractions, capitals, accents (composed and not), scripts, symbols, code.
SAMPLES = (
    "The quick brown fox jumps over the lazy dog.",
    "In 1969, 600 million people watched; 12,345.678 + 9 = ?",
    "a  12\n\n34\t 5\r\n   6",
    "Question: What's 7 x 8?\nAnswer: 56",
    "I'll say they've DON'T it's WE'RE",
    "  leading and trailing  ",
    "caf\u00e9 cafe\u0301 na\u00efve \u0416\u0443\u043a \u6771\u4eac \u0639\u0631\u0628\u064a",
    "def f(x):\n    return x**2  # squared\n\n\nclass A: pass",
    "\U0001f642 \u2014 \u201cquoted\u201d \u2260 \u00bd \u00b2 \u2167",
    "",
)


def load_tokenizer(directory: str | os.PathLike) -> Any:
    """Return the tokenizer of a model's directory: the one of `AutoTokenizer`, as lm-eval takes it.

    Raises:
        UserError: there is none that loads without running code from the directory.
    """
    import transformers

    # Absolute, because AutoTokenizer makes exceptions of models by how their paths begin.
    folder = Path(directory).absolute()
    try:
        # Without a tokenizer transformers makes an empty one for some architectures.
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):
            raise FileNotFoundError("no tokenizer files")
        kind = getattr(transformers, _tokenizer_class(folder))
        tokenizer = kind.from_pretrained(folder, trust_remote_code=False)
        # Some settings of the wrong type are only noticed when a text is encoded.
        tokenizer.encode("A text.")
        return tokenizer
    except Exception as error:
        reason = one_line(error)[:200]
        raise UserError(f"{directory}: its tokenizer cannot be loaded ({reason})") from error


def _tokenizer_class(directory: Path) -> str:
    """Return the name of the class in which AutoTokenizer ends, where it is known without asking.

    On its way AutoTokenizer imports the model's configuration, which takes seconds.
    """
    files = (directory / name for name in ("config.json", "tokenizer_config.json"))
    model, settings = (read_json(file) if file.is_file() else {} for file in files)
    if settings.get("fast_tokenizer_files"):
        raise ValueError("fast_tokenizer_files names files that a copy of the model would not have")
    if "auto_map" in settings or (directory / "tekken.json").exists():
        return "AutoTokenizer"
    if model.get("model_type") == "qwen2":
        return "Qwen2Tokenizer"  # whatever the settings name
    generic = settings.get("tokenizer_class") in GENERIC
    known = generic and model.get("model_type") in ("llama", "mistral")
    return "PreTrainedTokenizerFast" if known else "AutoTokenizer"


def check_vocabulary(tokenizer: Any, vocab_size: int, where: str) -> None:
    """Check that the model has an embedding for every token of its tokenizer.

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


def warn_of_other_tokens(tokenizer: Any, directory: Path, name: str) -> None:
    """Warn where tokenizer.json by itself would cut one of `SAMPLES` into other tokens.

    transformers goes by the name of a class or by the model's type, and some classes bring a
    splitting of their own: GPT2Tokenizer splits spaces before digits otherwise than the
    tokenizer.json of SmolLM2 does. Scores are of the tokens that transformers makes, as in lm-eval.
    """
    if not (directory / "tokenizer.json").is_file():
        return
    from tokenizers import Tokenizer

    alone = Tokenizer.from_file(str(directory / "tokenizer.json"))
    for text in SAMPLES:
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
