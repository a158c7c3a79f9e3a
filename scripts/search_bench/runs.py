"""The searches as commands of the tuner, each with a study of its own, and what they left."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import ECDiffError
from ecdiff_tune.__main__ import main
from ecdiff_tune.evaluation.candidate import ConfigKey
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.ledger import Ledger, Measurement
from ecdiff_tune.evaluation.model_calls import KINDS
from ecdiff_tune.search import SEARCHES
from ecdiff_tune.search.spaces import SEARCHING
from ecdiff_tune.study import files

IMAGES = "images"
"""The study that makes the reference and the latency profile for all."""
STUDIES: Mapping[str, tuple[str, ...]] = {
    "greedy-off": ("search=greedy", "sharing=off", "search.error_rate=0"),
    "greedy": ("search=greedy", "search.error_rate=0"),
    "greedy-tests": ("search=greedy",),
    "race": ("search=race", "search.joint=true"),
    "predict": ("search=predict", "reference=full"),
    "joint": ("search=joint", "reference=full"),
    "joint-placed": ("search=joint", "reference=placed"),
    "optuna-tpe": ("search=optuna", "search.sampler=tpe"),
    "exact": ("search=race", "search.joint=true", "search.error_rate=0"),
    "exhaustive": ("search=exhaustive", "search.joint=true"),
    "schedule": ("search=schedule", "reference=placed"),
    "schedule-one": ("search=schedule", "calibration.num_prompts=1", "search.finalists=4"),
}
"""Studies by name and the settings that make them; ``exact`` is a race without a test that could err."""
OWN_REFERENCE = ("joint-placed", "schedule", "schedule-one")
"""Studies that make less than a full reference of every prompt, and are charged with what they make."""
CLOUD_ALONE = ("schedule", "schedule-one")
"""They place the calls of the cloud alone (s = T), which is another space than the grid of the others."""
PAPER_GRID = ("search.edge_k=[0]", "search.residual=[0.0]")
"""What all of them search: (k, alpha, s) alone."""
WHOLE_GRID = ("exhaustive", "exact")
"""Searches that find the optimum of the grid for certain."""
SAME_SSIM = 1e-4
"""Between a trial that shares its trajectory and one that runs whole."""


class BenchmarkError(ECDiffError):
    """The benchmark cannot be run, or what it found contradicts itself."""


@dataclass(frozen=True)
class Setup:
    """What all searches have in common.

    Args:
        latency: the profile that all go by; None is one that is measured now.
        settings: overrides for every search.
    """

    outputs: Path
    num_prompts: int
    heldout: int
    steps: int
    trials: int
    latency: Path | None = None
    settings: Sequence[str] = ()

    @property
    def overrides(self) -> list[str]:
        """For the tuner's command line."""
        return [
            f"output_dir={self.outputs}",
            f"calibration.num_prompts={self.num_prompts}",
            f"heldout.num_prompts={self.heldout}",
            f"sampling.num_inference_steps={self.steps}",
            *self.settings,
        ]

    def output_dir(self, name: str) -> Path:
        """Where a study and its references lie."""
        return self.outputs / "own" / name if name in OWN_REFERENCE else self.outputs

    def folder(self, name: str) -> Path:
        """Of a study."""
        given = dict(one.split("=", 1) for one in self.settings)
        return self.output_dir(name) / given.get("pair.name", given.get("pair", "shapes")) / name

    def of_study(self, name: str) -> list[str]:
        """The settings of one study, after those of all."""
        trials = [f"search.trials={self.trials}"] if "search=optuna" in STUDIES[name] else []
        cloud_alone = [f"search.s=[{self.steps}]"] if name in CLOUD_ALONE else []
        own = [f"output_dir={self.output_dir(name)}", *STUDIES[name], *trials, *cloud_alone]
        given = {one.partition("=")[0] for one in own} | ({"params.p"} if cloud_alone else set())
        return [one for one in self.overrides if one.partition("=")[0] not in given] + own


@dataclass(frozen=True)
class Spent:
    """What something cost: calls of one prompt with guidance, decoded images, wall-clock seconds."""

    cloud: int = 0
    edge: int = 0
    decode: int = 0
    seconds: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Spent(*(one + two for one, two in pairs))

    def equivalents(self, edge_weight: float) -> float:
        """In cloud calls."""
        return self.cloud + edge_weight * self.edge


@dataclass(frozen=True)
class Finished:
    """A search that is done.

    Args:
        reference: what it needs of the reference and the latency profile, as if it had made them itself.
        search: what its trials cost.
        runs: how many it took, more than 1 where it was stopped.
        trials: how many configs were measured on every prompt, and how many on some.
        rows: SSIM and the like by config and prompt.
    """

    name: str
    config: TunedConfig
    reference: Spent
    search: Spent
    edge_weight: float
    runs: int
    trials: tuple[int, int]
    rows: Mapping[ConfigKey, Mapping[str, Measurement]]

    @property
    def objective(self) -> float:
        """Of its winner, on the calibration prompts."""
        assert self.config.score is not None
        return float(self.config.score["objective"])

    @property
    def equivalents(self) -> float:
        """Cloud-call equivalents, the reference included."""
        return (self.reference + self.search).equivalents(self.edge_weight)


