"""What a method skipped: which parts of the denoiser ran in each of its calls."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True)
class DenoiserCall:
    """One call of the denoiser.

    Args:
        work: share of its weights that were applied, 0 … 1; weights applied to half a batch count half.
        parts: digest of which layers ran, on how much of the batch.
    """

    work: float
    parts: str

    @property
    def is_whole(self) -> bool:
        """Whether nothing was reused."""
        return self.work >= 1


@dataclass(frozen=True)
class Hits:
    """The calls of one generation, in order."""

    calls: tuple[DenoiserCall, ...]

    @property
    def reused(self) -> int:
        """Calls in which something was reused."""
        return sum(not one.is_whole for one in self.calls)

    @property
    def work(self) -> float:
        """Mean share of the weights that a call applied; 1 is no acceleration."""
        return sum(one.work for one in self.calls) / max(1, len(self.calls))

    @property
    def pattern(self) -> str:
        """12 hex digits: equal where the same layers ran in the same calls."""
        return hashlib.sha256(" ".join(one.parts for one in self.calls).encode()).hexdigest()[:12]

    def __str__(self) -> str:
        """Computed (C) and reused (R) calls, run-length encoded.

        >>> whole, reused = DenoiserCall(1, "a"), DenoiserCall(0.25, "b")
        >>> str(Hits((whole, whole, reused, whole)))
        '2C1R1C'
        """
        runs = groupby("C" if one.is_whole else "R" for one in self.calls)
        return "".join(f"{len(list(run))}{kind}" for kind, run in runs)
