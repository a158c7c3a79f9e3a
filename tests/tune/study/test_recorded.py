"""Reading a study back: the study's settings, the latency profile."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ecdiff_tune.cli.study_spec import study_spec
from ecdiff_tune.config import LinkSettings, RerankSettings, Settings
from ecdiff_tune.evaluation.latency import LatencyError, LatencyProfile, Timing
from ecdiff_tune.evaluation.ledger import Ledger, Measurement
from ecdiff_tune.objective import ObjectiveError
from ecdiff_tune.study import recorded
from ecdiff_tune.study.folder import StudyError

from ...refusals import refused
from ..recorded_study import GRID, SPREAD, STEPS, RecordedStudy, key_of, quality, with_payload
from ..studies import Command, one_line, refuses


def test_a_profile_that_varies_was_told_of_when_it_was_measured(
    tmp_path: Path, latency: LatencyProfile
) -> None:
    wide = replace(latency, cloud_call=Timing(0.02, 0.01, 0.04))
    assert "varies" not in str(recorded.load(RecordedStudy(tmp_path, wide).write().spec).notes)


# The trials.


def load(study: RecordedStudy, settings: Settings | None = None) -> tuple[recorded.Recorded, list[str]]:
    record = recorded.load(study_spec(settings or study.settings))
    return record, list(record.notes)


def test_every_config_on_all_prompts_the_best_first(tmp_path: Path, latency: LatencyProfile) -> None:
    partly, nowhere, held = GRID[0], GRID[1], GRID[2]
    study = RecordedStudy(tmp_path, latency).write(rows={partly: 3, nowhere: 0}, heldout=[held])
    record, said = load(study)
    assert said == [
        "configs measured on all of 4 prompts: 8 (beside them 1 measured on fewer, or without finite images)"
    ]
    assert {one.candidate.params for one in record.trials} == set(GRID) - {partly, nowhere}
    values = [one.value for one in record.trials]
    assert values == sorted(values, reverse=True)
    for one in record.trials:
        assert one.score is not None
        params, steps = one.candidate.params, one.plan
        assert one.score.quality == pytest.approx(quality(params))
        assert one.score.burden == pytest.approx((STEPS - params.s) / (STEPS - 7))
        assert one.seconds == pytest.approx(latency.seconds(steps))
        gained = (0.248 - one.seconds) / 0.144
        assert one.value == pytest.approx(0.3 * one.score.quality + 0.3 * gained + 0.4 * one.score.burden)
    assert [one.candidate.params for one in record.heldout_rows] == [held]


def test_limits_of_the_studys_search(tmp_path: Path, latency: LatencyProfile) -> None:
    study = RecordedStudy(tmp_path, latency).write()
    qualities = sorted(quality(one) for one in GRID)
    limit = (qualities[-2] + qualities[-1]) / 2
    wanting = replace(study.settings, search=replace(study.settings.search, min_quality=limit))
    record, said = load(study, wanting)
    assert [quality(one.candidate.params) for one in record.trials] == [qualities[-1]]
    assert any(f"{len(GRID) - 1} of them do not keep search.min_quality=" in line for line in said)
    looser = replace(wanting, rerank=RerankSettings(min_quality=-1.0))
    assert len(load(study, looser)[0].trials) == len(GRID)
    slow = replace(study.settings, search=replace(study.settings.search, max_seconds=1e-9))
    record, said = load(study, slow)
    assert len(record.trials) == len(GRID)  # none keeps it
    assert any("note: none keeps search.max_seconds=1e-09" in line for line in said)


def test_images_that_are_not_finite(tmp_path: Path, latency: LatencyProfile) -> None:
    study = RecordedStudy(tmp_path, latency).write(GRID[1:])
    ledger = Ledger(study.folder / "ledger.sqlite")
    prompts, _ = recorded.calibration.load(study.spec.prompts)
    found = [Measurement(None, None, 0.1), *[Measurement(0.99, 40.0, 0.1)] * 3]
    ledger.append(key_of(GRID[0]), zip(prompts.keys, found, strict=True))
    ledger.close()
    assert GRID[0] not in {one.candidate.params for one in load(study)[0].trials}


def test_nothing_measured(tmp_path: Path, latency: LatencyProfile) -> None:
    study = RecordedStudy(tmp_path, latency).write([GRID[0]], rows={GRID[0]: 3})
    with refused(StudyError, key=study.folder, got=0, expected="4"):
        load(study)
    (study.folder / "ledger.sqlite").unlink()
    with refused(StudyError, key=study.folder / "ledger.sqlite"):
        load(study)


def test_other_prompts(tmp_path: Path, latency: LatencyProfile) -> None:
    study = RecordedStudy(tmp_path, latency).write()
    with refused(StudyError, key="calibration"):
        load(study, replace(study.settings, seed=1))


def test_a_study_that_was_timed(tmp_path: Path, latency: LatencyProfile) -> None:
    record, said = load(RecordedStudy(tmp_path, latency, latency="wallclock").write())
    assert said[0].startswith("note: the study's trials were timed")
    assert record.trials[0].seconds == pytest.approx(latency.seconds(record.trials[0].plan))


# The latency profile.


def profile_by(study: RecordedStudy, link: LinkSettings, other: Path | None = None) -> LatencyProfile:
    rerank = RerankSettings(latency=None if other is None else str(other))
    return load(study, replace(study.settings, link=link, rerank=rerank))[0].latency


@pytest.mark.parametrize("known", [True, False], ids=["payload", "older file"])
def test_another_link(tmp_path: Path, latency: LatencyProfile, known: bool) -> None:
    study = RecordedStudy(tmp_path, with_payload(latency) if known else latency).write()
    assert profile_by(study, study.link).transfer_seconds == 0.010
    assert profile_by(study, LinkSettings()).transfer_seconds == 0.0
    found = profile_by(study, LinkSettings(100.0, 0.05))
    assert found.transfer_seconds == pytest.approx(0.05 + 11_800 * 16 / 100e6)
    assert found.crossing_seconds == pytest.approx(0.05)
    assert replace(found, transfer_seconds=0.010, payload_values=None, crossing_seconds=0.0) == latency


def test_a_payload_that_is_not_known(tmp_path: Path, latency: LatencyProfile) -> None:
    study = RecordedStudy(tmp_path, replace(latency, transfer_seconds=0.0), LinkSettings()).write()
    assert profile_by(study, LinkSettings()).transfer_seconds == 0.0
    with refused(LatencyError, key=study.folder / "latency.json", line="how many values"):
        profile_by(study, LinkSettings(100.0))


def test_another_machine(tmp_path: Path, latency: LatencyProfile) -> None:
    study = RecordedStudy(tmp_path / "a", with_payload(latency)).write()
    fast = replace(with_payload(latency), cloud_call=Timing(0.010, 0.009, 0.011), transfer_seconds=0.0)
    fast.save(tmp_path / "fast.json")
    found = profile_by(study, study.link, tmp_path / "fast.json")
    assert found == replace(fast, transfer_seconds=0.010)  # the transfer is the link's
    with_payload(fast, 99).save(tmp_path / "fast.json")
    with refused(LatencyError, key=tmp_path / "fast.json", got=99, expected="11800"):
        profile_by(study, study.link, tmp_path / "fast.json")
    replace(latency, cloud_call=latency.edge_call).save(tmp_path / "fast.json")
    with refused(ObjectiveError, key="efficiency"):
        profile_by(study, study.link, tmp_path / "fast.json")
    with refused(LatencyError, key=tmp_path / "none.json", line="No such file"):
        profile_by(study, study.link, tmp_path / "none.json")


# The study's settings, from the command line.


def test_what_needs_new_measurements(tmp_path: Path, latency: LatencyProfile, command: Command) -> None:
    study = RecordedStudy(tmp_path, latency).write()
    for override, got in (
        ("search.k=[1]", "search.k [1, 2] -> [1]"),
        ("search=greedy", 'search.name "exhaustive" -> "greedy"'),
        ("sampling.guidance_scale=4", "sampling.guidance_scale 3.0 -> 4.0"),
        ("resume=false", "resume true -> false"),
        ("pair.cloud=other", 'pair.cloud "a" -> "other"'),
        ("params.k=2", "params.k null -> 2"),
    ):
        refuses(command("rerank", *study.arguments(override)), key="settings", got=re.compile(re.escape(got)))
    same = ("seed=0", "search.k=[1,2]", "resume=true", "batch_size=3", "link=wifi", "device=cpu")
    assert command("pareto", *study.arguments(*same)).status == 0


def test_no_such_study(tmp_path: Path, latency: LatencyProfile, command: Command) -> None:
    study = RecordedStudy(tmp_path, latency)
    refuses(command("rerank", *study.arguments()), key="study", got="default")
    study.write()
    refuses(command("rerank", *study.arguments("study=defualt")), key="study", nearest="default")
    assert not (tmp_path / "tiny" / "defualt").exists()


def test_files_that_are_damaged(tmp_path: Path, latency: LatencyProfile, command: Command) -> None:
    for name in ("study.json", "latency.json", "ledger.sqlite"):
        study = RecordedStudy(tmp_path / name, latency).write()
        (study.folder / name).write_text("nonsense: [")
        refuses(command("rerank", *study.arguments()), key=study.folder / name)
        (study.folder / name).unlink()
        assert str(study.folder) in one_line(command("rerank", *study.arguments()))
    study = RecordedStudy(tmp_path / "weights", latency).write()
    state = json.loads((study.folder / "study.json").read_text())
    del state["settings"]["weights.cloud.id"]
    (study.folder / "study.json").write_text(json.dumps(state))
    refuses(command("rerank", *study.arguments()), key="study.json", expected=["weights.cloud.id"])


def test_the_spread_is_none_on_average() -> None:
    assert sum(SPREAD) == pytest.approx(0)
