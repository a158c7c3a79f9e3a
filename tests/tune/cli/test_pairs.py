"""Every pair of conf/pair/, and Stable Diffusion 3, from ``tune`` to an image, with small models.

Their layouts are the real ones: BK-SDM without a mid block, SSD-1B and Vega with depths by layer, CogVideoX
with rotary and with sine positions, a noise schedule and a latent scaling of its own each.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import CogVideoXTransformer3DModel, SD3Transformer2DModel, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from ecdiff_core import ECDiffPipeline, TunedConfig
from ecdiff_core.__main__ import main as ecdiff
from ecdiff_core.output import ECDiffOutput
from ecdiff_tune.data import calibration
from ecdiff_tune.data.calibration import PromptSource
from ecdiff_tune.evaluation import latency as latency_module
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.ledger import Ledger
from ecdiff_tune.evaluation.link import Link
from ecdiff_tune.metrics.images import ssim

from ..studies import ROUNDED, Command, Outcome, draw_nothing, show_nothing, told

STEPS, P = 7, 2
TIMED_CALLS = 2
DENOISERS = (CogVideoXTransformer3DModel, SD3Transformer2DModel, UNet2DConditionModel)
PROMPTS, _ = calibration.load(PromptSource(2, 0))
"""The two prompts to tune on, which fit one batch."""


@dataclass(frozen=True)
class Case:
    """A choice of conf/pair/, the fixture with its models, their folders, and what else must be set."""

    pair: str
    models: str
    cloud: str
    edge: str
    more: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "-".join((self.edge if self.pair == "custom" else self.pair, *self.more[1:]))


SSD_1B = Case("sdxl_ssd1b", "sdxl_models", "sdxl_base", "ssd_1b")
FRAMES = ("sampling.num_frames=9",)
MATCHED = (*FRAMES, "sampling.handoff_adapter=matched")
FLOW = ("pair.name=sd3", "sampling.scheduler=FlowMatchEulerDiscreteScheduler")
CASES = [
    Case("sd14_bksdm_small", "sd14_models", "sd14", "bk_sdm_small"),
    Case("sd14_bksdm_tiny", "sd14_models", "sd14", "bk_sdm_tiny"),
    SSD_1B,
    Case("sdxl_vega", "sdxl_models", "sdxl_base", "segmind_vega"),
    Case("cogvideox_5b_2b", "tiny_videos", "cloud", "edge", FRAMES),
    Case("cogvideox_5b_2b", "tiny_videos", "cloud", "edge", MATCHED),
    Case("custom", "sd3_pair", "cloud", "edge", FLOW),
]
DRAWN = (CASES[0], CASES[5])
"""Images and videos, whose page is made too."""
Calls = Counter[str]
"""Calls of the denoisers, by the folder that they were loaded from."""


@contextmanager
def counted() -> Iterator[Calls]:
    calls: Calls = Counter()

    def count(module: nn.Module, *_: object) -> None:
        if isinstance(module, DENOISERS):
            path = Path(module.config._name_or_path)
            calls[path.parent.name if path.name in ("unet", "transformer") else path.name] += 1

    hook = register_module_forward_hook(count)
    try:
        yield calls
    finally:
        hook.remove()


@dataclass(frozen=True)
class Made:
    """A pair's models and outputs, and what a ``tune`` printed and called."""

    case: Case
    settings: tuple[str, ...]
    outputs: Path
    outcome: Outcome
    calls: Calls

    @property
    def folder(self) -> Path:
        (state,) = self.outputs.glob("*/default/study.json")
        return state.parent

    @property
    def config(self) -> TunedConfig:
        return TunedConfig.load(self.folder / "ecdiff.yaml")

    @property
    def trials(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "trials.csv")


def settings_of(case: Case, models: Path) -> tuple[str, ...]:
    """At most three trials in stage 1, two in stage 2."""
    return (
        f"pair={case.pair}",
        f"pair.cloud={models / case.cloud}",
        f"pair.edge={models / case.edge}",
        "sampling.height=32",
        "sampling.width=32",
        f"sampling.num_inference_steps={STEPS}",
        f"params.p={P}",
        "search=greedy",
        "search.k=[1]",
        "search.alpha=[0.3,0.5,0.7]",
        "search.s=[4,6]",
        f"calibration.num_prompts={len(PROMPTS)}",
        "heldout.num_prompts=0",
        "dtype=float32",
        "device=cpu",
        *case.more,
    )


