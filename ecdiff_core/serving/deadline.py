"""Which config of a front the edge takes: the best that both machines' seconds and the link between allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ecdiff_core.errors import ParamsError
from ecdiff_core.front import FrontRow
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.serving.handoff_form import HandoffForm
from ecdiff_core.serving.link_meter import Spread
from ecdiff_core.serving.packet import Encoding, Form, size_bytes
from ecdiff_core.serving.seconds import Timings


@dataclass(frozen=True)
class Costs:
    """What an image by two machines is made of.

    Args:
        timings: seconds of ``cloud_call`` and ``encode`` there, ``edge_call`` and ``decode`` here.
        round_trip: seconds.
        mbps: 10^6 bits a second, taken to be the same upwards.
        encoding: how numbers travel.
    """

    timings: Timings
    round_trip: Spread
    mbps: Spread
    encoding: Encoding

    def of(self, pipe: ECDiffPipeline) -> dict[str, float]:
        """Seconds of an image by a pipeline's plan: in the cloud, on the link, at the edge."""
        handoff, seconds = HandoffForm(pipe), {name: one.median for name, one in self.timings.items()}
        plan = handoff.plan
        later = len(plan.later_cloud_steps)
        latents = Form({"latents": handoff.form.tensors["latents"]}, {})
        sent = size_bytes(handoff.form, self.encoding) + later * 2 * size_bytes(latents, self.encoding)
        return {
            "cloud": seconds["encode"] + plan.cloud_calls * seconds["cloud_call"],
            "link": (1 + later) * self.round_trip.median + 8e-6 * sent / self.mbps.median,
            "edge": plan.edge_calls * seconds["edge_call"] + seconds["decode"],
        }


@dataclass(frozen=True)
class Choice:
    """A row of a front, and why it was taken.

    Args:
        number: of the row, from 1 on.
        rows: of the front.
        parts: seconds in the cloud, on the link, at the edge.
        better: the next better row, and its seconds; None where there is none.
    """

    pipe: ECDiffPipeline
    row: FrontRow
    number: int
    rows: int
    deadline: float
    parts: dict[str, float]
    better: tuple[FrontRow, float] | None

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in self.parts.items())
        text = (
            f"row {self.number} of {self.rows} keeps {self.deadline:g} s: quality {self.row.quality:.4f} in "
            f"about {sum(self.parts.values()):.2f} s ({parts})"
        )
        if self.better is None:
            return f"{text}; it is the best of all"
        row, seconds = self.better
        return f"{text}; the next better, {row.quality:.4f}, would take {seconds:.2f} s"


def choose(pipe: ECDiffPipeline, costs: Costs, deadline: float) -> Choice:
    """The row of the highest quality of which an image takes at most ``deadline`` seconds.

    Raises:
        ParamsError: none does.
    """
    rows = pipe.config.front or ()
    pipes = [ECDiffPipeline(pipe.pair, pipe.config.of_row(row), pipe.cloud) for row in rows]
    parts = [costs.of(one) for one in pipes]
    seconds = [sum(one.values()) for one in parts]
    kept = [i for i, one in enumerate(seconds) if one <= deadline]
    if not kept:
        raise _none_keeps(rows, seconds, deadline)
    best = max(kept, key=lambda i: (rows[i].quality, -seconds[i]))
    above = [i for i, row in enumerate(rows) if row.quality > rows[best].quality]
    better = min(above, key=lambda i: rows[i].quality, default=None)
    return Choice(
        pipes[best],
        rows[best],
        best + 1,
        len(rows),
        deadline,
        parts[best],
        None if better is None else (rows[better], seconds[better]),
    )


def _none_keeps(rows: Sequence[FrontRow], seconds: Sequence[float], deadline: float) -> ParamsError:
    least = min(range(len(rows)), key=lambda i: seconds[i])
    return ParamsError(
        key="deadline",
        got=deadline,
        expected=f">= {seconds[least]:.2f} seconds",
        advice=f"That is what the fastest of {len(rows)} configs takes with this server, link and machine "
        f"(quality {rows[least].quality:.4f}).",
    )
