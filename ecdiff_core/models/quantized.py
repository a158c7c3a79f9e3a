"""Models that were saved quantised, as the ``quantization_config`` in their config.json says."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ecdiff_core.errors import PairError
from ecdiff_core.models.weight_files import part_path

_PACKAGES = {"bitsandbytes": "bitsandbytes", "torchao": "torchao", "quanto": "optimum.quanto", "gguf": "gguf"}
"""What must be installed, by ``quant_method``; others are left to diffusers and transformers."""
_PIP = {"optimum.quanto": "optimum-quanto"}


def quant_method(folder: Path, part: str) -> str | None:
    """How a part of a model is quantised; None where it is not."""
    path = part_path(folder, part) / "config.json"
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
        return str(config["quantization_config"]["quant_method"])
    except (OSError, ValueError, KeyError, TypeError):  # what is damaged is refused elsewhere
        return None


def check_quantized(folder: Path, part: str) -> None:
    """Refuse a quantised part for which a package lacks, before anything is loaded.

    Raises:
        PairError: it does.
    """
    method = quant_method(folder, part)
    package = _PACKAGES.get(method or "")
    if package is not None and not _installed(package):
        pip = _PIP.get(package, package)
        path = part_path(folder, part)
        raise PairError(
            f"{path} is quantised by {method}, which is not installed.",
            key=str(path),
            got=method,
            expected=[package],
            advice=f"Run `pip install {pip}`, or give a model that is not quantised.",
        )


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of optimum.quanto without optimum
        return False
