"""Two models that fit together: found, loaded, checked against each other, fingerprinted."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import TypeVar

import torch
from safetensors import SafetensorError
from torch import nn

from ecdiff_core.errors import PairError, ParamsError, first_line
from ecdiff_core.models.compatibility import Row, Verdict, has_schedule, noise_schedule
from ecdiff_core.models.families import Family
from ecdiff_core.models.find import EMBEDDED, ModelFiles, from_anywhere
from ecdiff_core.models.handoff import NoiseSchedule
from ecdiff_core.models.inventory import larger_edge
from ecdiff_core.models.lora import adapted, find_lora, load_lora
from ecdiff_core.models.memory import Memory, check_offload, out_of_memory_as_error, place
from ecdiff_core.models.pair_files import PairFiles, find_pair
from ecdiff_core.models.pair_spec import ModelRef, PairSpec, Side
from ecdiff_core.models.tensor_digest import parts_digests, tensor_digest
from ecdiff_core.validation import check_type

__all__ = ["EMBEDDED", "Pair", "load_pair"]

T = TypeVar("T")


@dataclass(frozen=True)
class Pair:
    """A loaded pair.

    Args:
        spec: with the fingerprints of the weights that were loaded; a folder is absolute and has no revision.
        family: holds the cloud's pipeline.
        edge: the edge's denoiser.
        cloud_schedule, edge_schedule: how their noisy latents are made; None for flow matching.
        convertible: in what they differ that a matched handoff converts.
        files: what they were loaded from.
        notes: what may not be as it was meant, a line each.
    """

    spec: PairSpec
    family: Family
    edge: nn.Module
    cloud_schedule: NoiseSchedule | None
    edge_schedule: NoiseSchedule | None
    convertible: tuple[Row, ...] = ()
    files: PairFiles | None = None
    notes: tuple[str, ...] = ()

    @property
    def cloud(self) -> nn.Module:
        """The cloud's denoiser."""
        return self.family.denoiser


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
    check_type("the pair", spec, PairSpec, "a PairSpec, such as that of a TunedConfig", PairError)
    check_type("memory", memory, (Memory, NoneType), "a Memory or None", ParamsError)
    check_offload(memory, device)
    spec = replace(spec, lora=find_lora(spec))
    files = find_pair(spec)
    cloud_files, edge_files, family_class = files.cloud, files.edge, files.family
    found = _checked_fingerprints(spec, files)
    family = load_or_refuse(lambda: family_class.load(cloud_files, dtype), cloud_files)
    edge = load_or_refuse(lambda: family_class.load_denoiser(edge_files, dtype), edge_files)
    check_whole(cloud_files, family.models)
    check_whole(edge_files, [edge])
    packed = files.quantized()  # then tensors have fewer elements than the model has parameters
    sizes = [0 if packed else sum(p.numel() for p in model.parameters()) for model in (family.denoiser, edge)]
    notes = (*files.notes(spec), *larger_edge(*sizes), *load_lora(family, edge, spec.lora))
    sides: tuple[Side, Side] = ("cloud", "edge")
    tensors = [  # with adapters the files tell: in memory their names depend on who loaded them
        None if spec.lora_on(side) else tensor_digest(model, dtype)
        for side, model in zip(sides, (family.denoiser, edge), strict=True)
    ]
    for side, ref, digest in zip(sides, (spec.cloud, spec.edge), tensors, strict=True):
        _check_tensors(side, ref, digest)
    parts = None if spec.lora_on("cloud") else parts_digests(family.pipeline.components, dtype)
    with out_of_memory_as_error():
        place([*family.models, edge], family.vae, device, memory or Memory())
    refs = [
        loaded_ref(replace(ref, fingerprint=fingerprint, tensors=digest, parts=others), model)
        for ref, model, fingerprint, digest, others in zip(
            (spec.cloud, spec.edge),
            (cloud_files, edge_files),
            found,
            tensors,
            (parts or None, None),
            strict=True,
        )
    ]
    ours, theirs = schedules(cloud_files.folder, edge_files.folder)
    convertible = tuple(row for row in files.rows if row.verdict is Verdict.CONVERTIBLE)
    whole = PairSpec(spec.name, refs[0], refs[1], spec.lora)
    return Pair(whole, family, edge, ours, theirs, convertible, files, notes)


