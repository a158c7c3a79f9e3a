"""Two diffusers pipelines in memory as a pair."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diffusers.utils.torch_utils import unwrap_module

from ecdiff_core.errors import PairError
from ecdiff_core.hook.checks import denoiser_of, hook_on
from ecdiff_core.hook.edge import schedule_of
from ecdiff_core.hook.fit import check_edge, check_place
from ecdiff_core.models.families import FAMILIES
from ecdiff_core.models.find import from_anywhere
from ecdiff_core.models.pair import Pair
from ecdiff_core.models.pair_files import ONE_MODEL
from ecdiff_core.models.pair_spec import ModelRef, PairSpec
from ecdiff_core.models.tensor_digest import parts_digests, tensor_digest


def pair_of(name: str, cloud: Any, edge: Any) -> Pair:
    """The pair of two diffusers pipelines as they are: nothing is loaded, moved or changed.

    Its weights are known by their digests in memory, since what was loaded or fused after the files were read
    is in no file.

    Args:
        name: of the pair.
        cloud: a pipeline of a class in ``FAMILIES``.
        edge: a pipeline, of which the denoiser is used, or a denoiser.

    Raises:
        PairError: the two cannot be a pair, are on different devices, or their weights have no digest.
    """
    if type(cloud).__name__ not in FAMILIES:
        raise PairError.unknown("pipeline of the cloud", type(cloud).__name__, FAMILIES)
    ours: Any = denoiser_of(cloud)
    theirs: Any = denoiser_of(edge)
    if hook_on(ours) is not None:
        raise PairError(
            "ECDiff is applied to the cloud's pipeline.",
            key="cloud",
            advice="Call remove_ecdiff on it first.",
        )
    check_edge(ours, theirs)
    check_place(ours, theirs)
    digests = {side: tensor_digest(one, one.dtype) for side, one in (("cloud", ours), ("edge", theirs))}
    for side, digest in digests.items():
        if digest is None:
            raise PairError(
                f"The weights of the {side} model cannot be compared with others: they are offloaded layer "
                "by layer, or quantised.",
                key=side,
                expected="pipelines whose weights are all in memory",
                advice="Give folders or hub ids in place of pipelines.",
            )
    if digests["cloud"] == digests["edge"]:
        raise PairError(ONE_MODEL, key="edge")
    schedule, parts = schedule_of(cloud), parts_digests(cloud.components, ours.dtype)
    return Pair(
        PairSpec(
            name,
            replace(_source(cloud), tensors=digests["cloud"], parts=parts),
            replace(_source(edge), tensors=digests["edge"]),
        ),
        FAMILIES[type(cloud).__name__](cloud),
        theirs,
        schedule,
        schedule if edge is theirs else schedule_of(edge),
    )


def _source(holder: Any) -> ModelRef:
    """Where a pipeline or a denoiser says that it was loaded from."""
    model = unwrap_module(denoiser_of(holder))
    name = getattr(holder, "name_or_path", None) or getattr(model, "config", {}).get("_name_or_path")
    return from_anywhere(ModelRef(str(name))) if name else ModelRef(f"{type(holder).__name__} in memory")
