"""The plan that params stand for: EC-Diff's Algorithm 1, and what it is extended by."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from ecdiff_core.errors import ParamsError
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Action, Handoff, Plan

if TYPE_CHECKING:
    from ecdiff_core.sampling.estimators import Estimator


def count_steps(scheduler: str, num_inference_steps: int) -> int:
    """T, the steps that p, k and s count: one a timestep that the scheduler makes, so one a model call.

    PNDM makes one more than it is asked for: it does its first step twice, the second time with the noise at
    the step's end.

    >>> count_steps("DDIMScheduler", 50), count_steps("PNDMScheduler", 50)
    (50, 51)
    """
    return num_inference_steps + (scheduler == "PNDMScheduler" and num_inference_steps > 1)


def effective_s(params: ECDiffParams, num_steps: int, handoff: Handoff) -> int:
    """The step at which the edge model really begins.

    ``exact``: s. ``aligned``: just after the first real step from s - 1 on, since Algorithm 1 looks at s only
    after a correcting call: the first p + m (k + 1) >= s, m = 0, 1, …, and at most T. Of a schedule that
    lists no more real steps s itself, for there is no correcting call to wait for.
    """
    if handoff == "exact" or params.s <= params.warm_up:
        return params.s
    after_real = (step + 1 for step in params.real_steps(num_steps) if step + 1 >= params.s)
    return next(after_real, num_steps if params.schedule is None else params.s)


def plan(
    params: ECDiffParams, num_steps: int, handoff: Handoff = "aligned", estimator: Estimator | None = None
) -> Plan:
    """What every one of ``num_steps`` steps does (EC-Diff Algorithm 1, and what it is extended by).

    >>> plan(ECDiffParams(p=4, k=2, alpha=0.3, s=10), 12).schedule
    '4C2A1C2A1C2E'
    >>> plan(ECDiffParams(p=4, k=2, alpha=0.3, s=7, edge_k=2, residual=1.0), 12).schedule
    '4C2A1B2M1A2M'

    Args:
        estimator: ``edge`` puts an edge step with the residual in the place of every approximated step of the
            cloud side; None is one that needs two real noises.

    Raises:
        ParamsError: s or a listed step is beyond the number of steps, a step is to be approximated before
            there are the real noises that the estimator needs, there is a residual to add before a cloud
            call, or the handoff is unknown.
    """
    _check(params, num_steps, handoff, estimator)
    fills = estimator is not None and estimator.fills_with_edge
    cloud = set(params.real_steps(num_steps))
    if params.edge_schedule is not None:
        s, edge = 0, set(params.edge_schedule)
        steps = [
            Action.CLOUD if step in cloud else Action.EDGE if step in edge else Action.APPROX
            for step in range(num_steps)
        ]
    else:
        s = effective_s(params, num_steps, handoff)
        filled = Action.EDGE if fills else Action.APPROX
        steps = [Action.CLOUD if step in cloud else filled for step in range(s)]
        steps += _edge_side(params, num_steps - s)
    residual_steps = frozenset(
        step
        for step, action in enumerate(steps)
        if action is Action.EDGE and (params.residual > 0 or (fills and step < s))
    )
    made = Plan(tuple(steps), residual_steps)
    _check_order(made, 2 if estimator is None else estimator.real_noises)
    return made


def _edge_side(params: ECDiffParams, count: int) -> list[Action]:
    """The steps after the handoff: real ones at both ends, and every (edge_k + 1)-th between them."""
    first, every = params.edge_first, params.edge_k + 1
    return [
        Action.EDGE
        if i < first or i >= count - params.edge_last or (i + 1 - first) % every == 0
        else Action.APPROX
        for i in range(count)
    ]


def _check(params: ECDiffParams, num_steps: int, handoff: Handoff, estimator: Estimator | None) -> None:
    """Refuse what cannot be planned."""
    if handoff not in get_args(Handoff):
        raise ParamsError.unknown("handoff", handoff, get_args(Handoff))
    if num_steps < 1:
        raise ParamsError(key="num_inference_steps", got=num_steps, expected=">= 1")
    if params.s > num_steps:
        raise ParamsError(
            key="s",
            got={"s": params.s, "num_inference_steps": num_steps},
            expected="<= T, the number of steps",
            advice="Lower s or raise num_inference_steps.",
        )
    for name in ("schedule", "edge_schedule"):
        last = max(getattr(params, name) or (0,))
        if last >= num_steps:
            raise ParamsError(
                f"Expected the {name} within 0 … {num_steps - 1}, got step {last} with {num_steps} steps.",
                key=name,
                got=last,
                expected=f"within 0 … {num_steps - 1}",
                advice="Shorten it or raise num_inference_steps.",
            )
    if estimator is None or not estimator.fills_with_edge:
        return
    if params.edge_k or params.edge_schedule is not None:
        given = "edge_k" if params.edge_k else "edge_schedule"
        raise ParamsError(
            "The estimator edge cannot approximate a step by itself: expected neither edge_k nor "
            "edge_schedule with it.",
            key=given,
            got=getattr(params, given),
            advice="Choose another estimator.",
        )
    if params.residual not in (0, params.alpha):
        raise ParamsError(
            f"With the estimator edge alpha is the residual's factor: expected residual=0 or "
            f"residual={params.alpha}, got {params.residual}.",
            key="residual",
            got=params.residual,
            expected=["0", str(params.alpha)],
        )


def _check_order(made: Plan, needed: int) -> None:
    """Refuse steps that lack what they are to be made of."""
    if Action.APPROX in made.steps[:needed]:
        real = list(range(needed))
        raise ParamsError(
            f"Expected real steps at {real}, got {made.schedule}: the estimator needs "
            f"{needed} real noises before its first estimate.",
            key="steps",
            got=made.schedule,
            expected=f"real at {real}",
        )
    first = min(made.residual_steps, default=made.num_steps)
    if Action.CLOUD not in made.steps[:first] and made.residual_steps:
        raise ParamsError(
            key="a cloud call",
            got=made.schedule,
            expected="before the first edge step with the residual",
            advice="Raise s, or set residual=0.",
        )
