"""DPCache: dynamic programming over the steps with a real call, by a table of what skipped stretches cost.

Own code after the outline of the method. The table is made on full runs of a few prompts: [i, j, k] is the
error of what is predicted at the steps between the real steps j and k from the answers at i and j, summed
over these steps. Here errors are squared distances of guided noises, which a Gram matrix holds, in place of
distances of features; what an error does to the final latents is not weighed, as in the method.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Schedule = tuple[int, ...]


def costs(gram: Array, linear: bool) -> Array:
    """The table [i, j, k], shape (T, T, T + 1); infinite where the order is not i < j < k.

    Args:
        gram: <eps_i, eps_j> of a run, or their mean over prompts, shape (T, T).
        linear: whether skipped steps go along the line through the last two answers; else the last is used
            again.
    """
    steps = len(gram)
    found = np.full((steps, steps, steps + 1), np.inf)
    for i in range(steps):
        for j in range(i + 1, steps):
            ahead = np.arange(j + 1, steps)
            slope = (ahead - j) / (j - i) if linear else np.zeros(len(ahead))
            factors = np.zeros((len(ahead), steps))
            factors[:, j], factors[:, i] = 1 + slope, -slope
            factors[np.arange(len(ahead)), ahead] -= 1
            errors = np.einsum("mi,ij,mj->m", factors, gram, factors)
            found[i, j, j + 1 :] = np.concatenate([[0.0], np.cumsum(errors)])
    return found


def search(gram: Array, calls: int, linear: bool) -> Schedule:
    """The list of so many real steps whose skipped stretches cost least; it begins with steps 0 and 1.

    >>> line = np.array([0.0, 1, 2, 3, 3, 3, 3, 3])
    >>> search(np.outer(line, line), 4, linear=True)
    (0, 1, 3, 4)
    """
    table, steps = costs(gram, linear), len(gram)
    best, origins = np.full((steps, steps), np.inf), []
    best[0, 1] = 0.0
    for _ in range(calls - 2):
        longer = best[:, :, None] + table[:, :, :steps]
        origins.append(longer.argmin(axis=0))
        best = longer.min(axis=0)
    i, j = np.unravel_index(np.argmin(best + table[:, :, steps]), best.shape)
    found = [int(j), int(i)]
    for origin in reversed(origins):
        found.append(int(origin[found[-1], found[-2]]))
    return tuple(reversed(found))
