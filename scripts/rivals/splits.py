"""How others share the steps between a large and a small model: T-Stitch and SRDiffusion."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecdiff_core.sampling.params import ECDiffParams

SWITCH = 0.01
"""SRDiffusion's threshold."""


def t_stitch(cloud_calls: int, num_steps: int) -> ECDiffParams:
    """T-Stitch (arXiv 2402.14167): the small model first, then the large one, which refines.

    >>> t_stitch(2, 5).edge_schedule, t_stitch(2, 5).schedule
    ((0, 1, 2), (3, 4))
    """
    edge = range(num_steps - cloud_calls)
    return ECDiffParams.interleaved(range(len(edge), num_steps), edge, alpha=1.0)


def srdiffusion_switch(
    gram: NDArray[np.float64], earliest: int, latest: int, threshold: float = SWITCH
) -> int:
    """SRDiffusion (arXiv 2505.19151): the step at which the small model takes over, of one prompt.

    With d_i = |eps_i - eps_{i-1}| / |eps_i|, the step after the first i with d_{i-1} - d_i < ``threshold``:
    the answer's change has stopped falling. Here |.| is the Euclidean length, which a Gram matrix holds.

    Args:
        gram: <eps_i, eps_j> of the large model's own run, shape (T, T).
        earliest, latest: the switch lies between them.

    >>> eps = np.array([[0.0, 1], [1, 1], [1.5, 1], [1.8, 1], [1.81, 1], [1.82, 1]])
    >>> srdiffusion_switch(eps @ eps.T, 2, 5, threshold=0.15), srdiffusion_switch(eps @ eps.T, 2, 3)
    (4, 3)
    """
    lengths = np.diag(gram)
    apart = lengths[1:] + lengths[:-1] - 2 * np.diag(gram, 1)
    change = np.sqrt(np.maximum(apart, 0) / lengths[1:])  # of steps 1, 2, …
    settled = [i + 2 for i in np.flatnonzero(change[:-1] - change[1:] < threshold) + 1]
    return next((int(step) for step in settled if earliest <= step <= latest), latest)
