"""A study's folder: one process at a time, one set of settings, and what happens to an old one."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ecdiff_core.models.pair_spec import Lora, ModelRef, PairSpec
from ecdiff_tune.cli.study_spec import study_spec
from ecdiff_tune.config import (
    CalibrationSettings,
    HeldoutSettings,
    LinkSettings,
    MetricsSettings,
    ObjectiveSettings,
    PairSettings,
    ParamsSettings,
    SamplingSettings,
    SearchSettings,
    Settings,
)
from ecdiff_tune.study.folder import BusyStudyError, StudyError, StudyFolder, read_state
from ecdiff_tune.study.reranked import pair_of

from ...refusals import refused

SPEC = PairSpec("tiny", ModelRef("a", None, "0123"), ModelRef("b", None, "4567"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        pair=PairSettings("tiny", "a", "b"),
        search=SearchSettings("greedy", k=[1, 2], alpha=[0.3, 0.5]),
        output_dir=str(tmp_path),
    )


def claim(
    settings: Settings,
    spec: PairSpec = SPEC,
    digest: str = "d",
    device: str = "cpu",
    searches: bool = True,
) -> str:
    with StudyFolder(study_spec(settings, searches)) as folder:
        return folder.claim(spec, digest, device)


def reference_of(settings: Settings) -> str:
    """How the study's folder has decided."""
    return read_state(study_spec(settings).path / "study.json")["settings"]["reference"]


@pytest.mark.parametrize(("search", "decided"), [("joint", "placed"), ("race", "full"), ("greedy", "full")])
def test_the_search_decides_about_the_reference(settings: Settings, search: str, decided: str) -> None:
    mine = replace(settings, search=SearchSettings(search))
    claim(mine)
    assert reference_of(mine) == decided
    claim(mine)
    claim(replace(mine, reference=decided))
    other = {"placed": "full", "full": "placed"}[decided]
    with refused(StudyError, got=[f'reference "{decided}" -> "{other}"']):
        claim(replace(mine, reference=other))


def test_an_older_study_goes_on_as_it_was(settings: Settings, tmp_path: Path) -> None:
    mine = replace(settings, search=SearchSettings("joint"))
    claim(mine)
    path = tmp_path / "tiny" / "default" / "study.json"
    state = json.loads(path.read_text())
    del state["settings"]["reference"]  # which older studies did not know
    path.write_text(json.dumps(state))
    with StudyFolder(study_spec(mine, searches=True)) as folder:
        folder.claim(SPEC, "d", "cpu")
        assert folder.spec.reference == "full"


def test_an_older_walk_goes_on_with_tests(settings: Settings, tmp_path: Path) -> None:
    created = claim(replace(settings, search=replace(settings.search, rungs=[0.1, 0.25, 0.5], margin=0.0)))
    assert claim(settings) == created


def test_where_it_lies(settings: Settings, tmp_path: Path) -> None:
    with StudyFolder(study_spec(replace(settings, study="mine"))) as folder:
        assert folder.path == tmp_path / "tiny" / "mine"
        assert folder.path.is_dir()


def test_one_process_at_a_time(settings: Settings) -> None:
    with StudyFolder(study_spec(settings)) as folder:
        with refused(BusyStudyError, key=folder.path, advice=re.compile("study=NAME")):
            StudyFolder(study_spec(settings))
        StudyFolder(study_spec(replace(settings, study="another"))).__exit__()
    claim(settings)


def test_the_lock_goes_with_an_error(settings: Settings) -> None:
    with pytest.raises(ZeroDivisionError), StudyFolder(study_spec(settings)):
        _ = 1 / 0
    claim(settings)


