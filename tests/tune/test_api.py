"""``ecdiff_tune.tune``: the command from Python."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra import version
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import ecdiff_tune
from ecdiff_core import MethodChoice
from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import ECDiffError, PairError
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_tune import api
from ecdiff_tune.cli import tune as tune_command
from ecdiff_tune.config import Settings, SettingsError
from ecdiff_tune.data.prompt_tables import PromptFileError
from ecdiff_tune.methods.seen import DialResult, Seen
from ecdiff_tune.methods.tuning import Tuned, Winner
from ecdiff_tune.study.folder import BusyStudyError, StudyError, StudyFolder
from ecdiff_tune.study.open_study import Caller

from .. import hooking
from ..refusals import refused
from .studies import Study

AS_THE_COMMAND = {
    "sampling_num_inference_steps": 12,
    "sampling_guidance_scale": 3.0,
    "calibration_num_prompts": 3,
    "heldout_num_prompts": 2,
    "search_k": [1, 2],
    "search_alpha": (0.3, 0.5, 0.7),
    "batch_size": 2,
    "device": "cpu",
}
"""``Study.settings`` as keywords."""
SMALL = {
    "sampling_num_inference_steps": 4,
    "sampling_guidance_scale": 3.0,
    "params_p": 2,
    "search_k": [1],
    "search_alpha": [0.3],
    "search_s": [2, 3],
    "latency": "profile",
}
PROMPTS = ["a red circle", "two blue stars", "a small green ring"]


def tune(pair: Any, prompts: Any, folder: Path, **settings: Any) -> ecdiff_tune.Study:
    settings = {"progress": False, **settings}
    return ecdiff_tune.tune(pair, prompts, folder=folder, **settings)


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Settings, Caller]]:
    """What studies would be run with; nothing is."""
    seen: list[tuple[Settings, Caller]] = []
    monkeypatch.setattr(api, "run_study", lambda settings, caller: seen.append((settings, caller)))
    return seen


@pytest.mark.usefixtures("unshown")
def test_it_goes_on_with_the_commands_study(done: Study, tmp_path: Path) -> None:
    again = done.copy(tmp_path / "outputs")
    lines: list[str] = []
    pair = (str(done.pair / "cloud"), str(done.pair / "edge"))
    found = tune(
        pair,
        None,
        again.outputs,
        search="greedy",
        pair_name="tiny",
        progress=lines.append,
        **AS_THE_COMMAND,
    )
    assert found.path == again.folder
    assert again.rows() == done.rows()  # nothing was generated again
    assert again.bytes() == done.bytes()
    assert found.config == done.config()
    assert any(line.startswith("going on with the study of ") for line in lines)
    best = found.best
    assert (best["stage"], best["s"], best["objective"]) == (
        2,
        found.config.params.s,
        found.trials.query("stage == 2 and state == 'complete'")["objective"].max(),
    )


def test_what_a_stopped_study_leaves_is_gone_on_with(
    done: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = done.copy(tmp_path / "outputs")
    lines: list[str] = []

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tune_command, "finish", stop)
    pair = (str(done.pair / "cloud"), str(done.pair / "edge"))
    with pytest.raises(KeyboardInterrupt):
        tune(
            pair,
            None,
            again.outputs,
            search="greedy",
            pair_name="tiny",
            progress=lines.append,
            **AS_THE_COMMAND,
        )
    assert lines[-1] == "stopped; the same call goes on from here"
    with StudyFolder(_spec(again)):  # its lock is free
        pass


def _spec(study: Study) -> Any:
    from ecdiff_tune.cli.composing import compose_settings
    from ecdiff_tune.cli.study_spec import study_spec

    return study_spec(compose_settings("report", ["pair.name=tiny", f"output_dir={study.outputs}"]))


def test_a_busy_study(done: Study, tmp_path: Path) -> None:
    again = done.copy(tmp_path / "outputs")
    pair = (str(done.pair / "cloud"), str(done.pair / "edge"))
    with StudyFolder(_spec(again)), refused(BusyStudyError, line="another study=NAME"):
        tune(pair, None, again.outputs, search="greedy", pair_name="tiny", **AS_THE_COMMAND)


def test_another_study_in_the_folder(done: Study, tmp_path: Path) -> None:
    again = done.copy(tmp_path / "outputs")
    pair = (str(done.pair / "cloud"), str(done.pair / "edge"))
    other = {**AS_THE_COMMAND, "search_k": [1, 3]}
    with refused(StudyError, line=r"search\.k \[1, 2\] -> \[1, 3\]"):
        tune(pair, None, again.outputs, search="greedy", pair_name="tiny", **other)


@pytest.mark.usefixtures("unshown")
def test_a_pipeline_and_a_list_of_prompts_in_another_thread(pipe: ECDiffPipeline, tmp_path: Path) -> None:
    found: list[ecdiff_tune.Study] = []
    errors: list[BaseException] = []
    lines: list[str] = []

    def work() -> None:
        try:
            found.append(
                tune(
                    pipe,
                    [*PROMPTS, PROMPTS[0]],
                    tmp_path,
                    search="exhaustive",
                    search_joint=True,
                    progress=lines.append,
                    **SMALL,
                )
            )
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors
    assert [one for one in lines if one.endswith("1 row left out: 1 repeated (4)")]
    (study,) = found
    config = study.config
    assert config.pair == pipe.pair.spec
    assert config.score is not None
    assert config.provenance is not None
    # Of three a third is held out; the repeated one is left out.
    assert config.provenance["calibration"]["num_prompts"] == 2
    assert config.score["heldout"]["num_prompts"] == 1
    assert study.path == tmp_path / "tiny" / "default"
    assert study.best["objective"] == study.trials["objective"].max()
    assert len(study.trials) == 2


@pytest.mark.usefixtures("unshown")
def test_two_diffusers_pipelines(tiny_pair: Path, tmp_path: Path) -> None:
    cloud, edge = (hooking.load(tiny_pair / side) for side in ("cloud", "edge"))
    scheduler = type(cloud.scheduler).__name__
    few = {**SMALL, "heldout_num_prompts": 0, "calibration_num_prompts": 1}
    study = tune(
        (cloud, edge), PROMPTS, tmp_path, search="exhaustive", search_joint=True, pair_name="two", **few
    )
    config = study.config
    assert config.sampling.scheduler == scheduler
    assert config.pair.cloud.id == str(tiny_pair / "cloud")
    assert config.pair.cloud.fingerprint is None
    assert (
        config.pair.cloud.tensors == ECDiffPipeline.from_config(config, device="cpu").pair.spec.cloud.tensors
    )

    next(iter(edge.unet.parameters())).data.add_(1.0)  # another model under the same name
    with refused(StudyError, line=r"in_memory\.edge"):
        tune((cloud, edge), PROMPTS, tmp_path, search="exhaustive", search_joint=True, pair_name="two", **few)


def test_a_pair_in_several_forms(
    tiny_pair: Path,
    tiny_config: TunedConfig,
    tmp_path: Path,
    chosen: list[tuple[Settings, Caller]],
) -> None:
    tiny_config.save(tmp_path / "tuned.yaml")
    for pair in (tiny_pair, str(tiny_pair), tiny_config, tmp_path / "tuned.yaml", "shapes"):
        tune(pair, None, tmp_path)
    folders, config, named = [one for one, _ in chosen[:2]], [one for one, _ in chosen[2:4]], chosen[4][0]
    for settings in folders:
        assert settings.pair.name == tiny_pair.name
        assert (settings.pair.cloud, settings.pair.edge) == (
            str(tiny_pair / "cloud"),
            str(tiny_pair / "edge"),
        )
        assert settings.sampling.num_inference_steps == 50
    for settings in config:
        assert settings.pair.name == "tiny"
        assert settings.core_sampling() == tiny_config.sampling
    assert (named.pair.name, named.sampling.guidance_scale) == ("shapes", 3.0)
    assert named.search.name == "joint"


def test_keywords_are_settings(tmp_path: Path, chosen: list[tuple[Settings, Caller]]) -> None:
    tune(
        "shapes",
        None,
        tmp_path / "it's a ${folder}",
        search="race",
        search_k=range(1, 3),
        params_p=3,
        objective="quality_first",
        link="none",
        acceleration_values={"threshold": 0.1},
        study="mine",
        seed=7,
        vae_slicing=True,
        search_s=None,
    )
    settings = chosen[0][0]
    assert (settings.search.name, settings.search.k, settings.params.p) == ("race", [1, 2], 3)
    assert settings.output_dir == str(tmp_path / "it's a ${folder}")
    assert (settings.objective.w3, settings.link.mbps) == (0.0, None)
    assert settings.acceleration.values == {"threshold": 0.1}
    tune("shapes", None, tmp_path, link="http://gpu:8000")
    assert chosen[1][0].link.url == "http://gpu:8000"
    assert (settings.study, settings.seed, settings.vae_slicing, settings.search.s) == ("mine", 7, True, None)


@pytest.mark.parametrize(
    ("given", "drawn"),
    [
        ({}, (2, 1)),
        ({"heldout_num_prompts": 0}, (3, 0)),
        ({"calibration_num_prompts": 1}, (1, 2)),
        ({"calibration_num_prompts": 4}, (4, 0)),
    ],
)
def test_how_many_prompts_are_held_out(
    tmp_path: Path, chosen: list[tuple[Settings, Caller]], given: dict[str, int], drawn: tuple[int, int]
) -> None:
    file = tmp_path / "captions.txt"
    file.write_text("\n".join(PROMPTS))
    tune("shapes", PROMPTS, tmp_path, **given)
    tune("shapes", file, tmp_path, **given)
    for settings, _ in chosen:
        assert (settings.calibration.num_prompts, settings.heldout.num_prompts) == drawn
    assert chosen[1][0].calibration.file == str(file)


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"pair": "shaps"}, SettingsError, {"key": "pair", "nearest": "shapes"}),
        ({"pair": 3}, SettingsError, {"key": "pair", "got": 3}),
        ({"pair": ("a", "b", "c")}, SettingsError, {"key": "pair"}),
        ({"search": "greddy"}, SettingsError, {"nearest": "greedy"}),
        ({"search": None}, SettingsError, {"key": "search"}),
        ({"prompts": []}, SettingsError, {"key": "prompts", "expected": "to hold at least one prompt"}),
        ({"prompts": [" "]}, SettingsError, {"key": "prompts", "expected": "to hold at least one prompt"}),
        ({"prompts": ["a", 3]}, SettingsError, {"key": "prompts", "got": 3}),
        ({"prompts": "a red circle"}, SettingsError, {"key": "prompts", "got": "a red circle"}),
        ({"prompts": 3}, SettingsError, {"key": "prompts"}),
        ({"prompts": {"a": 1}}, SettingsError, {"key": "prompts", "got": {"a": 1}}),
        ({"prompts": {"a"}}, SettingsError, {"key": "prompts", "got": {"a"}}),
        ({"folder": None}, SettingsError, {"key": "folder"}),
        (
            {"calibration_file": "a.txt"},
            SettingsError,
            {"key": "calibration_file", "line": "argument prompts"},
        ),
        ({"guidance_scale": 3.0}, SettingsError, {"nearest": "sampling_guidance_scale"}),
        ({"serch_k": [1]}, SettingsError, {"nearest": "search_k"}),
        ({"search_k": object()}, SettingsError, {"key": "search.k"}),
        ({"search_k": [0.5]}, SettingsError, {"line": r"search\.k"}),
        ({"params_k": 2, "params_alpha": 0.3}, SettingsError, {"key": "params.k"}),
    ],
)
def test_wrong_arguments(
    tmp_path: Path, arguments: dict[str, Any], error: type[ECDiffError], told: dict[str, Any]
) -> None:
    given = {"pair": "shapes", "prompts": PROMPTS, "folder": tmp_path, **arguments}
    with refused(error, **told):
        tune(given.pop("pair"), given.pop("prompts"), given.pop("folder"), **given)


def test_a_file_without_prompts(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    with refused(PromptFileError, line="holds no prompt"):
        tune("shapes", tmp_path / "empty.txt", tmp_path)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"device": "cuda"}, "cpu, as the pipeline is"),
        ({"dtype": "float16"}, "float32, as the pipeline is"),
        ({"offload": "model"}, "to be left out"),
    ],
)
def test_a_pipeline_is_taken_as_it_is(
    pipe: ECDiffPipeline, tmp_path: Path, given: dict[str, str], expected: str
) -> None:
    ((key, got),) = given.items()
    with refused(SettingsError, key=key, got=got, expected=expected):
        tune(pipe, PROMPTS, tmp_path, **given)


def test_pipelines_that_are_no_pair(tiny_pair: Path, tmp_path: Path) -> None:
    cloud, edge = (hooking.load(tiny_pair / side) for side in ("cloud", "edge"))
    with refused(PairError, line="own denoiser"):
        tune((cloud, cloud), PROMPTS, tmp_path)
    with refused(PairError, line="one and the same model"):
        tune((cloud, copy.deepcopy(cloud)), PROMPTS, tmp_path)
    with refused(SettingsError, key="pair", got=(cloud, "a")):
        tune((cloud, "a"), PROMPTS, tmp_path)
    edge.unet.to(device="meta")
    with refused(PairError, line="The edge model is on meta, the cloud on cpu"):
        tune((cloud, edge), PROMPTS, tmp_path)
    with refused(PairError, expected=sorted(["CogVideoXPipeline", *_sd_pipelines()])):
        tune((cloud.unet, edge), PROMPTS, tmp_path)


def _sd_pipelines() -> Iterator[str]:
    return (f"StableDiffusion{version}Pipeline" for version in ("", "3", "XL"))


def test_what_a_study_of_methods_leaves(tiny_config: TunedConfig, tmp_path: Path) -> None:
    method = MethodChoice("taylorseer", {"cache_interval": 3, "max_order": 1})
    replace(tiny_config, method=method).save(tmp_path / "accelerated.yaml")
    rows = [("taylorseer", 2, 1, 0.99), ("taylorseer", 3, 1, 0.96), ("taylorseer", 3, 0, 0.95)]
    columns = ["method", "cache_interval", "max_order", "quality"]
    (tmp_path / "methods").mkdir()
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "methods" / "methods.csv", index=False)
    study = ecdiff_tune.Study(tmp_path, accelerated=True)
    assert study.config.method is not None
    assert study.config.method.values["cache_interval"] == 3
    assert (len(study.trials), study.best["quality"]) == (3, 0.96)


def test_the_best_of_masks_is_told_from_others_of_the_same_dial(
    tiny_config: TunedConfig, tmp_path: Path
) -> None:
    """A preset's mask stands beside dials that it does not go by."""
    masks = [(), (1, 0, 1) + (1,) * 40, (1, 1, 0) + (1,) * 40]
    (tmp_path / "methods").mkdir()
    choices = [MethodChoice("step_mask", {"mask": one}) for one in masks]
    results = [
        DialResult(2.0, (Seen(quality, 0.5, 43, 1, "", 2.0, 2.0),), True) for quality in (0.7, 0.9, 0.8)
    ]
    table = Tuned(tuple(map(Winner, choices, results)), None).table()
    table.to_csv(tmp_path / "methods" / "methods.csv", index=False)
    study = ecdiff_tune.Study(tmp_path, accelerated=True)
    assert list(study.trials["mask"].fillna("")) == ["", "101" + "1" * 40, "110" + "1" * 40]
    for choice, result in zip(choices, results, strict=True):
        replace(tiny_config, method=choice).save(tmp_path / "accelerated.yaml")
        assert study.best["quality"] == result.quality


