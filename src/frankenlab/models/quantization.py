"""How a model's weights are quantized: not at all, or to EXL2 at a bitrate."""

import re
from typing import NamedTuple

from frankenlab.io.errors import UserError, excerpt

# What bit widths of 2 to 8 and their scales come to in any shape; a model allows a little less.
LOWEST_BITS, HIGHEST_BITS = 2.0, 8.5

ALLOWED = (
    f'allowed: "none", or "exl2-" and bits per weight from {LOWEST_BITS} to {HIGHEST_BITS}, such '
    'as "exl2-4.0"'
)


class Quantization(NamedTuple):
    """`bits` are those per weight of the decoder layers' linear layers, None for "none"."""

    format: str
    bits: float | None = None

    @classmethod
    def parse(cls, text: str, where: str = "quantization") -> "Quantization":
        """Read "none" or "exl2-<bits>".

        Raises:
            UserError: anything else; says what is allowed. `where` is the place, for the message.
        """
        if text == "none":
            return NONE
        match = re.fullmatch(r"exl2-([0-9](?:\.[0-9]{1,3})?)", text)
        if match is None or not LOWEST_BITS <= float(match[1]) <= HIGHEST_BITS:
            raise UserError(f'{where}: "{excerpt(text)}" is no quantization; {ALLOWED}')
        return cls("exl2", float(match[1]))

    @property
    def text(self) -> str:
        """The one spelling that names files and rows: "none", "exl2-4.0", "exl2-4.25"."""
        return "none" if self.bits is None else f"{self.format}-{self.bits}"


NONE = Quantization("none")
