"""One model of a pair whose other one is on another machine: here are its configs, not its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from torch import nn

from ecdiff_core.errors import PairError
from ecdiff_core.models.compatibility import check_rows, compare, whole_config
from ecdiff_core.models.families import Family
from ecdiff_core.models.find import ModelFiles, find_configs
from ecdiff_core.models.lora import adapted, find_lora, load_lora
from ecdiff_core.models.memory import Memory, check_offload, out_of_memory_as_error, place
from ecdiff_core.models.model_folder import check_parts
from ecdiff_core.models.pair import (
    Pair,
    check_whole,
    checked_fingerprint,
    load_or_refuse,
    loaded_ref,
    schedules,
)
from ecdiff_core.models.pair_files import check_weights, common_family, fingerprint_of, parts_of
from ecdiff_core.models.pair_spec import ModelRef, PairSpec, Side


class Elsewhere(nn.Module):
    """In the place of a denoiser that runs on another machine: its config alone.

    Raises:
        PairError: it is called.
    """

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype, side: Side) -> None:
        super().__init__()
        self.config, self.dtype, self._side = FrozenDict(config), dtype, side
        self.register_buffer("_here", torch.empty(0), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where it would compute."""
        return self._here.device  # type: ignore[return-value]

    def forward(self, *_: Any, **__: Any) -> torch.Tensor:
        raise PairError(
            f"The {self._side}'s model is on another machine.",
            key=self._side,
            advice="Choose a mode that does without it here, or load both models.",
        )


@dataclass(frozen=True)
class _Folders:
    """Where the configs of both lie."""

    family: type[Family]
    cloud: Path
    edge: Path

    def stand_in(self, side: Side, dtype: torch.dtype) -> Elsewhere:
        folder = self.cloud if side == "cloud" else self.edge
        return Elsewhere(whole_config(folder, self.family.denoiser_part), dtype, side)


def load_cloud(
    spec: PairSpec, *, device: torch.device, dtype: torch.dtype, memory: Memory | None = None
) -> Pair:
    """The cloud's pipeline; of the edge its configs alone. Raises as ``load_pair``."""
    check_offload(memory, device)
    own, folders = _own(spec, "cloud"), _find(spec)
    weighted, unweighted = parts_of(folders.family, folders.cloud)
    files = check_weights(spec.cloud, folders.cloud, weighted)
    found = _checked(own, "cloud", fingerprint_of(files, weighted, unweighted))
    family = load_or_refuse(lambda: folders.family.load(files, dtype), files)
    pair = _pair(spec, "cloud", own, files, found, folders, family, folders.stand_in("edge", dtype))
    return _placed(pair, family.models, device, memory)


def load_edge(
    spec: PairSpec, *, device: torch.device, dtype: torch.dtype, memory: Memory | None = None
) -> Pair:
    """The edge's denoiser and the autoencoder; of the cloud else its configs alone. Raises as ``load_pair``.

    The cloud is to be a diffusers folder or hub id: of a checkpoint the decoder alone cannot be had.
    """
    check_offload(memory, device)
    own, folders = _own(spec, "edge"), _find(spec)
    decoder = check_weights(spec.cloud, folders.cloud, ("vae",))
    files = check_weights(spec.edge, folders.edge, (folders.family.denoiser_part,))
    if decoder.checkpoint is not None:
        raise PairError(
            f"The decoder cannot be read out of the checkpoint {decoder.source} alone.",
            key=str(decoder.source),
            advice="Give the cloud as a diffusers folder or hub id here, of which configs, tokenizers and "
            "the autoencoder are enough.",
        )
    found = _checked(own, "edge", fingerprint_of(files, (folders.family.denoiser_part,)))
    cloud = folders.stand_in("cloud", dtype)
    family = load_or_refuse(lambda: folders.family.load_decoder(decoder, dtype, cloud), decoder)
    edge = load_or_refuse(lambda: folders.family.load_denoiser(files, dtype), files)
    check_whole(files, [edge])
    pair = _pair(spec, "edge", own, files, found, folders, family, edge)
    return _placed(pair, [*family.models, edge], device, memory)


def load_text_encoders(pair: Pair, dtype: torch.dtype) -> None:
    """Let a pair of ``load_edge`` encode prompts itself; raises as ``load_pair``."""
    folder = find_configs(pair.spec.cloud)
    parts = [p for p in pair.family.text_encoder_parts if p not in pair.family.absent_parts(folder)]
    files = check_weights(pair.spec.cloud, folder, parts)
    load_or_refuse(lambda: pair.family.load_text_encoders(files, dtype), files)
    check_whole(files, pair.family.models)


def _own(spec: PairSpec, side: Side) -> PairSpec:
    """The spec with the adapters of one side alone, found."""
    return replace(
        spec, lora=find_lora(replace(spec, lora=[replace(a, on=side) for a in spec.lora_on(side)]))
    )


def _find(spec: PairSpec) -> _Folders:
    cloud, edge = find_configs(spec.cloud), find_configs(spec.edge, tokenizers=False)
    family = common_family(cloud, edge)
    check_parts(cloud, family)
    check_rows(compare(cloud, edge, family))
    return _Folders(family, cloud, edge)


def _checked(own: PairSpec, side: Side, fingerprint: str) -> str:
    """Of the side that is here, adapters included; raises PairError where another one is asked for."""
    ref: ModelRef = getattr(own, side)
    return checked_fingerprint(side, ref, adapted(fingerprint, own.lora_on(side)))


def _pair(
    spec: PairSpec,
    side: Side,
    own: PairSpec,
    files: ModelFiles,
    fingerprint: str,
    folders: _Folders,
    family: Family,
    edge: nn.Module,
) -> Pair:
    """With the fingerprint of the side that is here; the other's is what the spec says."""
    ref: ModelRef = getattr(spec, side)
    notes = load_lora(family, edge, own.lora)
    loaded = loaded_ref(replace(ref, fingerprint=fingerprint), files)
    whole = replace(spec, cloud=loaded) if side == "cloud" else replace(spec, edge=loaded)
    return Pair(whole, family, edge, *schedules(folders.cloud, folders.edge), notes=notes)


def _placed(pair: Pair, models: Sequence[nn.Module], device: torch.device, memory: Memory | None) -> Pair:
    check_whole(ModelFiles(Path(pair.spec.name)), models)
    with out_of_memory_as_error():
        place(models, pair.family.vae, device, memory or Memory())
    return pair
