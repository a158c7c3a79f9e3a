"""Everything that a command is given.

All about a setting stands here, in ``groups`` and in the types of their values: default, unit, limits,
choices, meaning. ``--help``, the comments of conf/ and README's table are made of it (``described``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import Field

from ecdiff_core.models.devices import DTYPES
from ecdiff_core.models.memory import Offload
from ecdiff_core.sampling.params import MAX_SEED
from ecdiff_core.validation import NotNegative, OneOf
from ecdiff_tune.config.command_groups import (
    AblateSettings,
    AccelerationSettings,
    CompareSettings,
    ErrorsSettings,
    ExportSettings,
    MetricsSettings,
    ParetoSettings,
    RerankSettings,
    TransferSettings,
)
from ecdiff_tune.config.groups import (
    CalibrationSettings,
    HeldoutSettings,
    LinkSettings,
    ObjectiveSettings,
    PairSettings,
    ParamsSettings,
    SamplingSettings,
    SearchSettings,
)
from ecdiff_tune.config.setting import group, setting
from ecdiff_tune.study.spec import AUTO as AUTO_REFERENCE
from ecdiff_tune.study.spec import FULL_RUNS, REFERENCES
from ecdiff_tune.study.trackers import TRACKERS


@dataclass
class Schema:
    """The settings of all commands."""

    study: str = setting("default", "name of the study; its state lies in outputs/<pair>/<study>/")
    reference: Annotated[str, OneOf(REFERENCES)] = setting(
        AUTO_REFERENCE,
        "images that configs are held against; full: the cloud's own run on every prompt; placed: that on "
        f"the first {FULL_RUNS} and for what is reported, on the others fewer, placed calls; auto: placed "
        "where the search predicts who races",
    )
    latency: str = setting(
        "profile",
        "profile: seconds from call counts and a latency profile, measured once a study; wallclock: time "
        "each trial; or the path of a latency.json of the pair, of another study or machine",
    )
    device: str = setting("auto", "cpu, cuda, cuda:1, mps, …; auto takes the accelerator if there is one")
    dtype: Annotated[str, OneOf(DTYPES)] = setting("float32", "precision of the models")
    batch_size: Any = setting(
        25, "prompts at a time; auto tries out how many are fastest; halved when memory runs out"
    )
    offload: Annotated[str, OneOf(get_args(Offload))] = setting(
        "none", "none; model: one model at a time on the device; sequential: one layer at a time (slow)"
    )
    vae_slicing: bool = setting(False, "decode one image of a batch at a time")
    vae_tiling: bool = setting(
        False, "decode images tile by tile, which changes them a little where tiles meet"
    )
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = setting(
        0, "seed of the prompt sample and, prompt by prompt, of the initial noise"
    )
    sharing: Annotated[str, OneOf(("on", "off"))] = setting(
        "on", "on: trials share what their trajectories have in common; off: each runs whole"
    )
    sharing_gib: NotNegative = setting(
        4.0,
        "host memory for that, GiB, of all ranks on a machine; the rest lies in the study's folder",
    )
    tracking: Annotated[str, OneOf(TRACKERS)] = setting(
        "none", "where trials are logged as well, once it is installed"
    )
    resume: bool = setting(
        True, "go on with a study of the same settings; false sets an old one aside and starts anew"
    )
    output_dir: str = setting("outputs", "everything is written below this folder")
    pair: PairSettings = group(PairSettings, "the two models")
    method: Any = setting(
        "ecdiff", "what tune tunes: ecdiff, or accelerations of the cloud model, one or a list that competes"
    )
    params: ParamsSettings = group(ParamsSettings, "what is not searched")
    sampling: SamplingSettings = group(SamplingSettings, "of every generation")
    search: SearchSettings = group(
        SearchSettings, "how (p, k, alpha, s) are searched; of an older study its own"
    )
    calibration: CalibrationSettings = group(CalibrationSettings, "prompts that configs are scored on")
    heldout: HeldoutSettings = group(HeldoutSettings, "prompts that only the winner is measured on")
    objective: ObjectiveSettings = group(
        ObjectiveSettings,
        "what is best: eq. 12, by the paper's weights; quality_time and quality_first have no burden, "
        "offload has no time",
    )
    link: LinkSettings = group(
        LinkSettings,
        "between cloud and edge: the paper's 18.88 Mbps, none for one machine, or the URL of a server",
    )
    rerank: RerankSettings = group(
        RerankSettings, "of the commands rerank and pareto, beside objective and link"
    )
    pareto: ParetoSettings = group(ParetoSettings, "which row of its table the command pareto writes as YAML")
    acceleration: AccelerationSettings = group(
        AccelerationSettings, "of tune with another method than ecdiff"
    )
    export: ExportSettings = group(ExportSettings, "of the command export")
    compare: CompareSettings = group(CompareSettings, "of the command compare")
    ablate: AblateSettings = group(AblateSettings, "of the command ablate")
    errors: ErrorsSettings = group(ErrorsSettings, "of the command errors")
    transfer: TransferSettings = group(TransferSettings, "of the command transfer")
    metrics: MetricsSettings = group(
        MetricsSettings, "what images are measured by where methods are compared; the search goes by SSIM"
    )