def choose(names: Sequence[str] | None) -> list[str]:
    """The searches of these names; None is all.

    Raises:
        BenchmarkError: there is no such search.
    """
    for name in names or ():
        if name not in STUDIES:
            raise BenchmarkError.unknown("search", name, STUDIES)
    return list(dict.fromkeys(names or STUDIES))


def run(setup: Setup, name: str) -> None:
    """Run a search to its end, or go on with it; nothing if it is done."""
    folder, images = setup.folder(name), setup.folder(IMAGES)
    if setup.latency is not None and not (images / files.LATENCY).is_file():
        LatencyProfile.load(setup.latency).save(images / files.LATENCY)
    if not (images / files.NOISE_TABLE).is_file():
        # joint predicts, so that the edge passes along the cloud's trajectories are made too.
        _tuner("reference", f"study={IMAGES}", "search=joint", "reference=full", *setup.overrides)
    if (folder / files.CONFIG).is_file():
        return
    if not (folder / files.LATENCY).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(images / files.LATENCY, folder / files.LATENCY)
    print(f"--- {name}", flush=True)
    _tuner("tune", f"study={name}", *PAPER_GRID, *setup.of_study(name))


def _tuner(*arguments: str) -> None:
    status = main(arguments)
    if status == 130:
        raise KeyboardInterrupt
    if status:
        line = f"ecdiff_tune {' '.join(arguments)} ended with status {status}; see above."
        raise BenchmarkError(line, key=arguments[0], got=status)


def finished(setup: Setup, names: Sequence[str]) -> list[Finished]:
    """What the searches that are done have left, in the order of ``STUDIES``.

    Raises:
        BenchmarkError: none is done.
    """
    done = [name for name in STUDIES if name in names and (setup.folder(name) / files.CONFIG).is_file()]
    if not done:
        raise BenchmarkError(f"No search in {setup.outputs} is done.", key=str(setup.outputs))
    return [_read(setup, name) for name in done]


def _read(setup: Setup, name: str) -> Finished:
    folder, images = setup.folder(name), setup.folder(IMAGES)
    profile = LatencyProfile.load(folder / files.LATENCY)
    calls = pd.read_csv(folder / files.CALLS)
    trials = pd.read_csv(folder / files.TRIALS)
    in_part = int(trials["state"].isin(["pruned", "discarded"]).sum())
    ledger = Ledger(folder / files.LEDGER)
    try:
        rows = {key: ledger.read(key) for key in ledger.configs()}
    finally:
        ledger.close()
    return Finished(
        name,
        TunedConfig.load(folder / files.CONFIG),
        _reference(pd.read_csv(images / files.CALLS), calls, name, setup),
        _sum(calls[calls["part"].isin(SEARCHING)]),
        profile.edge_call.median / profile.cloud_call.median,
        calls["run"].nunique(),
        (len(trials) - in_part, in_part),
        rows,
    )


def _reference(calls: pd.DataFrame, own: pd.DataFrame, name: str, setup: Setup) -> Spent:
    """Of the images' study what a search needs: without the edge passes where it does not predict. Of the
    reference that a study made itself what it took.

    Args:
        calls: of the images' study.
        own: of the search's.
    """
    made = _sum(calls[calls["part"].isin(("latency", "reference"))])
    latency = _sum(calls[calls["part"] == "latency"])
    if name in OWN_REFERENCE:
        return latency + _sum(own[own["part"] == "reference"])
    if SEARCHES[STUDIES[name][0].removeprefix("search=")].predicts:
        return made
    each = setup.num_prompts * setup.steps
    return Spent(latency.cloud + each, latency.edge + each, made.decode, made.seconds)


def _sum(rows: pd.DataFrame) -> Spent:
    calls = (int(rows[kind].sum()) for kind in KINDS)
    return Spent(*calls, float(rows["seconds"].sum()))


def most_apart(one: Finished, other: Finished) -> float:
    """The greatest difference of SSIM between two searches that have the same trials.

    Raises:
        BenchmarkError: they have not, or differ by more than ``SAME_SSIM``.
    """
    if {key: set(rows) for key, rows in one.rows.items()} != {k: set(rows) for k, rows in other.rows.items()}:
        line = f"{one.name} and {other.name} measured other configs or prompts."
        raise BenchmarkError(line, key=other.name, expected=one.name)
    apart = 0.0
    for key, rows in one.rows.items():
        for prompt, ours in rows.items():
            theirs = other.rows[key][prompt]
            if ours.ssim is None or theirs.ssim is None:
                apart = max(apart, 0.0 if ours.ssim is theirs.ssim else float("inf"))
            else:
                apart = max(apart, abs(ours.ssim - theirs.ssim))
    if apart > SAME_SSIM:
        line = f"{one.name} and {other.name} differ by {apart:.2g} SSIM, over {SAME_SSIM:g}."
        raise BenchmarkError(line, key="ssim", got=apart, expected=f"<= {SAME_SSIM:g}")
    return apart