def test_nothing_was_found_yet(tmp_path: Path) -> None:
    study = ecdiff_tune.Study(tmp_path)
    for read in (lambda: study.config, lambda: study.trials, lambda: study.best):
        with refused(StudyError, line="nothing was found yet"):
            read()


@contextmanager
def hydra_of_ones_own() -> Iterator[None]:
    """A program that has composed a config and stored another."""
    application = GlobalHydra.instance()
    before, store = application.hydra, dict(ConfigStore.instance().repo)
    marker: Any = object()
    application.hydra = marker
    ConfigStore.instance().store("settings", {"mine": 1})
    kept, stored = ConfigStore.instance().repo["settings.yaml"], set(ConfigStore.instance().repo)
    base, resolvers = version.getbase(), OmegaConf.has_resolver("now")
    try:
        yield
        assert GlobalHydra.instance() is application
        assert application.hydra is marker
        assert ConfigStore.instance().repo["settings.yaml"] is kept
        assert set(ConfigStore.instance().repo) == stored
        assert (version.getbase(), OmegaConf.has_resolver("now")) == (base, resolvers)
    finally:
        application.hydra = before
        ConfigStore.instance().repo.clear()
        ConfigStore.instance().repo.update(store)


def test_hydra_is_left_as_it_was(tmp_path: Path, chosen: list[tuple[Settings, Caller]]) -> None:
    with hydra_of_ones_own():
        tune("shapes", PROMPTS, tmp_path)
        tune("shapes", PROMPTS, tmp_path)
    assert chosen[0] == chosen[1]


def test_a_study_without_its_models(done: Study, tmp_path: Path) -> None:
    again = done.copy(tmp_path / "outputs")
    (again.folder / "report" / "index.html").unlink()
    page = ecdiff_tune.Study(again.folder).report()
    assert page == again.folder / "report" / "index.html"
    assert "<html" in page.read_text("utf-8")
