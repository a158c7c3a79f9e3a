"""(p, k, alpha, s): what is accepted and what is refused, with which words."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ecdiff_core.errors import ECDiffError, ParamsError
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan_of_params import plan

from ...refusals import refused

TABLE_5_ROW = {"p": 7, "k": 2, "alpha": 0.3, "s": 34}
WHOLE: dict[str, object] = {"expected": "to be a whole number >= 0"}
FACTOR: dict[str, object] = {"expected": "0 < alpha <= 1"}


@pytest.mark.parametrize(
    "values",
    [
        TABLE_5_ROW,
        {"p": 2, "k": 1, "alpha": 1, "s": 2},
        {"p": 2, "k": 48, "alpha": 1e-9, "s": 50},
        {"p": 0, "k": 0, "alpha": 1.0, "s": 0},
        {"p": 1, "k": 0, "alpha": 0.5, "s": 1},
    ],
)
def test_accepts_and_keeps(values: dict[str, float]) -> None:
    assert ECDiffParams(**values).tree() == values


@pytest.mark.parametrize(
    ("wrong", "about"),
    [
        ({"p": -1}, WHOLE | {"got": -1}),
        ({"p": 7.0}, WHOLE | {"got": 7.0}),
        ({"p": True}, WHOLE | {"got": True}),
        ({"p": "auto"}, WHOLE | {"got": "auto"}),
        ({"k": -2}, WHOLE | {"got": -2}),
        ({"k": 1.5}, WHOLE | {"got": 1.5}),
        ({"k": None}, WHOLE | {"got": None}),
        ({"s": -34}, WHOLE | {"got": -34}),
        ({"s": False}, WHOLE | {"got": False}),
        ({"alpha": 0}, FACTOR | {"got": 0}),
        ({"alpha": -0.3}, FACTOR | {"got": -0.3}),
        ({"alpha": 1.0001}, FACTOR | {"got": 1.0001}),
        ({"alpha": float("nan")}, {"expected": "to be a number, 0 < alpha <= 1"}),
        ({"alpha": float("inf")}, {"expected": "to be a number, 0 < alpha <= 1"}),
        ({"alpha": True}, {"expected": "to be a number, 0 < alpha <= 1"}),
        ({"alpha": "0.3"}, {"expected": "to be a number, 0 < alpha <= 1", "got": "0.3"}),
        ({"p": 40}, {"got": {"p": 40, "s": 34}, "expected": "<= s"}),
        ({"p": 1}, {"got": {"p": 1, "k": 2}, "expected": ">= 2 when k >= 1"}),
        ({"p": 0, "k": 1}, {"got": {"p": 0, "k": 1}, "expected": ">= 2 when k >= 1"}),
    ],
)
def test_refuses(wrong: dict[str, object], about: dict[str, Any]) -> None:
    with refused(ParamsError, key=next(iter(wrong)), **about):
        ECDiffParams(**{**TABLE_5_ROW, **wrong})  # type: ignore[arg-type]


def test_errors_are_the_users_and_also_value_errors() -> None:
    assert issubclass(ParamsError, ECDiffError)
    assert issubclass(ParamsError, ValueError)


def test_is_a_value() -> None:
    params = ECDiffParams(**TABLE_5_ROW)
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.k = 3  # type: ignore[misc]
    assert len({params, ECDiffParams(**TABLE_5_ROW), dataclasses.replace(params, alpha=0.4)}) == 2


def test_replacing_a_value_checks_again() -> None:
    with refused(ParamsError, key="p", got={"p": 7, "s": 6}, expected="<= s"):
        dataclasses.replace(ECDiffParams(**TABLE_5_ROW), s=6)


def test_baselines() -> None:
    cloud, edge, hybrid = ECDiffParams.cloud_only(50), ECDiffParams.edge_only(), ECDiffParams.hybrid(40)
    assert (cloud.k, cloud.s) == (0, 50)
    assert (edge.k, edge.s) == (0, 0)
    assert (hybrid.k, hybrid.s) == (0, 40)


EXTENDED = [
    ECDiffParams(3, 2, 0.3, 9, residual=1.0),
    ECDiffParams(3, 2, 0.3, 9, edge_k=2, edge_first=1, edge_last=0, residual=0.5),
    ECDiffParams.scheduled([0, 1, 4], 0.3, 6, edge_k=1),
    ECDiffParams.interleaved([0, 10], [1, 20, 30], 0.3, 1.0),
    ECDiffParams.interleaved([0, 2], [1, 4], 0.3),
]


@pytest.mark.parametrize("params", EXTENDED)
def test_what_is_said_is_the_whole(params: ECDiffParams) -> None:
    assert ECDiffParams(**{"p": None, "k": None, **params.tree()}) == params
    assert params.extends_paper


@pytest.mark.parametrize("params", EXTENDED)
@pytest.mark.parametrize("wanted", [8, 25, 50])
def test_other_numbers_of_steps_still_make_a_plan(params: ECDiffParams, wanted: int) -> None:
    steps = plan(params.scaled(40, wanted), wanted)
    assert steps.num_steps == wanted
    assert steps.edge_steps > 0
    assert bool(steps.residual_steps) is (params.residual > 0)
