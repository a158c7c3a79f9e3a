"""Two models that fit together: found, loaded, checked against each other, fingerprinted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import DiffusionPipeline
from huggingface_hub import constants, snapshot_download
from safetensors import SafetensorError
from torch import nn

from ecdiff_core.errors import PairError, nearest
from ecdiff_core.families import FAMILIES, Family
from ecdiff_core.handoff import NoiseSchedule
from ecdiff_core.memory import Memory, out_of_memory_told, place
from ecdiff_core.model_folder import check_parts, fingerprint, weight_files
from ecdiff_core.preflight import Row, Verdict, compare, has_schedule, noise_schedule, refusals
from ecdiff_core.tensor_digest import tensor_digest
from ecdiff_core.tuned_config import ModelRef, PairSpec

T = TypeVar("T")

EMBEDDED = "embedded:"
"""Prefix of a model id that ships with the package, as in ``embedded:shapes/cloud``."""


@dataclass(frozen=True)
class Pair:
    """A loaded pair.

    Args:
        spec: with the fingerprints of the weights that were loaded; a folder is absolute and has no revision.
        family: holds the cloud's pipeline.
        edge: the edge's denoiser.
        cloud_schedule, edge_schedule: how their noisy latents are made; None for flow matching.
        convertible: in what they differ that a matched handoff converts.
    """

    spec: PairSpec
    family: Family
    edge: nn.Module
    cloud_schedule: NoiseSchedule | None
    edge_schedule: NoiseSchedule | None
    convertible: tuple[Row, ...] = ()

    @property
    def cloud(self) -> nn.Module:
        """The cloud's denoiser."""
        return self.family.denoiser


def find_model(ref: ModelRef) -> Path:
    """The diffusers folder of a model, fetched from the hub when it is a hub id that is not cached.

    Raises:
        PairError: there is no such folder, embedded model or reachable hub repository.
    """
    folder = _local_folder(ref)
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise PairError(f"{folder} is no diffusers folder: it has no model_index.json.")
        return folder
    if is_local(ref):
        raise PairError(f"No model folder at {folder}. Give a diffusers folder or a hub id (owner/name).")
    try:
        return Path(DiffusionPipeline.download(ref.id, revision=ref.revision))
    except (OSError, ValueError) as error:
        raise _cannot_get(ref) from error


def is_local(ref: ModelRef) -> bool:
    """Whether an id names a folder, not a repository of the hub."""
    known = ref.id.startswith((EMBEDDED, "/", ".", "~")) or ref.id.count("/") != 1
    return known or _local_folder(ref).is_dir()


def _local_folder(ref: ModelRef) -> Path:
    if ref.id.startswith(EMBEDDED):
        return Path(str(resources.files("ecdiff_core"))) / ref.id.removeprefix(EMBEDDED)
    return Path(ref.id).expanduser().absolute()


def _anywhere(ref: ModelRef) -> ModelRef:
    """The same model, named so that it is found from any working folder; a folder has no revision."""
    if not is_local(ref):
        return ref
    where = ref.id if ref.id.startswith(EMBEDDED) else str(_local_folder(ref))
    return replace(ref, id=where, revision=None)


def _cannot_get(ref: ModelRef) -> PairError:
    command = f"hf download {ref.id}" + (f" --revision {ref.revision}" if ref.revision else "")
    return PairError(
        f"Cannot get {ref.id}: it is no folder ({_local_folder(ref)}), not in the hub's cache "
        f"({constants.HF_HUB_CACHE}), and could not be fetched (no network, a wrong id, or a gated model "
        f"without a login). Run `{command}` where there is a network, or give a folder."
    )


def find_configs(ref: ModelRef) -> Path:
    """A folder with a model's config files; of a hub id that is not cached, they and tokenizers are fetched.

    Raises:
        PairError: as ``find_model``.
    """
    if is_local(ref):
        return find_model(ref)
    try:
        return Path(
            snapshot_download(ref.id, revision=ref.revision, allow_patterns=["*.json", "tokenizer*/*"])
        )
    except (OSError, ValueError) as error:
        raise _cannot_get(ref) from error


def common_family(cloud: Path, edge: Path) -> type[Family]:
    """The family of two diffusers folders.

    Raises:
        PairError: it is not supported, or not the same.
    """
    ours, theirs = _family_of(cloud), _family_of(edge)
    if theirs is not ours:
        raise PairError(
            "Cloud and edge are of different families: "
            f"{cloud} is {ours.__name__}, {edge} is {theirs.__name__}."
        )
    return ours


