"""(p, k, alpha, s): what is accepted and what is refused, with which words."""

from __future__ import annotations

import dataclasses

import pytest

from ecdiff_core.errors import ECDiffError, ParamsError
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan_of_params import plan

TABLE_5_ROW = {"p": 7, "k": 2, "alpha": 0.3, "s": 34}


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
    ("wrong", "message"),
    [
        ({"p": -1}, r"p to be a whole number >= 0, got -1"),
        ({"p": 7.0}, r"p to be a whole number >= 0, got 7\.0"),
        ({"p": True}, r"p to be a whole number >= 0, got True"),
        ({"p": "auto"}, r"p to be a whole number >= 0, got 'auto'"),
        ({"k": -2}, r"k to be a whole number >= 0, got -2"),
        ({"k": 1.5}, r"k to be a whole number >= 0, got 1\.5"),
        ({"k": None}, r"k to be a whole number >= 0, got None"),
        ({"s": -34}, r"s to be a whole number >= 0, got -34"),
        ({"s": False}, r"s to be a whole number >= 0, got False"),
        ({"alpha": 0}, r"0 < alpha <= 1, got alpha=0\b"),
        ({"alpha": -0.3}, r"0 < alpha <= 1, got alpha=-0\.3"),
        ({"alpha": 1.0001}, r"0 < alpha <= 1, got alpha=1\.0001"),
        ({"alpha": float("nan")}, r"alpha to be a number, 0 < alpha <= 1, got nan"),
        ({"alpha": float("inf")}, r"alpha to be a number, 0 < alpha <= 1, got inf"),
        ({"alpha": True}, r"alpha to be a number, 0 < alpha <= 1, got True"),
        ({"alpha": "0.3"}, r"alpha to be a number, 0 < alpha <= 1, got '0\.3'"),
        ({"p": 40}, r"p <= s, got p=40, s=34\. Lower p or raise s"),
        ({"p": 1}, r"p >= 2 when k >= 1, got p=1, k=2\..* two real noises; use k=0"),
        ({"p": 0, "k": 1}, r"p >= 2 when k >= 1, got p=0, k=1"),
    ],
)
def test_refuses(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ParamsError, match=message) as caught:
        ECDiffParams(**{**TABLE_5_ROW, **wrong})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_errors_are_the_users_and_also_value_errors() -> None:
    assert issubclass(ParamsError, ECDiffError)
    assert issubclass(ParamsError, ValueError)


def test_is_a_value() -> None:
    params = ECDiffParams(**TABLE_5_ROW)
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.k = 3  # type: ignore[misc]
    assert len({params, ECDiffParams(**TABLE_5_ROW), dataclasses.replace(params, alpha=0.4)}) == 2


def test_replacing_a_value_checks_again() -> None:
    with pytest.raises(ParamsError, match="p <= s"):
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
