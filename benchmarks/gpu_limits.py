"""How far exllamav2's log-probabilities may be from those of float32 arithmetic.

No constant will do: on a plan that runs the first layer three times over, rounding to 16 bits alone
moves single log-probabilities by several nats, and on others by hundredths. So torch in bfloat16
sets the scale, plan by plan: exllamav2 computes in float16, which rounds more finely (torch in
float16 is at a ninth of bfloat16's mean, exllamav2 on an H100 was at an eighth to three quarters),
and may be no farther from float32 than that, but for a small allowance.

The mean decides: over a hundred log-probabilities the ratio of two means of rounding varies by a
tenth. A largest difference is one number of hundreds, and on a chaotic plan as large as the plan
lets any error grow, so it has room, and is there for a fault at a few positions. On the tiny model
a wrong layer, a scale that is off by a tenth, positions that are shifted by one in half of a row,
and answers that see each other all exceed these limits.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

# Times what bfloat16 rounding does, plus so many nats for models on which it does nearly nothing.
MEAN_TIMES, MEAN_MORE = 1.2, 0.0002
LARGEST_TIMES, LARGEST_MORE = 2.0, 0.005


@dataclass(frozen=True)
class Gap:
    """How far one plan's log-probabilities are from those in float32, in nats."""

    mean: float
    largest: float

    @classmethod
    def between(cls, found: torch.Tensor, exact: torch.Tensor) -> "Gap":
        difference = (found.double() - exact.double()).abs()
        return cls(float(difference.mean()), float(difference.max()))


def too_far(found: Gap, bf16: Gap) -> bool:
    """Tell whether exllamav2's gap is more than rounding, where torch's is `bf16`; NaN is."""
    mean = found.mean <= MEAN_TIMES * bf16.mean + MEAN_MORE
    largest = found.largest <= LARGEST_TIMES * bf16.largest + LARGEST_MORE
    return not (mean and largest)


def plans_too_far(found: Mapping[str, Gap], bf16: Mapping[str, Gap]) -> str:
    """Return the plans on which exllamav2 is too far from float32, in words; "" if there is none.

    Args:
        found, bf16: plan text -> gap of that engine.
    """
    wrong = [text for text in found if too_far(found[text], bf16[text])]
    return "; ".join(
        f"plan {text}: mean {found[text].mean:.3g}, largest {found[text].largest:.3g} (torch bf16: "
        f"{bf16[text].mean:.3g}, {bf16[text].largest:.3g})"
        for text in wrong
    )
