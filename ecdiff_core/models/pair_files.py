"""The files of two models that fit together, found and looked at before any weights are read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ecdiff_core.errors import PairError, nearest
from ecdiff_core.models.compatibility import Row, check_rows, compare
from ecdiff_core.models.families import FAMILIES, Family
from ecdiff_core.models.families.parts import part_class
from ecdiff_core.models.find import ModelFiles, find_configs, find_weights, is_local
from ecdiff_core.models.model_folder import check_parts, fingerprint
from ecdiff_core.models.pair_spec import ModelRef, PairSpec
from ecdiff_core.models.quantized import check_quantized, quant_method
from ecdiff_core.models.weight_files import AUTO, weight_files
from ecdiff_core.models.weight_headers import check_header

ONE_MODEL = (
    "Cloud and edge are one and the same model: sharing would save nothing. Give a smaller one as pair.edge."
)


_SHARD = re.compile(r"-\d+-of-(\d+)")


@dataclass(frozen=True)
class PairFiles:
    """Where two models lie.

    Args:
        rows: what was compared of them.
    """

    family: type[Family]
    cloud: ModelFiles
    edge: ModelFiles
    rows: tuple[Row, ...]

    @property
    def denoiser(self) -> tuple[str, ...]:
        """The part that is loaded of the edge."""
        return (self.family.denoiser_part,)

    def fingerprints(self) -> tuple[str, str]:
        """Of what is loaded of the cloud and of the edge, without adapters."""
        cloud = fingerprint_of(self.cloud, *parts_of(self.family, self.cloud.folder))
        return cloud, fingerprint_of(self.edge, self.denoiser)

    def notes(self, spec: PairSpec) -> list[str]:
        """What ``auto`` took where there are no plain weights."""
        sides = (("cloud", spec.cloud, self.cloud), ("edge", spec.edge, self.edge))
        return [
            f"the {side}'s weights are the variant {files.variant}: there are no plain ones in {files.folder}"
            for side, ref, files in sides
            if ref.variant == AUTO and files.variant is not None
        ]

    def quantized(self) -> bool:
        """Whether one of the denoisers was saved quantised."""
        return any(quant_method(m.folder, self.family.denoiser_part) for m in (self.cloud, self.edge))

    def same_denoiser(self) -> bool:
        """Whether cloud and edge are one model."""
        if self.cloud.checkpoint or self.edge.checkpoint:
            return self.cloud.checkpoint == self.edge.checkpoint
        part = self.family.denoiser_part
        ours, theirs = (
            [path.stat().st_size for path in weight_files(model.folder, part, model.variant)[1:]]
            for model in (self.cloud, self.edge)
        )
        if ours != theirs:  # nearly always, and spares reading the weights
            return False
        return fingerprint_of(self.cloud, self.denoiser) == fingerprint_of(self.edge, self.denoiser)


def find_pair(spec: PairSpec) -> PairFiles:
    """Find both models, fetched from the hub if need be: configs first, weights when these fit together.

    Raises:
        PairError: a model is missing, incomplete, of an unknown or another family, or does not fit the other.
    """
    cloud, edge = find_configs(spec.cloud), find_configs(spec.edge, tokenizers=False)
    family = common_family(cloud, edge)
    check_parts(cloud, family)
    sides = ((spec.cloud, cloud, parts_of(family, cloud)[0]), (spec.edge, edge, (family.denoiser_part,)))
    for side in sides:
        if is_local(side[0]):  # what is missing is more than what does not fit
            check_weights(*side)
    rows = compare(cloud, edge, family)
    check_rows(rows)
    ours, theirs = (check_weights(*side) for side in sides)
    return PairFiles(family, ours, theirs, tuple(rows))


def check_weights(ref: ModelRef, folder: Path, parts: Sequence[str]) -> ModelFiles:
    """``find_weights``, and all that can be seen of them without reading them.

    Raises:
        PairError: as ``find_weights``; a part has no weights, not all of them, or needs a package that is not
            installed.
    """
    found = find_weights(ref, folder, parts)
    for part in parts:
        if found.checkpoint is None:
            check_files(weight_files(folder, part, found.variant)[1:])
        check_quantized(folder, part)
    if found.checkpoint is not None:
        check_files([found.checkpoint])
    return found


def check_files(paths: Sequence[Path]) -> None:
    """``check_header`` of every file, and of those whose names number them, whether none lacks.

    Raises:
        PairError: one is missing or damaged.
    """
    for path in paths:
        check_header(path)
    numbers = [match for path in paths if (match := _SHARD.search(path.name))]
    if numbers and len(numbers) != int(numbers[0][1]):
        folder, expected = paths[0].parent, int(numbers[0][1])
        raise PairError(
            f"Expected {expected} files of weights in {folder}, as {paths[0].name} says, got {len(numbers)}.",
            key=str(folder),
            got=len(numbers),
            expected=str(expected),
            advice="Fetch it again.",
        )


def fingerprint_of(model: ModelFiles, weighted: tuple[str, ...], unweighted: tuple[str, ...] = ()) -> str:
    """``fingerprint`` of those parts of a model."""
    return fingerprint(model.folder, weighted, unweighted, model.variant, model.checkpoint)


def parts_of(family: type[Family], cloud: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The parts of a whole model with weights, and those without."""
    absent = family.absent_parts(cloud)
    weighted, unweighted = family.weighted_parts(), family.unweighted_parts
    return tuple(p for p in weighted if p not in absent), tuple(p for p in unweighted if p not in absent)


def common_family(cloud: Path, edge: Path) -> type[Family]:
    """The family of a diffusers folder and of another one, which may hold a denoiser alone.

    Raises:
        PairError: it is not supported, or not the same.
    """
    ours = family_of(cloud)
    if not (edge / "model_index.json").is_file():
        _check_denoiser(cloud, edge, ours.denoiser_part)
        return ours
    theirs = family_of(edge)
    if theirs is not ours:
        raise PairError(
            "Cloud and edge are of different families: "
            f"{cloud} is {ours.__name__}, {edge} is {theirs.__name__}.",
            key=str(edge),
            got=theirs.__name__,
            expected=ours.__name__,
        )
    return ours


def _check_denoiser(cloud: Path, edge: Path, part: str) -> None:
    """Refuse a denoiser alone that is of another class than the cloud's."""
    try:
        ours, theirs = part_class(cloud, part), part_class(edge, part)
    except ValueError as error:
        raise PairError(f"Cloud {cloud} and edge {edge}: {error}.", key=str(edge)) from error
    if ours is not theirs:
        raise PairError(
            f"Cloud and edge are of different families: the denoiser in {edge} is a {theirs.__name__}, the "
            f"cloud's a {ours.__name__}.",
            key=str(edge),
            got=theirs.__name__,
            expected=ours.__name__,
        )


def family_of(folder: Path) -> type[Family]:
    """The family of a diffusers folder.

    Raises:
        PairError: it is none, is damaged, or of a class that is not supported.
    """
    path = folder / "model_index.json"
    if not path.is_file():
        line = f"{folder} is no diffusers folder: it has no model_index.json."
        raise PairError(line, key=str(folder), advice="The cloud needs one.")
    try:
        name = str(json.loads(path.read_text(encoding="utf-8"))["_class_name"])
    except (ValueError, KeyError, TypeError) as error:
        raise PairError(f"{path} is damaged: it names no pipeline class.", key=str(path)) from error
    if name not in FAMILIES:
        line = f"{folder}: pipelines of class {name} are not supported: {nearest(name, FAMILIES)}."
        raise PairError(line, key=str(folder), got=name, expected=sorted(FAMILIES))
    return FAMILIES[name]
