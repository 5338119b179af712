"""GPUs by their data sheets, for predictions of runs on cards that are not here."""

from dataclasses import dataclass
from typing import Literal

CardName = Literal["h100", "h100-pcie", "h200", "a100", "a100-40gb", "l40s", "a40", "rtx-4090"]


@dataclass(frozen=True)
class Card:
    """A GPU and what its data sheet promises.

    Attributes:
        tflops: of dense bfloat16 products with sums in float32, in 10^12 operations a second.
        float32_tflops: of float32 products without TF32.
        memory_gb: in 10^9 bytes.
    """

    name: str
    tflops: float
    float32_tflops: float
    memory_gb: float


# NVIDIA's data sheets of H100, H200, A100, L40S and A40, and the Ada architecture's white paper for
# the RTX 4090. Where a data sheet gives a rate with sparsity, half of it. "h100" is the SXM one.
CARDS = {
    card.name: card
    for card in (
        Card("h100", 989.4, 66.9, 80),
        Card("h100-pcie", 756.5, 51.0, 80),
        Card("h200", 989.4, 66.9, 141),
        Card("a100", 312.0, 19.5, 80),
        Card("a100-40gb", 312.0, 19.5, 40),
        Card("l40s", 362.05, 91.6, 48),
        Card("a40", 149.7, 37.4, 48),
        Card("rtx-4090", 165.2, 82.6, 24),
    )
}
