"""Accelerations at equal seconds, with seconds that are made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from ecdiff_core import ECDiffParams, MethodChoice
from ecdiff_core.config import Sampling
from ecdiff_tune.evaluation.candidate import Candidate, ConfigKey
from ecdiff_tune.evaluation.ledger import Ledger, Measurement
from ecdiff_tune.evaluation.side_by_side import side_by_side
from ecdiff_tune.experiments.equal_seconds import Setting, choose, front, measured_settings, near
from ecdiff_tune.experiments.methods import ComparedMethod, Sampler
from ecdiff_tune.methods.measure import Runs, content, frame, whole_key


def taylor(interval: int, quality: float) -> Setting:
    return Setting(MethodChoice("taylorseer", {"cache_interval": interval}), quality, 1 / interval)


FRONT = front([taylor(2, 0.99), taylor(4, 0.9), taylor(3, 0.8), taylor(8, 0.7)])
CLOUD = Candidate(ECDiffParams.cloud_only(12))
PLAIN = Sampler(Sampling(num_inference_steps=12))
METHODS = [
    ComparedMethod("cloud", "cloud", CLOUD, PLAIN),
    ComparedMethod("taylorseer", "TaylorSeer", CLOUD, Sampler(PLAIN.sampling, MethodChoice("taylorseer"))),
    ComparedMethod("pab", "PAB", CLOUD, Sampler(PLAIN.sampling, MethodChoice("pab"))),
]


def test_the_front_has_what_no_other_beats() -> None:
    assert [one.choice.values["cache_interval"] for one in FRONT] == [8, 4, 2]
    assert near(FRONT, 0.3) == FRONT
    assert near(FRONT, 0.2) == FRONT[:2]  # one that applies less, one that applies more
    tome = [Setting(MethodChoice("tome", {"ratio": one}), 1 - one / 10, 1.0) for one in (0.1, 0.5, 0.3)]
    assert [one.choice.values["ratio"] for one in front(tome)] == [0.5, 0.3, 0.1]


@pytest.mark.parametrize(("budget", "interval"), [(0.6, 2), (0.3, 4), (0.13, 8), (0.01, 8), (None, 5)])
def test_the_best_within_the_budget_else_the_fastest(budget: float | None, interval: int) -> None:
    def clock(methods: Sequence[ComparedMethod]) -> Mapping[ComparedMethod, float | None]:
        choices = {one: one.sampler.acceleration for one in methods}
        return {
            one: 1.0 if choice is None or choice.name == "pab" else 1.01 / choice.values["cache_interval"]
            for one, choice in choices.items()
        }

    found = choose(METHODS, {"taylorseer": FRONT}, 0.3, clock, lambda _: budget)
    assert [one.name for one in found.methods] == ["cloud", "taylorseer", "pab"]
    choice = found.methods[1].sampler.acceleration
    assert choice is not None
    assert choice.values["cache_interval"] == interval
    assert found.methods[2] is METHODS[2]  # nothing was measured of it
    assert found.methods[1].label == ("TaylorSeer" if budget is None else "TaylorSeer (tuned)")
    assert found.seconds == {"cloud": 1.0, "taylorseer": 1.01 / interval, "pab": 1.0}
    assert found.budget == budget


def test_settings_are_held_against_each_other_on_shared_prompts(tmp_path: Path) -> None:
    sampling, runs = PLAIN.sampling, Runs(tmp_path / "runs.jsonl")
    measured: dict[int, dict[str, float | None]] = {
        2: {"a": 0.9, "b": 0.99, "c": 0.5},
        3: {"a": 0.8, "c": 0.5},
        4: {"a": 0.85, "c": 0.55},
        5: {"a": 0.95, "c": None},  # an image that could not be made counts -1
        6: {"held out": 0.2},
    }
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        for interval, qualities in measured.items():
            choice = MethodChoice("taylorseer", {"cache_interval": interval})
            row = {"frame": frame(choice), "value": interval, "pattern": str(interval), "work": 1 / interval}
            row |= {"calls": 12, "reused": 6, "low": interval, "high": interval}
            key = vars(whole_key(sampling)) | {"sampler": f"{content(choice)} skipping {interval}"}
            rows = [(name, Measurement(one, 20.0, 1.0)) for name, one in qualities.items()]
            ledger.append(ConfigKey(**key), rows)
            runs.add([{**row, "prompt": name} for name in qualities])
        found = measured_settings(Runs(tmp_path / "runs.jsonl"), ledger, sampling, ["a", "b", "c"])
    assert list(found) == ["taylorseer"]
    rows = [(one.choice.values["cache_interval"], one.quality) for one in found["taylorseer"]]
    assert rows == [(5, pytest.approx(-0.025)), (4, pytest.approx(0.7))]


def test_rounds_are_taken_side_by_side(tmp_path: Path) -> None:
    load, taken = [1.0], []
    keys = {name: ConfigKey("", 0.0, "", "", name) for name in ("off", "pab", "tome")}

    def take(name: str, row: int) -> float:
        taken.append((name, row))
        return load[0] * (1 + row)

    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:

        def seconds(
            names: str, where: str = "here", again: bool = False, prompts: str = "abc"
        ) -> dict[str, float]:
            chosen = {name: keys[name] for name in names.split()}
            return side_by_side(ledger, chosen, where, list(prompts), take, again)

        assert seconds("off pab") == {"off": 2.0, "pab": 2.0}
        assert taken == [("off", 0), ("pab", 0)] + [
            (name, row) for row in range(3) for name in ("off", "pab")
        ]
        load[0] = 5.0
        assert seconds("pab off") == {"off": 2.0, "pab": 2.0}  # known
        assert seconds("off tome") == {"off": 10.0, "tome": 10.0}  # off too, under the load of now
        assert seconds("off pab", where="there")["off"] == 10.0  # another machine
        assert seconds("off pab", again=True)["off"] == 10.0
        load[0] = 7.0
        assert seconds("off pab")["off"] == 10.0  # the latest
        assert seconds("off pab", prompts="abcde")["off"] == 21.0  # more of them: none of an earlier load
        load[0] = 9.0
        assert seconds("off pab", prompts="a")["off"] == 7.0
        taken.clear()

        def killed(name: str, row: int) -> float:
            if len(taken) == 4:
                raise KeyboardInterrupt
            return take(name, row)

        with pytest.raises(KeyboardInterrupt):
            side_by_side(ledger, {"tome": keys["tome"], "pab": keys["pab"]}, "here", ["a", "b"], killed)
        assert seconds("tome pab")["pab"] == 18.0
        rows = (0, 0, 1, 2)  # round a too, which was taken under another load
        assert taken[4:] == [(name, row) for row in rows for name in ("tome", "pab")]
