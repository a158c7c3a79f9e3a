"""Pair after pair on one device, and what a reader must know of that device."""

from __future__ import annotations

import gc
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ecdiff_core import __version__
from ecdiff_core.errors import ECDiffError
from ecdiff_core.models.devices import get_device, get_dtype
from ecdiff_tune.evaluation.link import Link
from full_size.measure import ALONE, VARIANTS, Measured, measure
from full_size.models import SCALES, Scale
from full_size.pairs import GIB, BenchmarkError, build_pair, choose, compiled, tuned_config

PAPER_LINK = Link(mbps=18.88)
OUT_OF_MEMORY = ("out of memory", "can't allocate memory")
"""What torch's RuntimeErrors say on accelerators and on CPUs."""


@dataclass(frozen=True)
class Settings:
    """What to measure: the command line's options.

    Raises:
        ECDiffError: one of them is unknown or cannot be used here.
    """

    pair: str
    size: str
    device: str | None
    dtype: str | None
    repeats: int
    compiled: bool
    variants: tuple[str, ...] = VARIANTS

    def __post_init__(self) -> None:
        choose(self.pair)
        if self.size not in SCALES:
            raise BenchmarkError.unknown("size", self.size, SCALES)
        if self.repeats < 1:
            raise BenchmarkError(key="--repeats", got=self.repeats, expected=">= 1")
        for name in self.variants:
            if name not in VARIANTS:
                raise BenchmarkError.unknown("variant", name, VARIANTS)
        if missing := {ALONE, "EC-Diff"} - {*self.variants}:
            raise BenchmarkError(key="--variants", got=self.variants, expected=f"with {', '.join(missing)}")
        get_dtype(self.dtype or "float32")
        on_cpu = get_device(self.device).type == "cpu"
        if on_cpu and self.size == "full" and self.device != "cpu":
            raise BenchmarkError(
                "No accelerator here, and on a CPU full size takes hours.",
                key="--size",
                got=self.size,
                advice="Use --size reduced, or --device cpu if you mean it.",
            )

    def dtype_on(self, device: torch.device) -> str | None:
        """The precision asked for; on a CPU float32, which it is made for; else None, the pair's own."""
        return self.dtype or ("float32" if device.type == "cpu" else None)


@dataclass
class Benchmark:
    """What was found, and why pairs are missing."""

    environment: dict[str, Any]
    measurements: dict[str, dict[str, Measured]] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def tree(self) -> dict[str, Any]:
        """Everything, for JSON; seconds are those of every round."""
        pairs = {}
        for name, modes in self.measurements.items():
            pairs[name] = dict(self.facts[name])
            for mode, one in modes.items():
                ways = {
                    way: {"plan": ran.plan.schedule, "seconds": ran.seconds}
                    for way, ran in one.generations.items()
                }
                pairs[name][mode] = {"calls": one.calls, "generations": ways}
                pairs[name]["transfer_seconds"] = one.transfer_seconds
        return {"environment": self.environment, "pairs": pairs, "missing": self.missing}


def run(settings: Settings, on_pair: Callable[[Benchmark], None]) -> Benchmark:
    """Measure the pairs of ``settings``; one that cannot be measured is told in ``missing``.

    Args:
        on_pair: called with what there is so far, before the first and after every pair.
    """
    device = get_device(settings.device)
    benchmark = Benchmark(_environment(settings, device))
    on_pair(benchmark)
    for name in choose(settings.pair):
        print(f"measuring {name}", file=sys.stderr, flush=True)
        try:
            facts, measured = _measure_pair(name, settings, device)
        except ECDiffError as error:
            benchmark.missing[name] = str(error)
        except (RuntimeError, MemoryError) as error:
            if not (isinstance(error, MemoryError) or any(t in str(error) for t in OUT_OF_MEMORY)):
                raise
            benchmark.missing[name] = f"{device} ran out of memory. Use a larger one, or --size reduced."
        else:
            benchmark.facts[name], benchmark.measurements[name] = facts, measured
        on_pair(benchmark)
        _free(device, settings.compiled)
    return benchmark


def _measure_pair(
    name: str, settings: Settings, device: torch.device
) -> tuple[dict[str, Any], dict[str, Measured]]:
    scale: Scale = SCALES[settings.size]
    config = tuned_config(name, scale, settings.dtype_on(device))
    dtype = config.sampling.dtype
    pair = build_pair(config, scale, device, get_dtype(dtype))
    pairs = {"eager": pair} | ({"compiled": compiled(pair)} if settings.compiled else {})
    # Smaller latents would not cross in the time that the paper counts.
    link = PAPER_LINK if settings.size == "full" else None
    measured = measure(pairs, config, settings.repeats, link, settings.variants)
    facts: dict[str, Any] = {
        "dtype": dtype,
        "parameters": {"cloud": _parameters(pair.cloud), "edge": _parameters(pair.edge)},
        "params": config.params.tree(),
        "size": [config.sampling.height, config.sampling.width, config.sampling.num_frames],
    }
    if device.type == "cuda":
        facts["peak_memory_gib"] = round(torch.cuda.max_memory_allocated(device) / GIB, 1)
    return facts, measured


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _free(device: torch.device, compiled_too: bool) -> None:
    """Give the memory of a measured pair, and what was compiled for it, back."""
    if compiled_too:
        torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _environment(settings: Settings, device: torch.device) -> dict[str, Any]:
    versions = {name: version(name) for name in ("torch", "diffusers")}
    return {
        "device": _device_name(device),
        "versions": {"ecdiff": __version__, "python": platform.python_version(), **versions},
        "size": settings.size,
        "repeats": settings.repeats,
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    if device.type != "cpu":
        return str(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()
