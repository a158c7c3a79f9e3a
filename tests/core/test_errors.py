"""Errors as values: their attributes go along with a file's name, and to another process."""

from __future__ import annotations

import ast
import copy
import pickle
from pathlib import Path

import pytest

from ecdiff_core.errors import ConfigError, ECDiffError, ParamsError
from ecdiff_core.serving.worker import DeadlineError

ROOT = Path(__file__).parents[2]
OWN_KEYS = {"BusyError", "DeadlineError", "StoppedError"}
"""Those of the server's worker, whose key is always the same."""


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


def test_every_error_says_what_it_is_about() -> None:
    """Also where mypy does not look, behind a check of types that it takes for done."""
    sources = [
        path for name in ("ecdiff_core", "ecdiff_tune", "scripts") for path in (ROOT / name).rglob("*.py")
    ]
    trees = {path: list(ast.walk(ast.parse(path.read_text(encoding="utf-8")))) for path in sources}
    classes = {one.name: one for tree in trees.values() for one in tree if isinstance(one, ast.ClassDef)}

    def is_ours(name: str) -> bool:
        bases = (
            [base.id for base in classes[name].bases if isinstance(base, ast.Name)] if name in classes else []
        )
        return name == "ECDiffError" or any(map(is_ours, bases))

    bare = []
    for path, tree in trees.items():
        for call in (one for one in tree if isinstance(one, ast.Call)):
            name = call.func.id if isinstance(call.func, ast.Name) else ""
            if is_ours(name) and name not in OWN_KEYS and "key" not in {given.arg for given in call.keywords}:
                bare.append(f"{path.relative_to(ROOT)}:{call.lineno} {name}")
    assert bare == []
