"""The four numbers that say how cloud and edge share a generation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ecdiff_core.errors import ParamsError


@dataclass(frozen=True)
class ECDiffParams:
    """(p, k, alpha, s) of EC-Diff, in the paper's letters; steps count upwards from 0.

    Args:
        p: warm-up steps with real cloud calls; 0 … s, and at least 2 when k >= 1 (eq. 3 needs two noises).
        k: approximated steps between two real cloud calls; 0 means none (HybridSD).
        alpha: factor of the noise gradient after a correcting call (eq. 6), 0 < alpha <= 1.
        s: steps done on the cloud side, 0 … T. s = 0 is edge only; k = 0 and s = T is cloud only.

    Raises:
        ParamsError: a value is out of range.

    >>> ECDiffParams(p=7, k=2, alpha=0.3, s=34)
    ECDiffParams(p=7, k=2, alpha=0.3, s=34)
    """

    p: int
    k: int
    alpha: float
    s: int

    def __post_init__(self) -> None:
        for name in ("p", "k", "s"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ParamsError(f"Expected {name} to be a whole number >= 0, got {value!r}.")
        alpha = self.alpha
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
            raise ParamsError(f"Expected alpha to be a number, 0 < alpha <= 1, got {alpha!r}.")
        if not 0 < alpha <= 1:
            raise ParamsError(f"Expected 0 < alpha <= 1, got alpha={alpha}. The paper searches 0.1 … 0.9.")
        if self.p > self.s:
            raise ParamsError(
                f"Expected p <= s, got p={self.p}, s={self.s}. Lower p or raise s "
                "(steps count from the start)."
            )
        if self.k >= 1 and self.p < 2:
            raise ParamsError(
                f"Expected p >= 2 when k >= 1, got p={self.p}, k={self.k}. "
                "The first gradient (eq. 3) needs two real noises; use k=0 to run without approximation."
            )

    @classmethod
    def cloud_only(cls, num_steps: int) -> ECDiffParams:
        """The baseline in which the cloud model does every step."""
        return cls(p=0, k=0, alpha=1.0, s=num_steps)

    @classmethod
    def edge_only(cls) -> ECDiffParams:
        """The baseline in which the edge model does every step."""
        return cls(p=0, k=0, alpha=1.0, s=0)

    @classmethod
    def hybrid(cls, s: int) -> ECDiffParams:
        """HybridSD (arXiv 2408.06646): s real cloud steps, then the edge model."""
        return cls(p=0, k=0, alpha=1.0, s=s)
