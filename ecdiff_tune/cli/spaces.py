"""What a stage may choose from, by the settings."""

from __future__ import annotations

from dataclasses import replace

from ecdiff_tune.config import Settings
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.forecast import proposals
from ecdiff_tune.forecast.predictor import Predictor
from ecdiff_tune.search.spaces import JointSpace, ScheduleSpace, Stage1Space, Stage2Space


def stage1_space(settings: Settings, p: int) -> Stage1Space:
    """(k, alpha) with the cloud model alone."""
    ks, alphas = tuple(settings.search.k), tuple(settings.search.alpha)
    adapter = settings.core_sampling().handoff_adapter
    return Stage1Space(p, ks, alphas, settings.num_steps, settings.estimators, adapter)


def joint_space(settings: Settings, p: int) -> JointSpace:
    """All dimensions at once; ``p`` is the warm-up where it is not searched."""
    search = settings.search
    return JointSpace(
        (p,) if search.p is None else tuple(search.p),
        tuple(search.k),
        tuple(search.alpha),
        settings.s_values,
        settings.num_steps,
        settings.core_sampling().handoff,
        settings.estimators,
        settings.handoff_adapters,
        settings.edge_ks,
        settings.residuals,
        settings.params.edge_first,
        settings.params.edge_last,
        settings.handoffs,
    )


def schedule_space(settings: Settings, predictor: Predictor) -> ScheduleSpace:
    """What the forecast proposes for the wanted numbers of cloud calls."""
    search, ways = settings.search, (settings.estimators, settings.handoff_adapters)
    if search.edge_calls:
        proposed = proposals.propose_splits(
            predictor,
            settings.cloud_calls,
            search.edge_calls,
            search.residual,
            search.crossings == 1,
            *ways,
            tuple(search.alpha),
        )
    else:
        proposed = proposals.propose(
            predictor, settings.cloud_calls, settings.s_values, *ways, tuple(search.k), tuple(search.alpha)
        )
    return ScheduleSpace(proposed, settings.num_steps, settings.core_sampling().handoff)


def stage2_space(settings: Settings, winner: Candidate) -> Stage2Space:
    """s for a stage-1 winner."""
    given = settings.params
    params = replace(winner.params, edge_first=given.edge_first, edge_last=given.edge_last)
    return Stage2Space.of(
        replace(winner, params=params),
        settings.s_values,
        settings.num_steps,
        settings.core_sampling().handoff,
        settings.handoff_adapters,
        settings.edge_ks,
        settings.residuals,
    )
