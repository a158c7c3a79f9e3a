"""A method in the cloud model of a pair, for one generation at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from ecdiff_core.errors import ParamsError
from ecdiff_core.methods.choice import MethodChoice
from ecdiff_core.methods.enable import Enabled, enable, obstacle
from ecdiff_core.models.families.guidance import is_guided
from ecdiff_core.models.pair import Pair


@contextmanager
def accelerated(
    pair: Pair,
    choice: MethodChoice | None,
    num_steps: int,
    guidance_scale: float,
    scheduler: Any,
    counts: bool = False,
) -> Iterator[Enabled | None]:
    """The cloud model with a method on, which forgets everything at the end; None changes nothing.

    Other threads wait meanwhile: what a method keeps of a generation lies on the model.

    Args:
        scheduler: of the generation, with its timesteps set.
        counts: whether to note what the model's calls computed.

    Raises:
        PairError, ParamsError: as ``enable``.
    """
    if choice is None:
        yield None
        return
    # One generation: others may meanwhile set the scheduler's timesteps anew.
    frozen = SimpleNamespace(
        timesteps=scheduler.timesteps, alphas_cumprod=getattr(scheduler, "alphas_cumprod", None)
    )
    with (
        pair.family.alone,
        enable(
            choice.method,
            pair.cloud,
            choice.values,
            num_steps=num_steps,
            guided=is_guided(pair.cloud, guidance_scale),
            video=pair.family.media == "video",
            scheduler=lambda: frozen,
            counts=counts,
        ) as enabled,
    ):
        yield enabled


def why_not(choice: MethodChoice, pair: Pair, num_steps: int) -> str | None:
    """Why a method cannot be used with a pair's cloud model; None where it can."""
    return obstacle(choice.method, pair.cloud, num_steps)


def check_one_machine(choice: MethodChoice | None) -> None:
    """Whether a config can be run by two machines.

    Raises:
        ParamsError: it has a method. A server's calls hold images at different steps, which none follows.
    """
    if choice is not None:
        raise ParamsError(
            f"A server does not run the method {choice.name}.",
            key="method",
            got=choice.name,
            expected="none with two machines",
            advice="Give a config without a method, or generate on one machine.",
        )
