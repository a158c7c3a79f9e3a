"""Whether the models in memory are those that a config was tuned for."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.torch_utils import unwrap_module
from torch import nn

from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import PairError
from ecdiff_core.hook.checks import denoiser_of
from ecdiff_core.models.devices import DTYPES, get_dtype
from ecdiff_core.models.find import is_from
from ecdiff_core.models.lora import adapted
from ecdiff_core.models.model_folder import fingerprint
from ecdiff_core.models.pair_files import common_family, parts_of
from ecdiff_core.models.pair_spec import ModelRef
from ecdiff_core.models.tensor_digest import files_digest, parts_digests, tensor_digest, values_digest
from ecdiff_core.models.weight_files import AUTO, by_variant, part_path

_UNCHECKED = "pass check_weights=False to apply_ecdiff"


def check_weights(pipe: Any, edge: Any, config: TunedConfig) -> None:
    """Refuse models that are not the config's: by their tensors, or else by the files of their folders.

    A config of version 1 knows files alone; one without fingerprints is compared by folders' names.

    Args:
        edge: a pipeline, a denoiser, or None for a plan that does not call it.

    Raises:
        PairError: they are swapped, all zero, or other ones.
    """
    holders = {"cloud": pipe} if edge is None else {"cloud": pipe, "edge": edge}
    models = {side: unwrap_module(denoiser_of(holder)) for side, holder in holders.items()}
    for name, model in {**models, **_other_parts(pipe)}.items():
        if _is_zero(model):
            line = f"All weights of the {name} model are zero: it was never loaded."
            raise PairError(line, key=name, got=0, advice="Load it again.")
    dtype = get_dtype(config.sampling.dtype)
    tensors = {side: tensor_digest(model, dtype) for side, model in models.items()}
    _check_not_swapped(models["cloud"], tensors["cloud"], config)
    for side, model in models.items():
        tuned: ModelRef = getattr(config.pair, side)
        digest = tensors[side]
        if tuned.tensors and digest:
            _check_same(side, model, "tensors", digest, tuned)
            continue
        got, lora = None, config.pair.lora_on("cloud" if side == "cloud" else "edge")
        if tuned.fingerprint:
            found = _fingerprint(side, model, None if tuned.variant == AUTO else tuned.variant)
            got = None if found is None else adapted(found, lora)
        if got is not None:
            _check_same(side, model, "fingerprint", got, tuned)
        if got is not None and not lora and _is_as_in_files(side, model):
            continue
        if tuned.tensors or (tuned.fingerprint and got is None):
            warnings.warn(_uncompared(side, tuned, config, got), stacklevel=2)
    _compare_parts(pipe, config)


def _compare_parts(pipe: Any, config: TunedConfig) -> None:
    """Name an autoencoder or text encoder that is not the config's; it may be, as both models share it."""
    tuned = config.pair.cloud.parts or {}
    there = {name: part for name, part in getattr(pipe, "components", {}).items() if name in tuned}
    dtype = get_dtype(config.sampling.dtype)
    exact = {
        name: part
        for name, part in there.items()
        if isinstance(part, nn.Module) and getattr(part, "dtype", None) in (dtype, torch.float32)
    }
    other = [name for name, got in parts_digests(exact, dtype).items() if got != tuned[name]]
    if other:
        warnings.warn(
            f"The pipeline's {' and '.join(other)} has other weights than the config was tuned with: cloud "
            "and edge share it, but p, k, alpha and s were chosen by images that it made. Tune again if that "
            "matters.",
            stacklevel=3,
        )


def _is_as_in_files(side: str, model: nn.Module) -> bool:
    """Whether a model in memory is that of its folder's files in the model's own dtype, of whatever variant.

    A model that was rounded to half precision cannot be compared with digests in float32; its files can be
    rounded likewise.

    Raises:
        PairError: it is another one.
    """
    folder, dtype = _folder(model), getattr(model, "dtype", torch.float32)
    if folder is None or dtype not in DTYPES.values() or getattr(model, "peft_config", None):
        return False
    got = values_digest(model.state_dict().values(), dtype)
    part = next((part for part in ("unet", "transformer") if (folder / part).is_dir()), "unet")
    here = part_path(folder, part)
    variants = by_variant(path.name for path in here.glob("*.safetensors")).values()
    known = [files_digest([here / name for name in names], dtype) for names in variants]
    if got is None or not known or None in known:
        return False
    if got not in known:
        raise PairError(
            f"The {side} model has other weights in memory than its files in {here}, which the config was "
            "tuned for.",
            key=f"{side}.files",
            got=str(here),
            advice=f"Load it again, tune again, or, for a LoRA or a fine-tune, {_UNCHECKED}.",
        )
    return True


