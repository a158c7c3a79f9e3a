"""A tuned config's params for other sampling settings; its real steps keep their place in the noise.

What makes a step worth a real call is how much noise its latents hold, not its number. So every real step
goes to the step of the new settings whose latents are nearest in log(signal / noise). Where several go to one
step, they are merged, which saves calls, or moved apart, which keeps them; a third way is p, s and schedules
in proportion to the number of steps. Which of these is best, and at which s, is for the forecast to say.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from diffusers import SchedulerMixin

from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import ParamsError
from ecdiff_core.models.handoff import PURE_NOISE
from ecdiff_core.sampling.estimators import get_estimator
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Handoff
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_tune.forecast.error_growth import Array, signal_and_noise


def log_snr(scheduler: SchedulerMixin, num_steps: int) -> Array:
    """log(signal / noise) of the latents before every step, rising, shape (T,); of pure noise about -8.3.

    Args:
        scheduler: with its timesteps set.

    Raises:
        UnpredictableError: the scheduler does not tell how much noise latents hold.
    """
    signal, noise, _ = signal_and_noise(scheduler, num_steps)
    places: Array = np.log(np.maximum(signal, PURE_NOISE**0.5) / noise)
    return places


def transferred(
    config: TunedConfig, theirs: Array, ours: Array, s_values: Sequence[int], handoff: Handoff
) -> dict[ECDiffParams, str]:
    """Params for other settings, each with how the cloud's real steps were moved.

    They are ``merged``, ``apart`` or ``in proportion``, and every s is tried with each, unless one model does
    all the steps. What gives no plan is
    left out: there may be fewer steps than real ones, say.

    Args:
        theirs: ``log_snr`` of the config's settings.
        ours: of the new ones.
        s_values: at which the edge may take over.
        handoff: of the new settings.
    """
    nearest = [int(np.abs(ours - place).argmin()) for place in theirs]
    begin = min(get_estimator(config.sampling.estimator).real_noises, len(theirs))
    nearest[:begin] = range(begin)  # the estimator's first noises
    move = _interleaved if config.params.edge_schedule is not None else _one_way
    found: dict[ECDiffParams, str] = {}
    for way, make in move(config, nearest, len(ours), s_values):
        try:
            params = make()
            plan(params, len(ours), handoff, get_estimator(config.sampling.estimator))
        except ParamsError:
            continue
        found.setdefault(params, way)
    return found


_Ways = Iterator[tuple[str, Callable[[], ECDiffParams]]]
"""How real steps were moved, and what makes the params, which may be refused."""


def _one_way(config: TunedConfig, nearest: Sequence[int], wanted: int, s_values: Sequence[int]) -> _Ways:
    """Cloud steps at their places, then the edge, thinned as before."""
    params, steps = config.params, len(nearest)
    edge_k = round((params.edge_k + 1) * wanted / steps) - 1 if params.edge_k else 0
    scaled = replace(params.scaled(steps, wanted), edge_k=edge_k)
    places = [nearest[step] for step in params.real_steps(steps)]
    ways = {
        "in proportion": scaled.real_steps(wanted),
        "merged": sorted(set(places)),
        "apart": _apart(places, wanted),
    }
    own_s = wanted if params.s == steps else nearest[params.s]
    tried = sorted({own_s} if params.s in (0, steps) else {*s_values, own_s})
    for s in tried:
        yield "in proportion", partial(replace, scaled, s=s)
    kept = {name: getattr(scaled, name) for name in ("edge_k", "edge_first", "edge_last", "residual")}
    for (way, listed), s in itertools.product(ways.items(), tried):
        before = [step for step in listed if step < s]
        yield way, partial(ECDiffParams.scheduled, before, params.alpha, s, **kept)


def _interleaved(config: TunedConfig, nearest: Sequence[int], wanted: int, _s_values: Sequence[int]) -> _Ways:
    """Both models' steps at their places; where both go to one, it is the cloud's."""
    params = config.params
    cloud, edge = params.schedule or (), params.edge_schedule or ()
    real = sorted([*cloud, *edge])
    places = [nearest[step] for step in real]
    for way, moved in (("merged", places), ("apart", _apart(places, wanted))):
        steps = dict(zip(real, moved, strict=False))
        of_cloud = sorted({steps[step] for step in cloud if step in steps})
        of_edge = sorted({steps[step] for step in edge if step in steps} - set(of_cloud))
        yield way, partial(ECDiffParams.interleaved, of_cloud, of_edge, params.alpha, params.residual)
    yield "in proportion", partial(params.scaled, len(nearest), wanted)


def _apart(places: Sequence[int], wanted: int) -> list[int]:
    """Every one at a step of its own, as near as may be; the last ones go where there are too many.

    >>> _apart([0, 0, 1, 4, 4], 6), _apart([0, 4, 5, 5], 6), _apart([0, 0, 1], 2)
    ([0, 1, 2, 4, 5], [0, 3, 4, 5], [0, 1])
    """
    kept = np.asarray(places[:wanted])
    number = np.arange(len(kept))
    rising = np.maximum.accumulate(kept - number) + number
    return [int(step) for step in np.minimum(rising, wanted - len(kept) + number)]