def _checked_fingerprints(spec: PairSpec, files: PairFiles) -> list[str]:
    """Of cloud and edge, adapters included."""
    sides: tuple[tuple[Side, ModelRef], ...] = (("cloud", spec.cloud), ("edge", spec.edge))
    bare = files.fingerprints()
    return [
        checked_fingerprint(side, ref, adapted(one, spec.lora_on(side)))
        for (side, ref), one in zip(sides, bare, strict=True)
    ]


def checked_fingerprint(side: Side, ref: ModelRef, found: str) -> str:
    """The fingerprint that was found of a model, adapters included.

    Raises:
        PairError: ``ref`` asks for another one.
    """
    if ref.fingerprint not in (None, found):
        raise PairError(
            f"The {side} model {ref.id} has other weights (fingerprint {found}) than the config was tuned "
            f"for ({ref.fingerprint}).",
            key=f"{side}.fingerprint",
            got=found,
            expected=ref.fingerprint or "",
            advice="Use those weights, tune again, or set the fingerprint to null.",
        )
    return found


def _check_tensors(side: Side, ref: ModelRef, digest: str | None) -> None:
    """Refuse a denoiser whose digest in memory is not the one that is asked for; None is not comparable."""
    if None not in (ref.tensors, digest) and ref.tensors != digest:
        raise PairError(
            f"The {side} model {ref.id} has other weights (tensors {digest}) than the config was tuned for "
            f"({ref.tensors}).",
            key=f"{side}.tensors",
            got=digest,
            expected=ref.tensors or "",
            advice="Use those weights, tune again, or take tensors out of the config.",
        )


def check_whole(files: ModelFiles, models: Sequence[nn.Module]) -> None:
    """Raise PairError where weights that were loaded lack tensors."""
    if any(parameter.is_meta for model in models for parameter in model.parameters()):
        line = f"Cannot load the model in {files.source}: its weights lack tensors."
        raise PairError(line, key=str(files.source))


def schedules(cloud: Path, edge: Path) -> tuple[NoiseSchedule | None, NoiseSchedule | None]:
    """Of two folders with configs; an edge that has none has the cloud's."""
    ours = noise_schedule(cloud, cloud)
    return ours, noise_schedule(edge, cloud) if has_schedule(edge) else ours


def loaded_ref(ref: ModelRef, files: ModelFiles) -> ModelRef:
    """What was loaded, named so that the same is loaded again from any working folder."""
    variant = files.variant if files.variant is not None else ref.variant
    return from_anywhere(replace(ref, variant=variant))


def load_or_refuse(load: Callable[[], T], files: ModelFiles) -> T:
    """``load()``, with what damaged files raise told as one line."""
    folder, key = files.source, str(files.source)
    try:
        return load()
    except (OSError, ValueError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        # Other shapes, with the advice to load random weights, or tensors that are missing.
        if any(words in str(error) for words in ("ignore_mismatched_sizes", "meta tensor")):
            named = re.search(r"because (\S+) (?:expected|has) shape", str(error))
            what = f": {named[1]} has another shape" if named else ""
            if files.checkpoint is not None:
                raise PairError(
                    f"The weights in {folder} and the configs in {files.folder} do not belong together"
                    f"{what}.",
                    key=key,
                    got=named and named[1],
                    expected=str(files.folder),
                    advice="Set config to a diffusers folder or hub id of a model of its kind.",
                ) from error
            raise PairError(
                f"The weights of the model in {folder} and its config.json do not belong together{what}.",
                key=key,
                got=named and named[1],
                advice="Fetch it again, or put back the config.json that the weights were saved with.",
            ) from error
        advice = "" if isinstance(error, ImportError) else "Fetch it again."  # of a package that is missing
        line = f"Cannot load the model in {folder}: {first_line(error)}."
        raise PairError(line, key=key, advice=advice) from error
