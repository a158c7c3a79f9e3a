"""Which of some names somebody meant who typed another."""

from __future__ import annotations

import re
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

    Of names in one group (``sampling.width``) and a word in it, what follows the group is compared.

    >>> meant("grid", ["exhaustive", "greedy"]), meant("ddim", ["DDIMScheduler", "DEISMultistepScheduler"])
    ('exhaustive', 'DDIMScheduler')
    """
    group = word.rpartition(".")[0]
    if group and all(name.startswith(f"{group}.") for name in known):
        names = [name.removeprefix(f"{group}.") for name in known]
        name = meant(word.removeprefix(f"{group}."), names)
        return None if name is None else f"{group}.{name}"
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
    mistakes = {
        name: min(distance(wanted, plain[name]), distance(word.casefold(), name.casefold())) for name in known
    }
    close = min(known, key=mistakes.__getitem__, default=None)
    if close is not None and mistakes[close] <= (len(wanted) + 1) // 3:
        return close
    if not long_enough:
        return None
    parts = {name: [_plain(part) for part in re.split(r"[_./-]", name)] for name in known}
    limit = len(wanted) // 4
    inside = [name for name in known if wanted in plain[name]]
    inside += [name for name in known if any(distance(wanted, part) <= limit for part in parts[name])]
    return inside[0] if inside else None


def distance(one: str, other: str) -> int:
    """Letters to add, leave out, change, or swap with the next, until one word is the other.

    >>> distance("gradeint", "gradient"), distance("stepz", "width")
    (1, 5)
    """
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        earlier, before, row = before, row, [i]
        for j, wanted in enumerate(other, start=1):
            least = min(before[j] + 1, row[-1] + 1, before[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and (letter, one[i - 2]) == (other[j - 2], wanted):
                least = min(least, earlier[j - 2] + 1)
            row.append(least)
    return row[-1]


def _plain(name: str) -> str:
    """Without what people leave out: case, marks between words, the kind of class, torch's own prefix.

    >>> _plain("DDIMScheduler"), _plain("torch.float16"), _plain("hybrid_10")
    ('ddim', 'float16', 'hybrid10')
    """
    bare = name.casefold().removeprefix("torch.")
    for kind in ("scheduler", "sampler"):
        bare = bare.removesuffix(kind) or bare
    return "".join(character for character in bare if character not in " _-./")
