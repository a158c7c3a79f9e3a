"""How scores are written for people: the same digits wherever a number comes from.

YAML files keep five digits and the ledger all. A number that is rounded from one of them to four digits may
differ from the same number rounded from the other, so both go by the five.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal

KEPT_DIGITS = 5
"""Of scores in YAML files. Images of one config differ by some 1e-7 of SSIM with their batches."""


def shown(value: float, digits: int = 4) -> str:
    """A score in so many digits.

    >>> shown(0.799949), shown(0.79995), f"{0.799949:.4f}", f"{0.79995:.4f}"
    ('0.8000', '0.8000', '0.7999', '0.8000')
    >>> shown(0.88427, 3), shown(1), shown(0.8186503), shown(float("inf"))
    ('0.884', '1.0000', '0.8187', 'inf')
    """
    if not math.isfinite(value):
        return str(float(value))
    return str(Decimal(f"{value:.{KEPT_DIGITS}f}").quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))
