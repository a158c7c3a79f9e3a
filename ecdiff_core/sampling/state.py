"""What a sampler's state holds at a step of a plan, known without any model.

All of a state but its rows (``batching``) follows from scheduler, plan and estimator. So whoever has these
needs nothing of another machine's state but tensors, and knows beforehand which: those that the steps to come
look at. The scheduler's class, its numbers and its tables never travel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ecdiff_core.sampling.batching import rows_of, with_rows
from ecdiff_core.sampling.estimators import Estimator
from ecdiff_core.sampling.params import Factors
from ecdiff_core.sampling.plan import Plan
from ecdiff_core.sampling.sampler import SamplerState, advance

_SIDE = 2
"""Of a probe's latents, in every dimension but the batch: schedulers do not depend on it."""


@dataclass(frozen=True)
class Layout:
    """What states at a step of a plan are made of.

    Args:
        probe: one of them, of small latents; where its rows lie is where any state's do.
        needed: names of the rows that the steps to come depend on, ``latents`` first.
    """

    probe: SamplerState
    needed: tuple[str, ...]

    def dtypes(self) -> dict[str, torch.dtype]:
        """Of the rows that are needed."""
        rows = rows_of(self.probe)
        return {name: rows[name].dtype for name in self.needed}

    def take(self, state: SamplerState) -> dict[str, Tensor]:
        """The rows of a state that are needed, by name."""
        rows = rows_of(state)
        return {name: rows[name] for name in self.needed}

    def fill(self, rows: Mapping[str, Tensor]) -> SamplerState:
        """The state that has these rows, and zeros where no step to come looks.

        Args:
            rows: those that are needed, by name, shape (batch, channels, …), where the probe is.
        """
        shape = rows["latents"].shape
        unseen = {
            name: row.new_zeros(()).expand(shape)
            for name, row in rows_of(self.probe).items()
            if name not in rows
        }
        return with_rows(self.probe, {**rows, **unseen})


def layout_at(step: int, begun: SamplerState, plan: Plan, estimator: Estimator, factors: Factors) -> Layout:
    """The layout of states of a plan before a step.

    Args:
        begun: before step 0, as ``sampler.start`` makes it: its scheduler, dtypes, device and the number of
            its latents' dimensions are looked at.
    """
    latents = begun.latents.new_ones((1, *[_SIDE] * (begun.latents.ndim - 1)))

    def run(state: SamplerState, until: int) -> SamplerState:
        return advance(state, plan, _answer, _answer, estimator, factors, until=until)

    probe = run(replace(begun, latents=latents), step)
    rows = rows_of(probe)

    def is_needed(name: str) -> bool:
        spoilt = with_rows(probe, {**rows, name: torch.full_like(rows[name], torch.nan)})
        return not bool(run(spoilt, plan.num_steps).latents.isfinite().all())

    others = sorted(name for name in rows if name != "latents" and is_needed(name))
    return Layout(probe, ("latents", *others))


def _answer(latents: Tensor, timestep: Tensor) -> Tensor:
    return latents.tanh()
