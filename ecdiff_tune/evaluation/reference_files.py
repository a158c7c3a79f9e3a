"""The files of a reference: where a prompt's lies, what is read of it, and which prompts are of no use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ecdiff_core.errors import ECDiffError
from ecdiff_core.models.pair_spec import Side
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation import image_faults

SIDES: tuple[Side, Side] = ("cloud", "edge")


class DamagedReferenceError(ECDiffError):
    """A reference file is damaged."""


def missing(prompts: CalibrationSet, folder: Path) -> list[int]:
    """The prompts, by index, whose reference is not in ``folder``."""
    return [i for i, key in enumerate(prompts.keys) if not path_of(folder, key).is_file()]


def without_edge(prompts: CalibrationSet, folder: Path) -> list[int]:
    """The prompts, by index, whose reference is there without the edge's image."""
    paths = [path_of(folder, key) for key in prompts.keys]
    return [i for i, path in enumerate(paths) if path.is_file() and not _has_edge(path)]


def path_of(folder: Path, key: str) -> Path:
    """The file of the prompt of that key."""
    return folder / f"{key}.safetensors"


def edge_path(path: Path) -> Path:
    """Where the edge's own image lies that was made after the prompt's file, which then is without it."""
    return path.with_suffix(".edge.safetensors")


def _has_edge(path: Path) -> bool:
    if edge_path(path).is_file():
        return True
    with _opened(path) as file:
        return "edge" in file.keys()  # noqa: SIM118 (no mapping)


def read(path: Path, *names: str) -> dict[str, Tensor]:
    """Some tensors of a file.

    Raises:
        DamagedReferenceError: it is gone or damaged.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in names}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "pt") as file:
            yield file
    except Exception as error:  # safetensors raises several kinds
        line, advice = f"The reference {path} is damaged ({error}).", "Delete it; it is made again."
        raise DamagedReferenceError(line, key=str(path), advice=advice) from error


def usable(prompts: CalibrationSet, folder: Path) -> CalibrationSet:
    """The prompts without those that are known to have images that nothing can be compared with."""
    return prompts.without(faulty_rows(prompts, folder))


def faulty_rows(prompts: CalibrationSet, folder: Path) -> dict[int, tuple[str, int]]:
    """By index, the prompts that ``folder`` has such images of: whose, and what is wrong with them.

    Raises:
        DamagedReferenceError: a file is damaged.
    """
    found: dict[int, tuple[str, int]] = {}
    for row, key in enumerate(prompts.keys):
        own = path_of(folder, key)
        for path in (edge_path(own), own):  # what is wrong with the cloud's goes before
            if path.is_file():
                found |= faulty_in(row, faults_in(path))
    return found


def faulty_in(row: int, numbers: Tensor) -> dict[int, tuple[str, int]]:
    """The first side with a fault, by the prompt's index; empty if there is none.

    Args:
        numbers: of each side's fault, shape (2,).
    """
    found = [(side, number) for side, number in zip(SIDES, numbers.tolist(), strict=True) if number]
    return {row: found[0]} if found else {}


def faults_in(path: Path) -> Tensor:
    """The fault of each side, shape (2,). Files that are older than it hold the images alone."""
    with _opened(path) as file:
        if "faults" in file.keys():  # noqa: SIM118 (no mapping)
            return file.get_tensor("faults")
        return torch.tensor([image_faults.fault(file.get_tensor(side)) for side in SIDES])
