"""What the sampler itself costs: a whole EC-Diff generation over the sum of its model calls, same run.

    python scripts/bench_sampler.py [--config YAML] [--runs 20]

Every call of the text encoder, the two denoisers and the decoder is timed by forward hooks, synchronised;
what is left is ours and diffusers': plan, noise history, scheduler steps, guidance, pre- and postprocessing.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from ecdiff_core import ECDiffParams, ModelRef, PairSpec, Sampling, TunedConfig
from ecdiff_core.io.console import quiet_libraries
from ecdiff_core.models.devices import synchronize

WARM_UP_RUNS = 3


def embedded() -> TunedConfig:
    """The embedded pair with the paper's parameters for Stable Diffusion and BK-SDM-Small (Table 5)."""
    pair = PairSpec("shapes", ModelRef("embedded:shapes/cloud"), ModelRef("embedded:shapes/edge"))
    return TunedConfig(pair, ECDiffParams(p=7, k=2, alpha=0.3, s=34), Sampling(guidance_scale=3.0))


class CallTimer:
    """Adds up the seconds of the modules' forward passes."""

    def __init__(self, modules: list[nn.Module], device: torch.device) -> None:
        self.seconds = 0.0
        self._device = device
        for module in modules:
            module.register_forward_pre_hook(self._begin)
            module.register_forward_hook(self._end)

    def _begin(self, *_: object) -> None:
        synchronize(self._device)
        self._started = time.perf_counter()

    def _end(self, *_: object) -> None:
        synchronize(self._device)
        self.seconds += time.perf_counter() - self._started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help="tuned config (default: the embedded pair, p=7 k=2 alpha=0.3 s=34)")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--device", default=None)
    args = parser.parse_args()
    quiet_libraries()
    from ecdiff_core import ECDiffPipeline

    pipe = ECDiffPipeline.from_config(args.config or embedded(), device=args.device)
    inner = pipe.pair.family.pipeline
    timer = CallTimer([pipe.pair.cloud, pipe.pair.edge, inner.text_encoder, inner.vae.decoder], inner.device)
    wholes, ratios = [], []
    for run in range(WARM_UP_RUNS + args.runs):
        timer.seconds = 0.0
        output = pipe("a large red circle in the center", generator=torch.Generator().manual_seed(run))
        if run >= WARM_UP_RUNS:
            wholes.append(output.seconds.total)
            ratios.append(output.seconds.total / timer.seconds)
    print(f"{output.plan} on {inner.device}, median of {args.runs} runs at batch 1")
    print(f"whole generation {statistics.median(wholes):.4f} s")
    low, median, high = statistics.quantiles(ratios, n=4)
    print(f"whole / model calls {median:.4f} (quartiles {low:.4f} … {high:.4f})")


if __name__ == "__main__":
    main()
