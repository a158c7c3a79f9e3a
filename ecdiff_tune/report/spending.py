"""Model calls that a study made, and those that the same pictures would have cost one by one."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass

from ecdiff_tune.calibration import CalibrationSet
from ecdiff_tune.ledger import Ledger
from ecdiff_tune.recorded import Recorded


@dataclass(frozen=True)
class Spent:
    """What one prompt set's pictures cost.

    Args:
        configs, pictures: in the ledger.
        whole: cloud and edge calls, had every picture been generated from its first step on.
        calls: cloud and edge calls that were made; None where the ledger does not tell, for it is older.
    """

    configs: int
    pictures: int
    whole: tuple[int, int]
    calls: tuple[int, int] | None


def spent(record: Recorded, prompts: CalibrationSet) -> Spent:
    """Of the configs in the study's ledger on these prompts."""
    names, configs, pictures, cloud, edge = set(prompts.keys), 0, 0, 0, 0
    with closing(Ledger(record.path / "ledger.sqlite", record.settings.sampling.handoff_adapter)) as ledger:
        for key in ledger.configs():
            if key.sampler:  # a comparison with other schedulers, steps or caches is no part of the search
                continue
            rows = sum(name in names for name in ledger.read(key))
            configs, pictures = configs + (rows > 0), pictures + rows
            calls = calls_of(key.schedule)
            cloud, edge = cloud + rows * calls[0], edge + rows * calls[1]
        told = ledger.spent().get(prompts.digest)
    known = told is not None and told["decode"] >= pictures
    made = (told["cloud"], told["edge"]) if told is not None and known else None
    return Spent(configs, pictures, (cloud, edge), made)


def calls_of(schedule: str) -> tuple[int, int]:
    """Cloud and edge calls of a run-length encoded plan.

    >>> calls_of("4C2A1C2A1C2E"), calls_of("2C1B2M1B3E")
    ((6, 2), (4, 7))
    """
    runs = [(int(count), letter) for count, letter in re.findall(r"(\d+)([A-Z])", schedule)]
    cloud = sum(count for count, letter in runs if letter in "CB")
    return cloud, sum(count for count, letter in runs if letter in "EBM")
