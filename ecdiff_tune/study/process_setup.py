"""What every process of a study makes for itself alike: the pair, and where things lie."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import PairError
from ecdiff_core.models.devices import device_name, get_dtype
from ecdiff_core.models.memory import keep_freed_memory
from ecdiff_core.models.pair import load_pair
from ecdiff_core.models.pair_files import ONE_MODEL
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.config import Settings
from ecdiff_tune.evaluation.thumbnails import Thumbnails
from ecdiff_tune.study import files
from ecdiff_tune.study.distributed import ranks
from ecdiff_tune.study.folder import study_path


def load_pipe(settings: Settings) -> ECDiffPipeline:
    """The pair, on this process's device.

    Raises:
        ECDiffError: it cannot be loaded, or not do what the settings ask for, the search's included.
    """
    sampling, device = settings.core_sampling(), ranks.own_device(settings.device)
    if device.type == "cpu":
        keep_freed_memory()
    pair = load_pair(
        settings.pair_spec(),
        device=device,
        dtype=get_dtype(settings.dtype),
        memory=settings.core_memory(),
    )
    spec = pair.spec
    if pair.files and spec.lora_on("cloud") == spec.lora_on("edge") and pair.files.same_denoiser():
        raise PairError(ONE_MODEL)
    whole = ECDiffParams.cloud_only(sampling.num_steps)
    pipe = ECDiffPipeline(pair, TunedConfig(pair.spec, whole, sampling))
    for adapter in settings.handoff_adapters:  # before anything is generated
        pipe.check_adapter(adapter)
    return pipe


def thumbnails(settings: Settings) -> Thumbnails | None:
    """Where pictures of configs are kept; of searches that show them."""
    return Thumbnails(study_path(settings) / files.THUMBNAILS) if settings.kind.is_optuna else None


def state_folder(settings: Settings) -> Path:
    """For states that do not fit into memory."""
    return study_path(settings) / ".states"


def states_bytes(settings: Settings) -> int:
    """Of host memory for states; the ranks of a machine share what the setting allows."""
    return round(settings.sharing_gib * 2**30 / int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def reference_folder(settings: Settings, pipe: ECDiffPipeline) -> Path:
    """Where references of these weights and sampling settings lie, which studies share."""
    sampling = asdict(pipe.sampling)
    for unused in ("handoff", "estimator"):
        sampling.pop(unused)
    spec = pipe.pair.spec
    told = {
        "weights": [spec.cloud.fingerprint, spec.edge.fingerprint],
        "sampling": sampling,
        "device": pipe.device.type,
        "timed": [settings.offload, device_name(pipe.device)] if settings.latency == "wallclock" else False,
        "vae_tiling": settings.vae_tiling,
    }
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
    return Path(settings.output_dir) / settings.pair.name / files.REFERENCE_FOLDER / digest
