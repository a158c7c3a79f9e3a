"""What every process of a study makes for itself alike: the pair, and where things lie."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist

from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import ECDiffError, PairError
from ecdiff_core.models.devices import device_name, get_device, get_dtype
from ecdiff_core.models.memory import keep_freed_memory
from ecdiff_core.models.pair import Pair, load_pair
from ecdiff_core.models.pair_files import ONE_MODEL
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.evaluation.divided_batches import DividedBatches
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.state_store import StateStore
from ecdiff_tune.evaluation.thumbnails import Thumbnails
from ecdiff_tune.forecast.error_growth import scheduler_response
from ecdiff_tune.study import files
from ecdiff_tune.study.spec import StudySpec


@dataclass(frozen=True)
class LoadedPair:
    """A study's pair on this machine.

    Args:
        latency: what its calls cost.
        batches: how many prompts it generates at a time, on which ranks.
        store: for points of trajectories that candidates share; None where they share none.
    """

    pipe: ECDiffPipeline
    latency: LatencyProfile
    batches: DividedBatches
    store: StateStore | None


class DeviceError(ECDiffError):
    """There are fewer accelerators than ranks."""


def load_pipe(spec: StudySpec, pair: Pair | None = None) -> ECDiffPipeline:
    """The pair, on this process's device.

    Args:
        pair: loaded already, in the dtype of the settings.

    Raises:
        ECDiffError: it cannot be loaded, or not do what the settings ask for, the search's included.
    """
    sampling, device = spec.sampling, own_device(spec.device)
    if device.type == "cpu":
        keep_freed_memory()
    if pair is None:
        pair = load_pair(spec.pair, device=device, dtype=get_dtype(sampling.dtype), memory=spec.memory)
    loaded = pair.spec
    if pair.files and loaded.lora_on("cloud") == loaded.lora_on("edge") and pair.files.same_denoiser():
        raise PairError(ONE_MODEL, key="pair.edge")
    whole = ECDiffParams.cloud_only(sampling.num_steps)
    pipe = ECDiffPipeline(pair, TunedConfig(pair.spec, whole, sampling))
    # What follows takes nothing, and would else end a command after its reference.
    for adapter in spec.handoff_adapters:
        pipe.check_adapter(adapter)
    if spec.searches and spec.kind.needs_forecast:
        scheduler_response(pipe.scheduler, pipe.num_steps)
    return pipe


def thumbnails(spec: StudySpec) -> Thumbnails | None:
    """Where images of configs are kept; of searches that show them."""
    return Thumbnails((spec.home or spec.path) / files.THUMBNAILS) if spec.kind.is_optuna else None


@contextmanager
def own_copy(spec: StudySpec) -> Iterator[StudySpec]:
    """The study in a folder of this rank alone, which goes at the end; as it is, but for what ranks share."""
    with TemporaryDirectory(prefix=files.COPY, dir=spec.path, ignore_cleanup_errors=True) as folder:
        path = Path(folder) / spec.name
        shutil.copytree(spec.path, path, ignore=shutil.ignore_patterns(".*", "old-*", files.THUMBNAILS))
        yield replace(spec, path=path, home=spec.path)


def remove_copies(folder: Path) -> None:
    """Those that ranks which were killed have left in a study's folder."""
    for left in folder.glob(f"{files.COPY}*"):
        shutil.rmtree(left, ignore_errors=True)


def state_folder(spec: StudySpec) -> Path:
    """For states that do not fit into memory."""
    return spec.path / ".states"


def states_bytes(spec: StudySpec) -> int:
    """Of host memory for states; the ranks of a machine share what the setting allows."""
    return round(spec.sharing_gib * 2**30 / int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def reference_folder(spec: StudySpec, pipe: ECDiffPipeline) -> Path:
    """Where references of these weights and sampling settings lie, which studies share."""
    sampling = asdict(pipe.sampling)
    for unused in ("handoff", "estimator"):
        sampling.pop(unused)
    pair = pipe.pair.spec
    facts = {
        "weights": [pair.cloud.identity, pair.edge.identity],
        "sampling": sampling,
        "device": pipe.device.type,
        "timed": [spec.memory.offload, device_name(pipe.device)] if spec.timed else False,
        "vae_tiling": spec.memory.vae_tiling,
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return spec.references / digest


def own_device(name: str) -> torch.device:
    """The device of that name; among several ranks an accelerator without a number is this rank's own.

    Raises:
        DeviceError: the machine has fewer accelerators than ranks.
        ParamsError: this machine has no such device.
    """
    device = get_device(name)
    if device.type == "cpu" or device.index is not None or not dist.is_initialized():
        return device
    local, there = int(os.environ.get("LOCAL_RANK", 0)), torch.accelerator.device_count()
    if local >= there:
        raise DeviceError(
            f"Expected an accelerator for each rank of a machine, got {there} for local rank {local}.",
            key="LOCAL_RANK",
            got={"LOCAL_RANK": local, "accelerators": there},
            advice="Start fewer ranks, or set LOCAL_RANK=0 where each rank sees its own accelerator alone.",
        )
    torch.accelerator.set_device_index(local)
    return device
