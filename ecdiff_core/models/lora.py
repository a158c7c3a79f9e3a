"""LoRA files on top of the models of a pair."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from ecdiff_core.errors import PairError, first_line
from ecdiff_core.models.families import Family
from ecdiff_core.models.pair_spec import Lora, PairSpec
from ecdiff_core.models.weight_headers import check_header

_NAME = "pytorch_lora_weights.safetensors"
"""What diffusers saves."""
_DOWN = ("lora_A.weight", "lora.down.weight", "lora_down.weight")
"""Ends of the names of one of the two matrices of a layer."""


def find_lora(spec: PairSpec) -> tuple[Lora, ...]:
    """The adapters of a pair, with absolute paths and fingerprints of their files.

    Raises:
        PairError: peft is not installed, a file is not there, or not the one whose fingerprint is asked for.
    """
    if spec.lora and find_spec("peft") is None:
        raise PairError(
            "LoRA needs peft, which is not installed.",
            key="pair.lora",
            expected=["peft"],
            advice="Run `pip install peft`, or leave pair.lora empty.",
        )
    return found_files(spec.lora)


def found_files(adapters: Sequence[Lora]) -> tuple[Lora, ...]:
    """The adapters with absolute paths and fingerprints of their files.

    Raises:
        PairError: a file is not there, or not the one whose fingerprint is asked for.
    """
    return tuple(_found(lora) for lora in adapters)


def _found(lora: Lora) -> Lora:
    path = Path(lora.path).expanduser().absolute()
    path = path / _NAME if path.is_dir() else path
    if not path.is_file():
        advice = f"Give a .safetensors file, or a folder with {_NAME}."
        raise PairError(f"No LoRA at {path}.", key=str(path), advice=advice)
    check_header(path)
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    if lora.fingerprint not in (None, got):
        raise PairError(
            f"The LoRA {path} is another file (fingerprint {got}) than the config was tuned for "
            f"({lora.fingerprint}).",
            key=str(path),
            got=got,
            expected=lora.fingerprint or "",
            advice="Use that one, tune again, or set the fingerprint to null.",
        )
    return replace(lora, path=str(path), fingerprint=got)


def adapted(fingerprint: str, adapters: Sequence[Lora]) -> str:
    """The fingerprint of weights with adapters on them; without any, that of the weights.

    >>> adapted("0123456789abcdef", [])
    '0123456789abcdef'
    """
    if not adapters:
        return fingerprint
    parts = [fingerprint, *(f"{lora.fingerprint} {float(lora.weight)}" for lora in adapters)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def load_lora(family: Family, edge: nn.Module, adapters: Sequence[Lora]) -> tuple[str, ...]:
    """Put the adapters on the cloud (text encoders included) and on the edge, as diffusers does.

    Args:
        adapters: as ``find_lora`` gave them.

    Returns:
        A line for each adapter of which some layers have no place in a model.

    Raises:
        PairError: a file is damaged, or changes nothing in a model that it is for.
    """
    notes = []
    for number, lora in enumerate(adapters):
        for side, model in (("cloud", family.denoiser), ("edge", edge)):
            if lora.on not in (side, "both"):
                continue
            try:
                given = _read(family, model, lora)
                if side == "cloud":
                    family.pipeline.load_lora_weights(lora.path, adapter_name=_name(number))
                else:
                    _load_on(model, family.denoiser_part, given, _name(number))
            except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
                line = f"The LoRA {lora.path} does not fit the {side}: {first_line(error)}."
                raise PairError(line, key=lora.path, got=side) from error
            encoders = [m for m in family.models if m not in (family.denoiser, family.vae)]
            notes += _without_place(lora, side, given, model, encoders if side == "cloud" else [], number)
    _weigh(family, edge, adapters)
    return tuple(notes)


def _name(number: int) -> str:
    return f"ecdiff_{number}"


def _read(family: Family, model: Any, lora: Lora) -> dict[str, Any]:
    """The arguments of ``load_lora_adapter``: tensors by the name of a part and a layer, and the rest."""
    configs = {"unet_config": model.config} if family.denoiser_part == "unet" else {}
    state, *more = family.pipeline_class.lora_state_dict(lora.path, return_lora_metadata=True, **configs)
    alphas = {"network_alphas": more[0]} if len(more) == 2 else {}
    return {"pretrained_model_name_or_path_or_dict": state, "metadata": more[-1], **alphas}


def _load_on(model: Any, part: str, given: dict[str, Any], name: str) -> None:
    model.load_lora_adapter(**given, prefix=part, adapter_name=name)


def _without_place(
    lora: Lora, side: str, given: dict[str, Any], model: nn.Module, encoders: Sequence[nn.Module], number: int
) -> list[str]:
    """Nothing where every layer of an adapter is in the models that it is for."""
    found = sum(_layers(one, _name(number)) for one in (model, *encoders))
    parts = ("unet.", "transformer.") if side == "edge" else ("",)
    names = [name for name in given["pretrained_model_name_or_path_or_dict"] if name.startswith(parts)]
    whole = sum(name.endswith(_DOWN) for name in names)
    if found == 0:
        raise PairError(
            f"The LoRA {lora.path} changes nothing in the {side}: none of its layers is one of the model's.",
            key=lora.path,
            got=side,
            advice="Give one that was trained for this model, or leave it out there (on: cloud or edge).",
        )
    if found < whole:
        return [f"{whole - found} of {whole} layers of the LoRA {lora.path} have no place in the {side}"]
    return []


def _layers(model: nn.Module, name: str) -> int:
    """How many layers of a model carry an adapter."""
    return sum(name in getattr(layer, "lora_A", {}) for layer in model.modules())


def _weigh(family: Family, edge: Any, adapters: Sequence[Lora]) -> None:
    for model in (*family.models, edge):
        carried = [i for i in range(len(adapters)) if _layers(model, _name(i))]
        if not carried:
            continue
        weights = [float(adapters[i].weight) for i in carried]
        if hasattr(model, "set_adapters"):  # of diffusers
            model.set_adapters([_name(i) for i in carried], weights)
        else:
            from diffusers.utils.peft_utils import set_weights_and_activate_adapters

            set_weights_and_activate_adapters(model, [_name(i) for i in carried], weights)