def test_an_empty_folder_goes_without_taking_another_s_lock(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second process gets the lock in the very moment in which the first one lets go."""
    first, second = StudyFolder(study_spec(settings)), list[StudyFolder]()
    release = first._lock.release

    def released() -> None:
        release()
        second.append(StudyFolder(study_spec(settings)))

    monkeypatch.setattr(first._lock, "release", released)
    first.__exit__()
    with refused(BusyStudyError, key=first.path):
        StudyFolder(study_spec(settings))
    second[0].__exit__()
    assert not second[0].path.exists()


def test_a_study_with_an_older_name_of_a_setting_goes_on(settings: Settings, tmp_path: Path) -> None:
    settings = replace(settings, search=SearchSettings("race"))
    created = claim(settings)
    path = tmp_path / "tiny" / "default" / "study.json"
    path.write_text(path.read_text().replace('"search.rungs"', '"search.looks"'))
    assert '"search.looks"' in path.read_text()
    assert claim(settings) == created
    others = replace(settings, search=replace(settings.search, rungs=[0.5]))
    with refused(StudyError, got=["search.rungs [0.05, 0.1, 0.25, 0.5] -> [0.5]"]):
        claim(others)


def test_the_same_settings_go_on(settings: Settings, tmp_path: Path) -> None:
    created = claim(settings)
    state = (tmp_path / "tiny" / "default" / "study.json").read_bytes()
    assert claim(settings) == created
    assert (tmp_path / "tiny" / "default" / "study.json").read_bytes() == state


CHANGES: dict[str, tuple[Callable[[Settings], Settings], str]] = {
    "search.name": (
        lambda s: replace(s, search=replace(s.search, name="exhaustive")),
        'search.name "greedy" -> "exhaustive"',
    ),
    "search.k": (
        lambda s: replace(s, search=replace(s.search, k=[1, 2, 3])),
        r"search.k [1, 2] -> [1, 2, 3]",
    ),
    "search.s": (lambda s: replace(s, search=replace(s.search, s=[30])), "search.s null -> [30]"),
    "params.p": (lambda s: replace(s, params=ParamsSettings(p=7)), 'params.p "auto" -> 7'),
    "sampling.handoff": (
        lambda s: replace(s, sampling=SamplingSettings(handoff="exact")),
        'sampling.handoff "aligned" -> "exact"',
    ),
    "sampling.num_inference_steps": (
        lambda s: replace(s, sampling=SamplingSettings(num_inference_steps=30)),
        "sampling.num_inference_steps 50 -> 30",
    ),
    "calibration.num_prompts": (
        lambda s: replace(s, calibration=CalibrationSettings(20)),
        "calibration.num_prompts 100 -> 20",
    ),
    "heldout.num_prompts": (
        lambda s: replace(s, heldout=HeldoutSettings(0)),
        "heldout.num_prompts 50 -> 0",
    ),
    "objective.w1": (
        lambda s: replace(s, objective=ObjectiveSettings(w1=0.5)),
        "objective.w1 0.3 -> 0.5",
    ),
    "link.mbps": (lambda s: replace(s, link=LinkSettings(18.88)), "link.mbps null -> 18.88"),
    "latency": (lambda s: replace(s, latency="wallclock"), 'latency "profile" -> "wallclock"'),
    "dtype": (lambda s: replace(s, dtype="bfloat16"), 'dtype "float32" -> "bfloat16"'),
    "seed": (lambda s: replace(s, seed=1), "seed 0 -> 1"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_other_settings_are_refused(settings: Settings, tmp_path: Path, name: str) -> None:
    claim(settings)
    state = (tmp_path / "tiny" / "default" / "study.json").read_bytes()
    change, told = CHANGES[name]
    with refused(StudyError, advice=re.compile("study=NAME, or resume=false")) as caught:
        claim(change(settings))
    assert "; ".join(caught.value.got) == told  # type: ignore[arg-type]
    assert (tmp_path / "tiny" / "default" / "study.json").read_bytes() == state


def test_the_first_command_that_searches_binds_a_study_to_its_search(settings: Settings) -> None:
    joint = replace(settings, search=SearchSettings("joint", joint=True, k=[1, 2, 3]))
    created = claim(settings, searches=False)
    assert claim(joint) == created
    assert claim(settings, searches=False) == created
    with refused(StudyError, got=['search.name "joint" -> "greedy"']):
        claim(settings)
    with refused(StudyError, got=re.compile("seed 0 -> 1")):
        claim(replace(settings, seed=1), searches=False)


def test_another_device_is_refused(settings: Settings) -> None:
    claim(settings)
    with refused(StudyError, got=['device "cpu" -> "cuda:0"']):
        claim(settings, device="cuda:0")


def test_all_differences_are_listed(settings: Settings) -> None:
    claim(settings)
    edge = replace(SPEC.edge, fingerprint="89ab")
    with refused(StudyError) as caught:
        claim(replace(settings, seed=3, dtype="float16"), replace(SPEC, edge=edge), "e")
    assert caught.value.got == [
        'dtype "float32" -> "float16"',
        'prompts_digest "d" -> "e"',
        "seed 0 -> 3",
        'weights.edge.fingerprint "4567" -> "89ab"',
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda s: replace(s, batch_size=1),
        lambda s: replace(s, metrics=MetricsSettings(["psnr", "clip"], "vgg", "vgg.pth", "clip")),
        lambda s: replace(s, params=ParamsSettings(k=2, alpha=0.3)),
        lambda s: replace(s, search=replace(s.search, k=(1, 2))),
    ],
)
def test_what_may_change(settings: Settings, change: Callable[[Settings], Settings]) -> None:
    created = claim(settings)
    assert claim(change(settings)) == created


def test_a_study_from_before_a_setting_existed_goes_on(settings: Settings, tmp_path: Path) -> None:
    settings = replace(settings, search=SearchSettings("race"))
    created = claim(settings)
    path = tmp_path / "tiny" / "default" / "study.json"
    state = json.loads(path.read_text())
    for key in ("search.joint", "offload", "sampling.use_dynamic_cfg", "search.handoff_adapter"):
        state["settings"].pop(key, None)
    path.write_text(json.dumps(state))
    assert claim(settings) == created
    with refused(StudyError, got=["search.joint false -> true"]):
        claim(replace(settings, search=replace(settings.search, joint=True)))


def test_a_study_of_relative_folders_goes_on_now_that_they_are_absolute(settings: Settings) -> None:
    relative = replace(SPEC, cloud=replace(SPEC.cloud, id="models/cloud"))
    absolute = replace(SPEC, cloud=replace(SPEC.cloud, id="/home/me/models/cloud"))
    created = claim(settings, relative)
    assert claim(settings, absolute) == created


def test_what_was_loaded_is_kept_and_its_fingerprint_compared(settings: Settings, tmp_path: Path) -> None:
    edge = replace(SPEC.edge, variant="fp16", subfolder="unet")
    spec = replace(SPEC, edge=edge, lora=[Lora("/here/l.safetensors", 0.5, "cloud", "89ab")])
    created = claim(settings, spec)
    state = read_state(tmp_path / "tiny" / "default" / "study.json")["settings"]
    assert "weights.cloud.variant" not in state
    assert pair_of(state, "tiny") == spec
    assert (
        claim(settings, replace(spec, lora=[replace(spec.lora[0], path="/there/l.safetensors")])) == created
    )
    with refused(StudyError, got=['weights.edge.fingerprint "4567" -> "cdef"']):
        claim(settings, replace(spec, edge=replace(edge, fingerprint="cdef")))


def test_resume_false_sets_an_old_study_aside(settings: Settings, tmp_path: Path) -> None:
    claim(settings)
    folder = tmp_path / "tiny" / "default"
    (folder / "ledger.sqlite").write_text("rows")
    state = (folder / "study.json").read_bytes()

    claim(replace(settings, seed=1, resume=False))
    (old,) = folder.glob("old-*")
    assert (old / "study.json").read_bytes() == state
    assert (old / "ledger.sqlite").read_text() == "rows"
    assert sorted(path.name for path in folder.iterdir()) == [".lock", old.name, "study.json"]
    assert json.loads((folder / "study.json").read_text())["settings"]["seed"] == 1

    claim(replace(settings, seed=1))
    claim(replace(settings, resume=False))
    assert len(list(folder.glob("old-*"))) == 2
    assert (old / "ledger.sqlite").read_text() == "rows"


def test_resume_false_on_nothing(settings: Settings, tmp_path: Path) -> None:
    claim(replace(settings, resume=False))
    assert sorted(path.name for path in (tmp_path / "tiny" / "default").iterdir()) == [".lock", "study.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"created": "now"}', '{"created": "now", "settings": 3}'])
def test_a_damaged_state(settings: Settings, tmp_path: Path, text: str) -> None:
    claim(settings)
    path = tmp_path / "tiny" / "default" / "study.json"
    path.write_text(text)
    with refused(StudyError, key=path, advice=re.compile("resume=false")):
        claim(settings)
    claim(replace(settings, resume=False))
    claim(settings)


@pytest.mark.parametrize("occupied", ["tiny", "tiny/default"])
def test_a_file_where_the_folder_should_be(settings: Settings, tmp_path: Path, occupied: str) -> None:
    path = tmp_path / occupied
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with refused(StudyError, key=tmp_path / "tiny" / "default", advice=re.compile("output_dir")):
        StudyFolder(study_spec(settings))
    assert path.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(settings: Settings, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with refused(StudyError, key=tmp_path / "tiny" / "default", line="Permission denied"):
        StudyFolder(study_spec(settings))
    tmp_path.chmod(0o700)
