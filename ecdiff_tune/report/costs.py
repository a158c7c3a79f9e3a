"""Where the seconds of a generation go, and the model calls that a study made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import pandas as pd

from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Plan
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation.candidate import ConfigKey
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.ledger import Ledger
from ecdiff_tune.evaluation.model_calls import KINDS, Calls
from ecdiff_tune.report.study_data import StudyData, table
from ecdiff_tune.search.spaces import SEARCHING
from ecdiff_tune.study import files, reference_plan
from ecdiff_tune.study.spending import FRONT, HELDOUT, HELDOUT_REFERENCE, REFERENCE


@dataclass(frozen=True)
class Bar:
    """Where the seconds of one way to make an image go: (style, what, seconds) parts."""

    name: str
    total: float
    parts: tuple[tuple[str, str, float], ...]


def bars(data: StudyData) -> list[Bar]:
    """Cloud alone, edge alone, HybridSD with the winner's s or calls, the paper's row, and the winner."""
    steps, winner = data.num_steps, data.winner.plan
    # Where cloud and edge take turns, there is no s to share: as many cloud calls in its place.
    s = winner.handoff_step if winner.crossings <= 1 else winner.cloud_calls
    plans = {
        "cloud alone": plan(ECDiffParams.cloud_only(steps), steps),
        f"HybridSD, s = {s}": plan(ECDiffParams.hybrid(s), steps),
        "the winner": winner,
        "edge alone": plan(ECDiffParams.edge_only(), steps),
    }
    if not winner.hands_over or s == steps:
        plans.pop(f"HybridSD, s = {s}")
    if data.paper is not None:
        plans["the paper's row"] = data.paper.plan()
    latency = data.record.latency
    found = [Bar(name, latency.seconds(one), _parts(latency, one)) for name, one in plans.items()]
    return sorted(found, key=lambda one: -one.total)


def _parts(latency: LatencyProfile, steps: Plan) -> tuple[tuple[str, str, float], ...]:
    """Of ``Bar``, those that take time."""
    every = (
        ("encode", "encode", latency.encode.median),
        ("cloud", f"{steps.cloud_calls} cloud calls", steps.cloud_calls * latency.cloud_call.median),
        ("transfer", "transfer", latency.transfer(steps)),
        ("edge", f"{steps.edge_calls} edge calls", steps.edge_calls * latency.edge_call.median),
        ("decode", "decode", latency.decode.median),
    )
    return tuple(part for part in every if part[2] > 0)


@dataclass(frozen=True)
class CostRow:
    """A row of the page.

    Args:
        configs, images: that were measured.
        whole: calls, had every image been generated from its first step on; None where that is no question.
        calls: that were made; None where calls.csv does not tell those of these images.
    """

    name: str
    configs: int | None
    images: int | None
    whole: Calls | None
    calls: Calls | None

    @property
    def saved(self) -> float | None:
        """Percent of the calls of whole generations; None where it is not known."""
        if self.calls is None or self.whole is None or not sum(self.whole):
            return None
        return 100 - 100 * sum(self.calls) / sum(self.whole)


def costs(data: StudyData) -> list[CostRow]:
    """Of the search, of the winner on held-out prompts, and of the models' own images, as far as this study
    made them.

    Raises:
        StudyError: calls.csv is damaged.
    """
    made, record = _made(data), data.record
    winner = data.winner.key
    with closing(Ledger(data.path / files.LEDGER, record.spec.sampling.handoff_adapter)) as ledger:
        # A comparison with other schedulers, steps or caches is no part of the search.
        tried = [key for key in ledger.configs() if not key.sampler]
        placed = reference_plan.read(data.path)
        search = _images(ledger, tried, record.prompts, ("", placed.name) if placed else ("",))
        held = _images(ledger, [winner], record.heldout)
    spent = _sums(made, (*SEARCHING, FRONT))
    if spent is not None and spent["decode"] < search.count:
        spent = None  # another run, or another worker of an Optuna study, measured some of them
    found = [CostRow("search", search.configs, search.count, search.whole, _calls(spent))]
    if len(record.heldout):
        spent = _sums(made, (HELDOUT,))
        if spent is not None and spent["decode"] != held.count:
            spent = None  # with those of an earlier winner, or without some of this one
        found.append(CostRow("held-out prompts", held.configs, held.count, held.whole, _calls(spent)))
    spent = _sums(made, (REFERENCE, HELDOUT_REFERENCE))
    decoded = None if spent is None else spent["decode"]
    return [*found, CostRow("reference", None, decoded, None, _calls(spent))]


def _made(data: StudyData) -> pd.DataFrame | None:
    path = data.path / files.CALLS
    return table(path, ("part", *KINDS)) if path.is_file() else None


def _sums(made: pd.DataFrame | None, parts: Sequence[str]) -> dict[str, int] | None:
    """What all runs spent on some parts, by kind; None where it is not known."""
    if made is None:
        return None
    rows = made[made["part"].isin(parts)]
    return {kind: int(rows[kind].sum()) for kind in KINDS}


def _calls(spent: Mapping[str, int] | None) -> Calls | None:
    return None if spent is None else (spent["cloud"], spent["edge"])


@dataclass(frozen=True)
class _Images:
    """Configs and images in the ledger, and the calls of whole generations."""

    configs: int
    count: int
    whole: Calls


def _images(
    ledger: Ledger, keys: Iterable[ConfigKey], prompts: CalibrationSet, references: Sequence[str] = ("",)
) -> _Images:
    """Of configs on these prompts, against any of these references."""
    names, configs, count, cloud, edge = set(prompts.keys), 0, 0, 0, 0
    for key in keys:
        rows = len(names & {name for one in references for name in ledger.read(key, one)})
        steps = Plan.from_schedule(key.schedule)
        configs, count = configs + (rows > 0), count + rows
        cloud, edge = cloud + rows * steps.cloud_calls, edge + rows * steps.edge_calls
    return _Images(configs, count, (cloud, edge))
