"""Errors as values: their attributes go along with a file's name, and to another process."""

from __future__ import annotations

import copy
import pickle

import pytest

from ecdiff_core.errors import ConfigError, ECDiffError, ParamsError
from ecdiff_core.serving.worker import DeadlineError


@pytest.mark.parametrize(
    "error",
    [
        ParamsError(key="p", got={"p": 40, "s": 34}, expected="<= s", advice="Lower p."),
        ConfigError.unknown("estimator", "resue", ["reuse", "edge"]),
        ECDiffError("Cannot do it.", key="it"),
        DeadlineError(2.5, 1.0),
    ],
    ids=["range", "name", "sentence", "own arguments"],
)
def test_attributes_stay_with_an_error(error: ECDiffError) -> None:
    about = error.of("my.yaml")
    for other in (about, about.of("my.yaml"), pickle.loads(pickle.dumps(about)), copy.deepcopy(about)):
        assert type(other) is type(error)
        assert str(other) == f"my.yaml: {error}"
        assert vars(other) == vars(error)


def test_a_name_offers_the_choices_in_order() -> None:
    error = ConfigError.unknown("estimator", "resue", ["reuse", "edge"], advice="Or leave it out.")
    assert error.expected == ["edge", "reuse"]
    line = "Unknown estimator 'resue': choose from edge, reuse (did you mean reuse?). Or leave it out."
    assert str(error) == line
