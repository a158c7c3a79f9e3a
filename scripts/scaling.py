"""What a study of the paper's pairs takes on 1, 8 and 64 GPUs, computed: the tables of docs/scaling.md.

    python scripts/scaling.py

Nothing is measured here. Seconds a call are those of Table 6 over T = 50 steps, calls are counted as the
evaluator makes them for the whole default grid with sharing, and the rest is said beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from types import SimpleNamespace
from typing import Any

import pandas as pd

import quiet_terminal  # noqa: F401
from ecdiff_core import ECDiffParams
from ecdiff_tune.evaluation import latency
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.prefix_sharing import Generations
from ecdiff_tune.report.table_files import markdown
from ecdiff_tune.search.spaces import Stage1Space, Stage2Space

T = 50
KS, ALPHAS, S_VALUES = (1, 2, 3, 4, 5), tuple(a / 10 for a in range(1, 10)), tuple(range(30, 41))
PROMPTS, HELDOUT = 100, 50
EXCHANGE_SECONDS = 0.003
"""Of the three exchanges of a trial between two processes on two cores; taken to grow with ranks."""
RANKS = (1, 8, 64)
STATE_BYTES = 16
"""A value of the latents: the latents, two noises and a gradient in float32."""


@dataclass(frozen=True)
class Pair:
    """A pair of the paper.

    Args:
        cloud, edge: seconds of a whole generation (Table 6).
        params: (p, k, alpha, s) of Table 5; p and (k, alpha) as if stage 1 had found them.
        image_values: of an image or video, all frames.
        latent_values: of its latents.
        parameters: of both denoisers.
    """

    name: str
    cloud: float
    edge: float
    params: ECDiffParams
    image_values: int
    latent_values: int
    parameters: int


PAIRS = (
    Pair(
        "SDXL + Segmind-Vega",
        6.25,
        3.27,
        ECDiffParams(6, 5, 0.2, 36),
        3 * 1024 * 1024,
        4 * 128 * 128,
        2_567_463_684 + 745_225_604,
    ),
    Pair(
        "CogVideoX 5B + 2B",
        245.0,
        91.0,
        ECDiffParams(10, 3, 0.2, 38),
        49 * 3 * 480 * 720,
        13 * 16 * 60 * 90,
        5_570_283_072 + 1_693_783_872,
    ),
)


@dataclass(frozen=True)
class Calls:
    """Of one prompt."""

    cloud: int
    edge: int
    decodes: int

    def seconds(self, pair: Pair) -> float:
        """One prompt at a time; a decode as long as a cloud call."""
        return ((self.cloud + self.decodes) * pair.cloud + self.edge * pair.edge) / T


def calls(pair: Pair) -> dict[str, Calls]:
    """Of the parts of a study, a prompt; stage 2 on top of stage 1, the winner's held-out run unshared."""
    sampling = SimpleNamespace(handoff="aligned")
    pipe: Any = SimpleNamespace(num_steps=T, config=SimpleNamespace(sampling=sampling))
    nothing: Any = None
    shared: Any = SimpleNamespace()
    generations = Generations(pipe, nothing, nothing, shared, S_VALUES)
    winner = Candidate(pair.params)
    stage1 = Stage1Space(pair.params.p, KS, ALPHAS, T).grid
    stage2 = Stage2Space.of(winner, S_VALUES, T, "aligned").grid
    first, both = (
        generations.most_calls(one.resolve(T, "aligned") for one in some)
        for some in (stage1, (*stage1, *stage2))
    )
    once = winner.resolve(T, "aligned").plan
    return {
        "reference": Calls(T, T, 2),
        "stage 1": Calls(*first, len(stage1)),
        "stage 2": Calls(both[0] - first[0], both[1] - first[1], len(stage2)),
        "held-out": Calls(T + once.cloud_calls, T + once.edge_calls, 3),
    }


def block_size(ranks: int) -> int:
    """The batch_size: the default, or what keeps the most ranks busy."""
    return min(25, ceil(PROMPTS / ranks))


def prompts_of_a_rank(prompts: int, ranks: int) -> int:
    """Of the busiest one."""
    size = block_size(ranks)
    return min(prompts, ceil(ceil(prompts / size) / ranks) * size)


def generating(pair: Pair, ranks: int) -> float:
    """Seconds of the busiest rank, its prompts one after the other."""
    return sum(
        prompts_of_a_rank(HELDOUT if part == "held-out" else PROMPTS, ranks) * one.seconds(pair)
        for part, one in calls(pair).items()
    )


def undivided(pair: Pair, ranks: int) -> dict[str, float]:
    """Seconds that more ranks do not shorten."""
    c, e = pair.cloud / T, pair.edge / T
    trials = sum(one.decodes for name, one in calls(pair).items() if name.startswith("stage"))
    return {
        "profile": latency.CALLS * (2 * c + e),
        "samples": pair.params.s * c + (T - pair.params.s) * e,  # HybridSD, which no trial was
        "exchanges": trials * (ranks - 1) * EXCHANGE_SECONDS,
    }


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def main() -> None:
    show(
        {
            "pair": pair.name,
            "part": part,
            "cloud calls": one.cloud,
            "edge calls": one.edge,
            "decodes": one.decodes,
            "seconds a prompt": f"{one.seconds(pair):.1f}",
        }
        for pair in PAIRS
        for part, one in calls(pair).items()
    )
    show(speed(pair, ranks) for pair in PAIRS for ranks in RANKS)
    show(memory(pair, ranks) for pair in PAIRS for ranks in RANKS)


def show(rows: Iterable[dict[str, object]]) -> None:
    print("\n" + markdown(pd.DataFrame(rows)), end="")


def speed(pair: Pair, ranks: int) -> dict[str, object]:
    alone = generating(pair, 1) + sum(undivided(pair, 1).values())
    parts = {"generating": generating(pair, ranks), **undivided(pair, ranks)}
    parts["in all"] = sum(parts.values())
    return {
        "pair": pair.name,
        "GPUs": ranks,
        "batch_size": block_size(ranks),
        **{name: duration(seconds) for name, seconds in parts.items()},
        "speedup": f"{alone / parts['in all']:.1f}",
    }


def memory(pair: Pair, ranks: int) -> dict[str, object]:
    kept = 1 + len(KS) + len(S_VALUES)  # the warm-up, each k's first window, the winner's handoffs
    sizes = {
        "weights a GPU, GB": 2 * pair.parameters,
        "states a rank, GB": kept * prompts_of_a_rank(PROMPTS, ranks) * STATE_BYTES * pair.latent_values,
        "references on rank 0 at a time, GB": block_size(ranks) * 4 * pair.image_values,
    }
    return {"pair": pair.name, "GPUs": ranks, **{name: f"{size / 1e9:.2f}" for name, size in sizes.items()}}


if __name__ == "__main__":
    main()
