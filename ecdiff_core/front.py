"""The Pareto front that a config may hold: other params of the same pair, one of which a run takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ecdiff_core.errors import ParamsError
from ecdiff_core.sampling.estimators import get_estimator
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Handoff, HandoffAdapter
from ecdiff_core.validation import AtLeast1, Positive, Similarity, check_fields

T = TypeVar("T")
_OPTIONAL = ("estimator", "handoff_adapter", "handoff", "num_prompts")


@dataclass(frozen=True)
class FrontRow:
    """A config that no other of its study beats in quality, seconds and cloud calls at once.

    Args:
        params: when either model is asked.
        quality: mean SSIM to the cloud's images, -1 … 1.
        seconds: an image, by the latency profile of the study.
        estimator, handoff_adapter, handoff: in place of the config's own; None is that.
        num_prompts: that the quality is a mean over; None is all that the study tuned on.

    Raises:
        ParamsError, ConfigError: a value is out of range or unknown.
    """

    params: ECDiffParams
    quality: Similarity
    seconds: Positive
    estimator: str | None = None
    handoff_adapter: HandoffAdapter | None = None
    handoff: Handoff | None = None
    num_prompts: AtLeast1 | None = None

    def __post_init__(self) -> None:
        check_fields(self, ParamsError, "front.")
        if self.estimator is not None:
            get_estimator(self.estimator)

    def tree(self) -> dict[str, Any]:
        """As the YAML has it."""
        others = {name: getattr(self, name) for name in _OPTIONAL}
        given = {name: value for name, value in others.items() if value is not None}
        return {"quality": self.quality, "seconds": self.seconds, "params": self.params.tree(), **given}


def check_deadline(deadline: float, front: Sequence[FrontRow] | None, cloud: T | None) -> T:
    """The other machine, by whose seconds a row of the front is chosen.

    Raises:
        ParamsError: there is none, or no front to choose from.
    """
    if not deadline > 0:
        raise ParamsError(key="deadline", got=deadline, expected="> 0 seconds")
    if cloud is None or front is None:
        raise ParamsError(
            "A deadline chooses among the rows of a config's front by another machine's seconds: give "
            "cloud=RemoteCloud(URL), and a config with a front, as pareto writes it.",
            key="deadline",
            got=deadline,
        )
    return cloud


def whole_params(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A config's tree with p and k, or a schedule, in all its params, those of its front included."""
    whole = dict(tree)
    if isinstance(params := whole.get("params"), Mapping):
        whole["params"] = {"p": None, "k": None, **params}
    if isinstance(rows := whole.get("front"), list):
        whole["front"] = [whole_params(row) if isinstance(row, Mapping) else row for row in rows]
    return whole