@pytest.fixture(scope="module")
def tune(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    command: Command,
    latency: LatencyProfile,
) -> Iterator[Callable[[Case], Made]]:
    """Tunes a pair, once."""
    made: dict[Case, Made] = {}
    measure = latency_module.measure

    def measured(pipe: ECDiffPipeline, link: Link, **how: bool) -> LatencyProfile:
        """Really timed, but told with round numbers: on small models an edge may be the slower one."""
        return replace(latency, transfer_seconds=measure(pipe, link, **how).transfer_seconds)

    def once(case: Case) -> Made:
        if case not in made:
            outputs = tmp_path_factory.mktemp("outputs")
            settings = settings_of(case, request.getfixturevalue(case.models))
            with counted() as calls, pytest.MonkeyPatch.context() as patch:
                if case not in DRAWN:
                    draw_nothing(patch)
                outcome = command("tune", *settings, f"output_dir={outputs}")
            made[case] = Made(case, settings, outputs, outcome, calls)
        return made[case]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency_module, "WARM_UP_CALLS", 0)
        patch.setattr(latency_module, "CALLS", TIMED_CALLS)
        patch.setattr(latency_module, "measure", measured)
        yield once


@pytest.fixture(params=CASES, ids=str)
def made(request: pytest.FixtureRequest, tune: Callable[[Case], Made]) -> Made:
    return tune(request.param)


def test_tune_ends_with_a_config_that_loads(made: Made) -> None:
    assert (made.outcome.status, made.outcome.err) == (0, "")
    config, best = made.config, made.trials.iloc[-2:]["objective"].max()
    plan, score = config.plan(), config.score
    assert score is not None
    assert score["calls"] == {
        "cloud": plan.cloud_calls,
        "approximated": plan.approximated,
        "edge": plan.edge_calls,
    }
    assert (config.params.p, config.params.k) == (P, 1)
    assert config.params.s in (4, 6)
    assert min(plan.cloud_calls, plan.approximated, plan.edge_calls) > 0
    assert (config.sampling.height, config.sampling.width) == (32, 32)
    assert 0 < score["quality"] < 1
    assert score["objective"] == pytest.approx(best, abs=ROUNDED)
    assert set(made.trials["state"]) == {"complete"}


def test_both_models_work_and_no_trial_runs_whole_again(made: Made) -> None:
    trials, plan = made.trials, made.config.plan()
    stage_2 = trials[trials["stage"] == 2]
    assert len(stage_2) == 2
    always = TIMED_CALLS + STEPS  # latency profile and reference
    samples = {made.case.cloud: plan.handoff_step + plan.cloud_calls, made.case.edge: 2 * plan.edge_calls}
    most = {
        made.case.cloud: P + (trials["cloud_calls"] - P).sum(),  # the warm-up is shared
        made.case.edge: stage_2["edge_calls"].sum(),
    }
    assert set(made.calls) == set(most)
    for side, calls in made.calls.items():
        assert calls <= always + most[side] + samples[side]
    assert made.calls[made.case.edge] >= always + stage_2["edge_calls"].max()


