"""Which of some names somebody meant who typed another."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

_MEANT = {
    "float16": ("fp16", "half", "f16", "16"),
    "bfloat16": ("bf16", "brainfloat"),
    "float32": ("fp32", "f32", "full", "float", "single", "32"),
    "cuda": ("gpu", "nvidia"),
    "mps": ("gpu", "metal"),
    "xpu": ("gpu",),
    "auto": ("gpu", "default"),
    "exhaustive": ("grid", "gridsearch", "bruteforce", "full", "all"),
    "optuna": ("random", "tpe", "bayes", "bayesian", "gp", "cmaes", "nsga2", "randomsearch"),
    "predict": ("forecast",),
    "tpe": ("bayes", "bayesian"),
    "grid": ("exhaustive",),
    "on": ("true", "yes", "1"),
    "off": ("false", "no", "0"),
    "none": ("false", "no", "off", "null", "local"),
    "wifi": ("wlan", "wireless"),
    "DPMSolverMultistepScheduler": ("dpm++", "dpm++2m", "dpmpp", "dpmpp2m", "dpmsolver++", "dpm"),
    "EulerDiscreteScheduler": ("eulera", "eulerancestral"),
    "PNDMScheduler": ("plms",),
    "CogVideoXDDIMScheduler": ("ddim",),
    "FlowMatchEulerDiscreteScheduler": ("flow", "flowmatch", "euler"),
    "tensorboard": ("tb",),
    "wandb": ("wb", "w&b"),
    "first_block_cache": ("fbcache", "fbc"),
    "tuned": ("ecdiff",),
    "clip": ("clipscore",),
    "tune": ("run", "train", "start", "optimize", "optimise", "search"),
    "compare": ("benchmark", "bench"),
    "report": ("html", "page", "show"),
}
"""What people type in place of a name, as ``_plain`` writes it."""
_LEAST = 3
"""Letters of a name that stand for the whole of it."""


def meant(word: str, known: Sequence[str]) -> str | None:
    """The name that ``word`` stands for: by another name, by its beginning or a part, or mistyped; or None.

    >>> meant("grid", ["exhaustive", "greedy"]), meant("ddim", ["DDIMScheduler", "DEISMultistepScheduler"])
    ('exhaustive', 'DDIMScheduler')
    """
    wanted, plain = _plain(word), {name: _plain(name) for name in known}
    if not wanted:
        return None
    alike = [name for name in known if plain[name] == wanted]
    alike += [name for name, others in _MEANT.items() if name in plain and wanted in others]
    if alike:
        return alike[0]
    long_enough = len(wanted) >= _LEAST
    begun = [name for name in known if long_enough and plain[name].startswith(wanted)]
    if begun:
        return min(begun, key=len)
    for typed, spelt in ((word.casefold(), str.casefold), (wanted, _plain)):
        by_spelling = {spelt(name): name for name in reversed(known)}
        if close := difflib.get_close_matches(typed, by_spelling, n=1):
            return by_spelling[close[0]]
    return next((name for name in known if long_enough and wanted in plain[name]), None)


def _plain(name: str) -> str:
    """Without what people leave out: case, marks between words, the kind of class, torch's own prefix.

    >>> _plain("DDIMScheduler"), _plain("torch.float16"), _plain("hybrid_10")
    ('ddim', 'float16', 'hybrid10')
    """
    bare = name.casefold().removeprefix("torch.")
    for kind in ("scheduler", "sampler"):
        bare = bare.removesuffix(kind) or bare
    return "".join(character for character in bare if character not in " _-./")
