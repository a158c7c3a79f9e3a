"""A method of a comparison: a candidate, and what it is generated with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ecdiff_core.config import Sampling
from ecdiff_core.methods.choice import MethodChoice
from ecdiff_core.sampling.plan import Plan
from ecdiff_tune.evaluation.candidate import Candidate, ConfigKey


@dataclass(frozen=True)
class Sampler:
    """What a method is generated with.

    Args:
        sampling: of a generation.
        acceleration: of the cloud model; None is none.
        own_cloud: images are held against those of the cloud alone with this sampler, not with the study's.
    """

    sampling: Sampling
    acceleration: MethodChoice | None = None
    own_cloud: bool = False

    def key(self, study: Sampling) -> str:
        """``ConfigKey.sampler``: empty where it is the study's own."""
        mine = (self.sampling.scheduler, self.sampling.num_inference_steps)
        words = [] if mine == (study.scheduler, study.num_inference_steps) else [f"{mine[0]} {mine[1]}"]
        if self.acceleration is not None:
            words.append(self.acceleration.text)
        if self.own_cloud:
            words.append("against its own cloud")
        return ", ".join(words)


@dataclass(frozen=True)
class ComparedMethod:
    """One row of a comparison.

    Args:
        name: in ``compare.methods`` and the csv.
        label: in tables and figures.
    """

    name: str
    label: str
    candidate: Candidate
    sampler: Sampler

    @property
    def plan(self) -> Plan:
        """What every step does."""
        sampling = self.sampler.sampling
        return self.candidate.resolve(sampling.num_steps, sampling.handoff).plan

    def key(self, study: Sampling) -> ConfigKey:
        """Of its measurements in the study's ledger."""
        sampling = self.sampler.sampling
        found = self.candidate.resolve(sampling.num_steps, sampling.handoff, self.sampler.key(study))
        return found.key


LeftOut = dict[str, str]
"""Why methods do not apply, by their names."""


def distinct(methods: Iterable[ComparedMethod], study: Sampling) -> tuple[list[ComparedMethod], LeftOut]:
    """Those that make other images than every earlier one, and whose the others make.

    Args:
        study: the sampling settings that the study was tuned with.
    """
    earlier: dict[ConfigKey, ComparedMethod] = {}
    left_out: LeftOut = {}
    for method in methods:
        same = earlier.setdefault(method.key(study), method)
        if same is not method:
            left_out[method.name] = f"it makes the same images as {same.name}"
    return list(earlier.values()), left_out


def describe(left_out: LeftOut) -> Iterator[str]:
    """A line a reason.

    >>> list(describe({"pab": "no cache", "paper": "no row", "taylorseer": "no cache"}))
    ['left out: pab, taylorseer (no cache)', 'left out: paper (no row)']
    """
    for reason in dict.fromkeys(left_out.values()):
        names = ", ".join(name for name, other in left_out.items() if other == reason)
        yield f"left out: {names} ({reason})"