def _uncompared(side: str, tuned: ModelRef, config: TunedConfig, files: str | None) -> str:
    """What of a model's weights is not compared, and why."""
    why = f"they cannot be had in {config.sampling.dtype}, in which it was tuned"
    if files is not None:
        return (
            f"The {side} model's weights in memory were not compared with the config: {why}. Its files are."
        )
    files_why = "the folder that it was loaded from is not known, not there, or of another kind"
    reason = f"in memory {why}; of its files {files_why}" if tuned.tensors else files_why
    return (
        f"The {side} model's weights were not compared with the config: {reason}. Make sure that they are "
        f"those of {tuned.id}."
    )


def _other_parts(pipe: Any) -> dict[str, nn.Module]:
    """The models of a pipeline beside its denoiser: text encoders, autoencoder."""
    denoiser, parts = denoiser_of(pipe), getattr(pipe, "components", {})
    return {
        name: part for name, part in parts.items() if isinstance(part, nn.Module) and part is not denoiser
    }


def _is_zero(model: nn.Module) -> bool:
    """Whether every parameter is, as far as they can be read here: not offloaded, not quantised."""
    readable = [
        parameter
        for parameter in model.parameters()
        if not parameter.is_meta and type(parameter) is nn.Parameter and parameter.dtype in DTYPES.values()
    ]
    return bool(readable) and not any(bool(parameter.any()) for parameter in readable)


def _check_not_swapped(cloud: nn.Module, tensors: str | None, config: TunedConfig) -> None:
    ours, theirs = config.pair.cloud, config.pair.edge
    folder = _folder(cloud)
    by_tensors = tensors is not None and tensors == theirs.tensors != ours.tensors
    by_place = folder is not None and is_from(folder, theirs) and not is_from(folder, ours)
    if by_tensors or (by_place and ours.tensors is None):
        raise PairError(
            f"The pipeline's model is the config's edge ({theirs.id}): cloud and edge are swapped.",
            key="cloud",
            got=theirs.id,
            expected=ours.id,
            advice=f"Give apply_ecdiff the pipeline of {ours.id}, and edge= that of {theirs.id}.",
        )


def _check_same(side: str, model: nn.Module, name: str, got: str, tuned: ModelRef) -> None:
    expected = getattr(tuned, name)
    if got == expected:
        return
    adapter = " It carries an adapter (LoRA)." if getattr(model, "peft_config", None) else ""
    raise PairError(
        f"The {side} model has other weights ({name} {got}) than the config was tuned for ({expected}, "
        f"{tuned.id}).{adapter}",
        key=f"{side}.{name}",
        got=got,
        expected=expected,
        advice=f"Use those weights, tune again, or, for a LoRA or a fine-tune, {_UNCHECKED}.",
    )


def _folder(model: nn.Module) -> Path | None:
    """The diffusers folder (or, of a denoiser alone, its own) that a model says it was loaded from."""
    name = getattr(model, "config", {}).get("_name_or_path")
    if not name or not Path(name).is_dir():
        return None
    path = Path(name)
    return path.parent if path.name in ("unet", "transformer") else path


def _fingerprint(side: str, model: nn.Module, variant: str | None) -> str | None:
    """That of the files in a model's folder; None where it cannot be known."""
    folder = _folder(model)
    try:
        if folder is None:
            return None
        if side == "edge":
            part = next(part for part in ("unet", "transformer") if (folder / part).is_dir())
            return fingerprint(folder, (part,), variant=variant)
        return fingerprint(folder, *parts_of(common_family(folder, folder), folder), variant)
    except (PairError, OSError, StopIteration):  # of no family here, a variant, or moved since
        return None
