"""What EXL2 can hold, as numbers: bit widths, words and the sizes of layers.

Nothing here needs torch, so that a config's bitrates can be checked without loading it.
"""

from frankenlab.io.errors import UserError
from frankenlab.models.shape import ATTENTION, ModelShape

WORD = 32  # bits
BITS = (2, 3, 4, 5, 6, 8)
# Outputs are padded to a multiple of this; inputs must be one, for the kernels read 32 rows.
ALIGNMENT = 32
# exllamav2's attention takes these outputs without their padding.
UNPADDED = ATTENTION[:3]
# Positions of inputs are 16-bit in memory, starts of groups on disk too.
MOST_INPUTS = 65536


def packed_words(rows: int, bits: int) -> int:
    """Return the number of words that a column of `rows` codes takes."""
    return -(-rows * bits // WORD)


def padded(out_features: int) -> int:
    """Return the number of outputs as stored."""
    return -(-out_features // ALIGNMENT) * ALIGNMENT


def check_inputs(name: str, in_features: int) -> None:
    """Check that the format can hold a layer of that many inputs.

    Raises:
        UserError: it cannot.
    """
    if in_features % ALIGNMENT or not 0 < in_features <= MOST_INPUTS:
        raise UserError(
            f"tensor '{name}': {in_features} inputs cannot be stored as EXL2, which takes "
            f"multiples of {ALIGNMENT} up to {MOST_INPUTS}"
        )


def check_outputs(shape: ModelShape, unpadded: tuple[str, ...] = UNPADDED) -> None:
    """Check that exllamav2 can take the outputs of these linear layers without their padding.

    Raises:
        UserError: it cannot; names the tensor.
    """
    for name, (outputs, _) in shape.linears.items():
        if name.endswith(unpadded) and outputs % ALIGNMENT:
            raise UserError(
                f"tensor '{name}.weight': {outputs} outputs; exllamav2 takes multiples of "
                f"{ALIGNMENT}"
            )