def test_generate_makes_the_images_that_were_measured(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[ECDiffOutput] = []
    call = ECDiffPipeline.__call__

    def watched(pipe: ECDiffPipeline, *given: object, **named: object) -> ECDiffOutput:
        seen.append(call(pipe, *given, **named))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(ECDiffPipeline, "__call__", watched)
    if made.case.models == "tiny_videos":
        pytest.importorskip("imageio_ffmpeg")
    prompts = [word for prompt in PROMPTS.prompts for word in ("--prompt", prompt)]
    arguments = ["--config", str(made.folder / "ecdiff.yaml"), "--out", str(tmp_path), "--batch-size", "2"]
    with counted() as calls:
        assert ecdiff(["generate", *arguments, *prompts, "--device", "cpu"]) == 0
    plan, score = made.config.plan(), made.config.score
    assert calls == {made.case.cloud: plan.cloud_calls, made.case.edge: plan.edge_calls}
    suffix = "mp4" if made.case.models == "tiny_videos" else "png"
    assert all((tmp_path / f"{seed:05d}.{suffix}").stat().st_size > 0 for seed in PROMPTS.seeds)
    (output,) = seen
    generated = torch.stack([as_tensor(image) for image in output.images])
    cloud, edge = (torch.stack([one[side].float() for one in references(made)]) for side in ("cloud", "edge"))
    assert score is not None
    assert ssim(generated, cloud).mean().item() == pytest.approx(score["quality"], abs=2e-3)
    assert ssim(generated, edge).max() < 0.999


def as_tensor(image: object) -> Tensor:
    """RGB in 0 … 1, of a video (frames, 3, height, width)."""
    if isinstance(image, list):
        return torch.stack([as_tensor(frame) for frame in image])
    return torch.from_numpy(np.asarray(image).copy()).movedim(-1, 0) / 255


def references(made: Made) -> list[dict[str, Tensor]]:
    files = {path.stem: path for path in made.outputs.glob("*/reference/*/*.safetensors")}
    assert len(files) == len(PROMPTS)
    return [load_file(files[key]) for key in PROMPTS.keys]


def test_a_matched_handoff_is_advised_and_changes_the_images(tune: Callable[[Case], Made]) -> None:
    plain, matched = (tune(case) for case in CASES if case.models == "tiny_videos")
    note = "note: cloud and edge differ in latent scaling 0.7 | 1.15258"
    assert note in plain.outcome.out
    assert "note: cloud and edge differ" not in matched.outcome.out
    assert (plain.config.sampling.handoff_adapter, matched.config.sampling.handoff_adapter) == (
        "identity",
        "matched",
    )
    for one, other in zip(references(plain), references(matched), strict=True):
        assert torch.equal(one["cloud"], other["cloud"])
        assert ssim(one["edge"][None].float(), other["edge"][None].float()) < 0.999


@pytest.mark.parametrize("case", [case for case in CASES if case.more != MATCHED], ids=str)
def test_check_allows_the_pair(
    case: Case, command: Command, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    settings = settings_of(case, request.getfixturevalue(case.models))
    outcome = command("check", *settings, f"output_dir={tmp_path}")
    assert (outcome.status, outcome.err) == (0, "")
    matched = " with sampling.handoff_adapter=matched" if case.models == "tiny_videos" else ""
    assert outcome.out.splitlines()[-1] == f"These two can work together{matched}."


def test_ssd_1b_stopped_in_stage_1_goes_on(
    tune: Callable[[Case], Made], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tune(SSD_1B)
    pair, folder = whole.folder.parent, tmp_path / "sdxl_ssd1b" / "default"
    folder.mkdir(parents=True)
    shutil.copy(whole.folder / "study.json", folder)  # the same date in the YAML files
    shutil.copytree(pair / "reference", folder.parent / "reference")
    settings, append = (*whole.settings, f"output_dir={tmp_path}"), Ledger.append_all

    def append_and_stop(ledger: Ledger, *rows: object) -> None:
        append(ledger, *rows)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "append_all", append_and_stop)
        assert command("stage1", *settings).status == 130
    assert not (folder / "stage1.yaml").exists()
    with counted() as calls:
        resumed = command("stage1", *settings)
    assert resumed.status == 0, resumed
    left = whole.trials[whole.trials["stage"] == 1].iloc[1:]
    assert len(left) >= 1
    assert set(calls) == {"sdxl_base"}  # no reference again
    assert calls["sdxl_base"] <= P + (left["cloud_calls"] - P).sum()  # nor the first trial
    assert (folder / "stage1.yaml").read_bytes() == (whole.folder / "stage1.yaml").read_bytes()
    assert not (folder / "ecdiff.yaml").exists()

    show_nothing(monkeypatch)
    assert command("stage2", *settings).status == 0
    for name in ("ecdiff.yaml", "trials.csv", "table5.md"):
        assert told(folder / name) == told(whole.folder / name)
