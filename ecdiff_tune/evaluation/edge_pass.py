"""The edge model asked along the cloud's own trajectory: what a handoff changes, known without a handoff.

Made for the first prompts only, and only for searches that predict. Where both models' own runs are being
made anyhow (the reference), a callback of theirs makes it for T edge calls a prompt; otherwise the runs are
made once more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ecdiff_core.io.atomic_files import replacing
from ecdiff_core.models.memory import Batches
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.batching import Conditioning, take_prompts
from ecdiff_core.sampling.plan import HandoffAdapter
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation.baseline_trajectory import BaselineTrajectory, baseline_trajectory, prepare
from ecdiff_tune.evaluation.reference_files import read

Computed = tuple[list[int], HandoffAdapter, dict[str, Tensor]]
"""Prompts by index, the adapter, and the content of their files, stacked."""
FIRST_PROMPTS = 25
"""So many of a calibration set, which is in random order, are enough to rank candidates."""


@dataclass(frozen=True)
class EdgePass:
    """The edge passes of the first prompts of a set, one file a prompt and adapter beside the reference's.

    A file holds, in float64, ``gram``: <e_i, e_j> of the guided noises of the cloud's run and, from T on, of
    the edge asked at the same latents, shape (2T, 2T). With the pipeline's own adapter also ``divergence``:
    the squared distance of both models' own runs, in the latents before every step as the model wants them
    and in the final ones, shape (T + 1,).

    Args:
        prompts: the calibration set.
        folder: of the references; its name changes with weights and sampling.
        first: so many prompts.
    """

    pipe: ECDiffPipeline
    prompts: CalibrationSet
    folder: Path
    first: int = FIRST_PROMPTS

    @property
    def own_adapter(self) -> HandoffAdapter:
        """The adapter that the references' edge images are made with."""
        return self.pipe.config.sampling.handoff_adapter

    def missing(self, adapter: HandoffAdapter) -> list[int]:
        """The prompts, by index, that lack a pass with that adapter."""
        return [i for i, path in enumerate(self._paths(adapter)) if not path.is_file()]

    def missing_calls(self, adapter: HandoffAdapter) -> tuple[int, int]:
        """Cloud and edge calls that ``make`` takes."""
        cloud = len(self.missing(adapter)) * self.pipe.num_steps
        return cloud, cloud * (2 if adapter == self.own_adapter else 1)

    def _paths(self, adapter: HandoffAdapter) -> list[Path]:
        return [self.folder / f"{key}.along-{adapter}.safetensors" for key in self.prompts.keys[: self.first]]

    def compute(
        self,
        rows: Sequence[int],
        conditioning: Conditioning,
        cloud: BaselineTrajectory,
        edge: BaselineTrajectory,
    ) -> Computed:
        """What is missing, made from both models' own runs, kept whole, on some prompts."""
        wanted = set(self.missing(self.own_adapter)) & set(rows)
        at = [i for i, row in enumerate(rows) if row in wanted]
        found: dict[str, Tensor] = {}
        if at:
            found = self._along(conditioning, cloud, at, self.own_adapter) | _divergence(cloud, edge, at)
        return [rows[i] for i in at], self.own_adapter, found

    def keep(self, computed: Computed) -> int:
        """Write the files; the edge calls that they took."""
        rows, adapter, found = computed
        paths = self._paths(adapter)
        for i, row in enumerate(rows):
            with replacing(paths[row]) as part:
                save_file({name: tensor[i].contiguous() for name, tensor in found.items()}, part)
        return len(rows) * self.pipe.num_steps

    def make(
        self,
        adapter: HandoffAdapter,
        batches: Batches,
        on_prompts: Callable[[int], None],
        calls: Counter[str] | None = None,
    ) -> list[dict[str, Tensor]]:
        """The content of every prompt's file; runs the models for those that are missing.

        ``on_prompts`` is called with how many prompts became ready; model calls are counted in ``calls``.
        Whoever makes a batch writes it. Stopped at any moment, at most a batch is lost.

        Raises:
            DamagedReferenceError: a file is damaged.
            OutOfMemoryError: a single prompt does not fit.
        """
        missing, paths = self.missing(adapter), self._paths(adapter)
        names = ("gram", "divergence") if adapter == self.own_adapter else ("gram",)
        on_prompts(len(paths) - len(missing))

        def run(rows: Sequence[int]) -> int:
            return self.keep(self._run(adapter, rows))

        for rows, beside in batches.over(missing, run):
            again = len(rows) * self.pipe.num_steps  # the models' own runs, for this alone
            if calls is not None:
                calls.update(cloud=again, edge=beside + (again if adapter == self.own_adapter else 0))
            on_prompts(len(rows))
        return [read(path, *names) for path in paths]

    def _run(self, adapter: HandoffAdapter, rows: Sequence[int]) -> Computed:
        batch = prepare(self.pipe, self.prompts, rows)
        cloud = baseline_trajectory(self.pipe, batch, "cloud", keep=True)
        if adapter == self.own_adapter:
            edge = baseline_trajectory(self.pipe, batch, "edge", keep=True)
            return self.compute(rows, batch.conditioning, cloud, edge)
        return list(rows), adapter, self._along(batch.conditioning, cloud, range(len(rows)), adapter)

    @torch.no_grad()
    def _along(
        self,
        conditioning: Conditioning,
        cloud: BaselineTrajectory,
        at: Sequence[int],
        adapter: HandoffAdapter,
    ) -> dict[str, Tensor]:
        _, edge = self.pipe.bind(take_prompts(conditioning, at), adapter)
        rows = list(at)
        edge_pass = [edge(latents[rows], timestep) for latents, timestep in cloud.asked]
        noises = [eps[rows] for eps in cloud.noises] + edge_pass
        flat = torch.stack([eps.float().flatten(1).cpu() for eps in noises], dim=1).double()
        return {"gram": flat @ flat.transpose(1, 2)}


def _divergence(cloud: BaselineTrajectory, edge: BaselineTrajectory, at: Sequence[int]) -> dict[str, Tensor]:
    rows = list(at)
    asked = [
        (ours[rows], theirs[rows]) for (ours, _), (theirs, _) in zip(cloud.asked, edge.asked, strict=True)
    ]
    pairs = [*asked, (cloud.latents[rows], edge.latents[rows])]
    apart = [(ours.double() - theirs.double()).flatten(1).square().sum(dim=1) for ours, theirs in pairs]
    return {"divergence": torch.stack(apart, dim=1).cpu()}