def _family_of(folder: Path) -> type[Family]:
    try:
        name = str(json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["_class_name"])
    except (ValueError, KeyError, TypeError) as error:
        raise PairError(f"{folder / 'model_index.json'} is damaged: it names no pipeline class.") from error
    if name not in FAMILIES:
        raise PairError(f"{folder}: pipelines of class {name} are not supported: {nearest(name, FAMILIES)}.")
    return FAMILIES[name]


def cloud_parts(folder: Path, family: type[Family]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The parts of a cloud model that make a picture: those with weights, and those without."""
    absent = family.absent_parts(folder)
    weighted, unweighted = (
        tuple(part for part in parts if part not in absent)
        for parts in (family.weighted_parts(), family.unweighted_parts)
    )
    return weighted, unweighted


def is_from(folder: Path, ref: ModelRef) -> bool:
    """Whether a folder is that of a model: the one it names, or its repository's in the hub's cache."""
    if is_local(ref):
        return _local_folder(ref).resolve() == folder.resolve()
    return f"models--{ref.id.replace('/', '--')}" in folder.absolute().parts


def load_pair(
    spec: PairSpec, *, device: torch.device, dtype: torch.dtype, memory: Memory | None = None
) -> Pair:
    """Load both models; both folders are looked at before any weights are read.

    Raises:
        PairError: a model is missing, damaged, of an unknown or another family, does not fit the other one,
            or is not the one whose fingerprint ``spec`` asks for.
        ParamsError: ``memory`` asks for what the device or the autoencoder cannot do.
        OutOfMemoryError: the models do not fit.
    """
    cloud_folder, edge_folder = find_model(spec.cloud), find_model(spec.edge)
    family_class = common_family(cloud_folder, edge_folder)
    check_parts(cloud_folder, family_class)
    weighted, unweighted = cloud_parts(cloud_folder, family_class)
    denoiser = (family_class.denoiser_part,)
    for folder, parts in ((cloud_folder, weighted), (edge_folder, denoiser)):
        for part in parts:
            weight_files(folder, part)
    rows = compare(cloud_folder, edge_folder, family_class)
    wrong = refusals(rows)
    if wrong:
        raise PairError(f"Cloud and edge do not fit together (cloud | edge): {'; '.join(wrong)}.")
    found = (fingerprint(cloud_folder, weighted, unweighted), fingerprint(edge_folder, denoiser))
    for side, ref, got in (("cloud", spec.cloud, found[0]), ("edge", spec.edge, found[1])):
        if ref.fingerprint not in (None, got):
            raise PairError(
                f"The {side} model {ref.id} has other weights (fingerprint {got}) than the config was tuned "
                f"for ({ref.fingerprint}). Use those weights, tune again, or set the fingerprint to null."
            )
    family = _load(lambda: family_class.load(cloud_folder, dtype), cloud_folder)
    edge = _load(lambda: family_class.load_denoiser(edge_folder, dtype), edge_folder)
    for folder, models in ((cloud_folder, family.models), (edge_folder, [edge])):
        if any(parameter.is_meta for model in models for parameter in model.parameters()):
            raise PairError(f"Cannot load the model in {folder}: its weights lack tensors.")
    tensors = [tensor_digest(model, dtype) for model in (family.denoiser, edge)]
    with out_of_memory_told():
        place([*family.models, edge], family.vae, device, memory or Memory())
    refs = [
        _anywhere(replace(ref, fingerprint=got, tensors=told))
        for ref, got, told in zip((spec.cloud, spec.edge), found, tensors, strict=True)
    ]
    ours = noise_schedule(cloud_folder, cloud_folder)
    theirs = noise_schedule(edge_folder, cloud_folder) if has_schedule(edge_folder) else ours
    convertible = tuple(row for row in rows if row.verdict is Verdict.CONVERTIBLE)
    return Pair(PairSpec(spec.name, *refs), family, edge, ours, theirs, convertible)


def _load(load: Callable[[], T], folder: Path) -> T:
    """``load()``, with what damaged files raise told as one line."""
    try:
        return load()
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        if "ignore_mismatched_sizes" in str(error):  # advice of the libraries that would load random weights
            named = re.search(r"because (\S+) (?:expected|has) shape", str(error))
            raise PairError(
                f"The weights of the model in {folder} and its config.json do not belong together"
                + (f": {named[1]} has another shape" if named else "")
                + ". Fetch it again, or put back the config.json that the weights were saved with."
            ) from error
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PairError(f"Cannot load the model in {folder}: {first.rstrip('.')}. Fetch it again.") from error
