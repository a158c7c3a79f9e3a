"""What a method needs measured on a model before it can be used, on the prompts that are tuned on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch

from ecdiff_core.io.atomic_files import write_text
from ecdiff_core.methods.enable import enable
from ecdiff_core.methods.mag_cache import measuring
from ecdiff_core.methods.method import Method
from ecdiff_core.models.families.guidance import is_guided
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_tune.data.calibration import CalibrationSet

PROMPTS = 8
"""How many are enough: the ratios hardly differ from prompt to prompt."""


def ratios(
    method: Method, pipe: ECDiffPipeline, prompts: CalibrationSet, path: Path, calls: Counter[str]
) -> dict[str, tuple[float, ...]]:
    """The calibrated values of a method, of this model and T: measured once, then read.

    Args:
        path: of the JSON file that keeps them.
        calls: to count model calls in.
    """
    if not method.calibrated:
        return {}
    (name,) = method.calibrated
    if path.is_file():
        return {name: tuple(json.loads(path.read_text(encoding="utf-8")))}
    found: list[Sequence[float]] = []
    plain = tuple(one for one in method.parameters if one.kind != "floats")
    bare = replace(method, parameters=plain, switch=lambda target, _: measuring(target, found))
    for prompt, seed in list(zip(prompts.prompts, prompts.seeds, strict=True))[:PROMPTS]:
        with enable(
            bare,
            pipe.pair.cloud,
            {},
            num_steps=pipe.num_steps,
            guided=is_guided(pipe.pair.cloud, pipe.config.sampling.guidance_scale),
            video=pipe.pair.family.media == "video",
        ):
            pipe(prompt, generator=torch.Generator().manual_seed(seed), output_type="latent")
        calls.update(cloud=pipe.num_steps)
    mean = [round(fmean(step), 5) for step in zip(*found, strict=True)]
    write_text(path, json.dumps(mean) + "\n")
    return {name: tuple(mean)}
