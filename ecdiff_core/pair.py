"""Two models that fit together: found, loaded, checked against each other, fingerprinted."""

from __future__ import annotations

import hashlib
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
from ecdiff_core.preflight import Row, Verdict, compare, has_schedule, noise_schedule, refusals
from ecdiff_core.tuned_config import ModelRef, PairSpec

T = TypeVar("T")

EMBEDDED = "embedded:"
"""Prefix of a model id that ships with the package, as in ``embedded:shapes/cloud``."""


@dataclass(frozen=True)
class Pair:
    """A loaded pair.

    Args:
        spec: with the fingerprints of the weights that were loaded.
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
    return Path(ref.id).expanduser()


def _cannot_get(ref: ModelRef) -> PairError:
    command = f"hf download {ref.id}" + (f" --revision {ref.revision}" if ref.revision else "")
    return PairError(
        f"Cannot get {ref.id}: it is no folder here, not in the hub's cache ({constants.HF_HUB_CACHE}), and "
        f"could not be fetched (no network, a wrong id, or a gated model without a login). "
        f"Run `{command}` where there is a network, or give a folder."
    )


def find_configs(ref: ModelRef) -> Path:
    """A folder with a model's config files; of a hub id that is not cached, those alone are fetched.

    Raises:
        PairError: as ``find_model``.
    """
    if is_local(ref):
        return find_model(ref)
    try:
        return Path(snapshot_download(ref.id, revision=ref.revision, allow_patterns=["*.json"]))
    except (OSError, ValueError) as error:
        raise _cannot_get(ref) from error


def common_family(cloud: Path, edge: Path) -> type[Family]:
    """The family of two diffusers folders.

    Raises:
        PairError: it is not supported, or not the same.
    """
    family = _family_of(cloud)
    if _family_of(edge) is not family:
        raise PairError(f"Cloud and edge are of different families: {cloud} and {edge}.")
    return family


def _family_of(folder: Path) -> type[Family]:
    try:
        name = str(json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["_class_name"])
    except (ValueError, KeyError, TypeError) as error:
        raise PairError(f"{folder / 'model_index.json'} is damaged: it names no pipeline class.") from error
    if name not in FAMILIES:
        raise PairError(f"{folder}: pipelines of class {name} are not supported: {nearest(name, FAMILIES)}.")
    return FAMILIES[name]


_WEIGHTS = re.compile(r"(diffusion_pytorch_model|pytorch_model|model)(-\d+-of-\d+)?\.(safetensors|bin)")
"""The files that are loaded; not the variants beside them, such as ``….fp16.safetensors``."""


def weight_files(folder: Path, part: str) -> list[Path]:
    """The config and the weights of a part, as they would be loaded.

    Raises:
        PairError: one of them is missing.
    """
    found = sorted(path for path in (folder / part).glob("*") if _WEIGHTS.fullmatch(path.name))
    weights = [path for path in found if path.suffix == ".safetensors"] or found
    if not weights:
        raise PairError(f"No weights in {folder / part}: expected a .safetensors file there.")
    config = folder / part / "config.json"
    if not config.is_file():
        raise PairError(f"Missing {config}: the model folder is not complete.")
    return [config, *weights]


def fingerprint(folder: Path, weighted: tuple[str, ...], unweighted: tuple[str, ...] = ()) -> str:
    """The first 16 hex digits of the SHA-256 over what is loaded of those parts of a folder.

    Of ``unweighted`` parts (tokenizer, scheduler) that is every file.

    Raises:
        PairError: a part has no weights.
    """
    files = [path for part in weighted for path in weight_files(folder, part)]
    files += [path for part in unweighted for path in sorted((folder / part).iterdir()) if path.is_file()]
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            name = path.relative_to(folder).as_posix()
            digest.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


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
    absent = family_class.absent_parts(cloud_folder)
    weighted = tuple(part for part in family_class.weighted_parts() if part not in absent)
    unweighted = tuple(part for part in family_class.unweighted_parts if part not in absent)
    for part in unweighted:
        if not (cloud_folder / part).is_dir():
            raise PairError(f"Missing {cloud_folder / part}: the model folder is not complete.")
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
    with out_of_memory_told():
        place([*family.models, edge], family.vae, device, memory or Memory())
    refs = (replace(spec.cloud, fingerprint=found[0]), replace(spec.edge, fingerprint=found[1]))
    ours = noise_schedule(cloud_folder)
    theirs = noise_schedule(edge_folder) if has_schedule(edge_folder) else ours
    convertible = tuple(row for row in rows if row.verdict is Verdict.CONVERTIBLE)
    return Pair(PairSpec(spec.name, *refs), family, edge, ours, theirs, convertible)


def _load(load: Callable[[], T], folder: Path) -> T:
    """``load()``, with what damaged files raise told as one line."""
    try:
        return load()
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PairError(f"Cannot load the model in {folder}: {first.rstrip('.')}. Fetch it again.") from error
