"""Settings that are given and change nothing: each is named in a line; what is wrong is refused."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import yaml

from ecdiff_core.errors import ParamsError
from ecdiff_tune.cli.composing import compose_settings
from ecdiff_tune.config import names
from ecdiff_tune.data.conf_folder import config_folder
from ecdiff_tune.search import SEARCHES
from ecdiff_tune.search.options import SearchError

from ...refusals import refused


def named(command: str, *given: str) -> list[str]:
    """The settings of which a line says that they have no effect."""
    lines: list[str] = []
    compose_settings(command, ["pair=shapes", *given], lines.append)
    return [one.split()[1] for one in lines if "no effect" in one]


def test_what_has_no_effect_is_said_with_what_is_tuned() -> None:
    lines: list[str] = []
    compose_settings("tune", ["pair=shapes", "acceleration.min_quality=0.9"], lines.append)
    compose_settings("tune", ["pair=shapes", "method=[pab,tome]", "search.rungs=[0.5]"], lines.append)
    assert [one for one in lines if "no effect" in one] == [
        "note: acceleration.min_quality has no effect with method=ecdiff.",
        "note: search.rungs has no effect with method=pab,tome.",
    ]


@pytest.mark.parametrize(
    ("given", "idle"),
    [
        (["search=greedy", "search.finalists=4"], ["search.finalists"]),
        (["search=predict", "search.rungs=[0.5]", "search.trials=9"], ["search.rungs", "search.trials"]),
        (["search=joint", "search.rungs=[0.5]", "search.finalists=4", "search.p=[2,3]"], []),
        (["search=greedy", "search.margin=0.1", "search.error_rate=0"], ["search.margin"]),
        (["search=greedy", "search.rungs=[0.1]", "search.extend=true"], ["search.rungs"]),
        (["search=race", "search.handoff=[exact]"], ["search.handoff"]),
        (["search=race", "search.handoff=[exact]", "search.joint=true"], []),
        (["search=schedule", "search.edge_calls=[8]", "search.k=[1]"], ["search.k"]),
        (["search=schedule", "search.residual=[0.5]"], ["search.residual"]),
        (["search.edge_k=[0]", "params.edge_last=4"], ["params.edge_last"]),
        (["params.edge_last=4"], []),
        (["reference=placed", "calibration.num_prompts=12"], ["reference"]),
        (["reference=placed", "calibration.num_prompts=13"], []),
        (["heldout.num_prompts=0", "heldout.fewer_steps=4"], ["heldout.fewer_steps"]),
        (["sharing=off", "sharing_gib=2"], ["sharing_gib"]),
        (["method=tome", "search.k=[1]"], ["search.k"]),
        (["acceleration.timed_prompts=2"], ["acceleration.timed_prompts"]),
    ],
)
def test_what_changes_nothing_is_named(given: Sequence[str], idle: list[str]) -> None:
    assert named("tune", *given) == idle


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        (["search=schedule", "search.cloud_calls=[14]"], "search=schedule"),
        (["search=joint", "params.edge_k=0"], "params.edge_k=0"),
        (["search=joint", "search.edge_k=[0]"], "search.edge_k=[0]"),
    ],
)
def test_the_cause_is_what_was_set(given: Sequence[str], cause: str) -> None:
    lines: list[str] = []
    compose_settings("tune", ["pair=shapes", *given, "params.edge_last=4"], lines.append)
    (line,) = (one for one in lines if "params.edge_last" in one)
    assert f"no effect with {cause}" in line


def test_a_command_that_does_not_search_says_nothing_of_searches() -> None:
    assert named("reference", "search=greedy", "search.finalists=4") == []


@pytest.mark.parametrize("last", ["edge_first", "edge_last"])
def test_more_real_edge_steps_than_steps_are_refused(last: str) -> None:
    with refused(ParamsError, key=f"params.{last}", got=100):
        compose_settings("tune", ["pair=shapes", f"params.{last}=100"])


@pytest.mark.parametrize("rungs", ["[0.5,0.1]", "[0.1,0.1]"])
def test_rungs_that_do_not_rise_are_refused(rungs: str) -> None:
    with refused(SearchError, key="search.rungs", got=tuple(yaml.safe_load(rungs))):
        compose_settings("tune", ["pair=shapes", f"search.rungs={rungs}"])


def test_every_search_goes_by_what_its_file_in_conf_holds() -> None:
    known = {one.partition(".")[2] for one in names.setting_names() if one.startswith("search.")}
    for name, kind in SEARCHES.items():
        held = yaml.safe_load((config_folder() / "search" / f"{name}.yaml").read_text("utf-8"))
        assert held.keys() <= set(kind.reads) <= known, name
    assert set().union(*(kind.reads for kind in SEARCHES.values())) == known
