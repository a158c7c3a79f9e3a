"""References of a study's prompts, and what they predict: made when they are first asked for."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from torch import Tensor

from ecdiff_core.sampling.plan import HandoffAdapter
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation import reference_files
from ecdiff_tune.evaluation.edge_pass import EdgePass
from ecdiff_tune.evaluation.placed_images import ReferencePlan
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.evaluation.warm_up import auto_p
from ecdiff_tune.forecast.predictor import Predictor
from ecdiff_tune.forecast.reference_placement import place_reference
from ecdiff_tune.search.options import LEAST_PROMPTS
from ecdiff_tune.study import reference_plan
from ecdiff_tune.study.process_setup import LoadedPair
from ecdiff_tune.study.progress import Progress
from ecdiff_tune.study.reference_making import ReferenceMaking
from ecdiff_tune.study.spec import FULL_RUNS, PLACED, StudySpec
from ecdiff_tune.study.spending import HELDOUT_REFERENCE, REFERENCE, SAMPLES, Spending


class References:
    """The references of a study's prompts.

    Args:
        drawn, drawn_heldout: the prompts; which of them have images that nothing can be compared with is
            known once their references are made.
        folder: of the references.
    """

    def __init__(
        self,
        spec: StudySpec,
        pair: LoadedPair,
        drawn: CalibrationSet,
        drawn_heldout: CalibrationSet,
        folder: Path,
        spending: Spending,
        progress: Progress,
    ) -> None:
        self._spec, self._pair, self._folder = spec, pair, folder
        self.drawn, self._drawn_heldout = drawn, drawn_heldout
        self._progress = progress
        self._making = ReferenceMaking(spec, pair, folder, spending, progress)

    @cached_property
    def calibration(self) -> Reference:
        """Of the prompts that are tuned on."""
        if not self._places:
            return self.own_runs
        plan = self._decided_plan()
        if plan is None:
            self._progress.log("reference: no placed plan is near enough; the cloud runs on every prompt")
            return self._making.make(self.drawn, REFERENCE)
        return self._making.place(plan, self.drawn, self.own_runs)

    def _decided_plan(self) -> ReferencePlan | None:
        """The plan that makes the images of most prompts, on all ranks rank 0's."""
        ranks, study = self._pair.batches.ranks, self._spec.path
        predictor = None if ranks.broadcast(reference_plan.is_decided(study)) else self.predictor

        def decide() -> ReferencePlan | None:
            assert predictor is not None
            return place_reference(predictor, FULL_RUNS)

        return ranks.broadcast(reference_plan.kept(study, decide) if ranks.first else None)

    @cached_property
    def own_runs(self) -> Reference:
        """The models' own runs on the prompts that are tuned on, or with ``reference=placed`` on the first of
        them; with an edge pass where something predicts."""
        prompts = self.drawn.first(FULL_RUNS) if self._places else self.drawn
        later = self.drawn if self._places else None
        if self._without_edge:
            return self._making.make(prompts, REFERENCE, edge=False, placed_later=later)
        predicts = self._places or self._spec.kind.predicts
        edge_pass = EdgePass(self._pair.pipe, prompts, self._folder) if predicts else None
        return self._making.make(prompts, REFERENCE, None, edge_pass, placed_later=later)

    @property
    def _without_edge(self) -> bool:
        """Whether the edge is not asked: on fewer prompts than a rung has, what it tells of cloud-only plans
        is not worth twice the cloud's calls."""
        spec = self._spec
        return spec.kind.predicts and not spec.asks_edge and len(self.drawn) < LEAST_PROMPTS

    def shown(self) -> Reference:
        """That of the calibration prompts, with the edge's images of those that have own runs."""
        if self._without_edge:
            self._making.make(self.own_runs.prompt_set, SAMPLES)
        return self.calibration

    @property
    def _places(self) -> bool:
        return self._spec.reference == PLACED and len(self.drawn) > FULL_RUNS

    @cached_property
    def heldout(self) -> Reference:
        """Of the prompts that are checked on, without the edge's images; all but one prompt may be of no
        use."""
        return self._of_heldout(edge=False)

    @cached_property
    def heldout_with_edge(self) -> Reference:
        """The same with the edge's images, for what shows them."""
        return self._of_heldout(edge=True)

    def _of_heldout(self, edge: bool) -> Reference:
        at_most = max(0, len(self._drawn_heldout) - 1)
        return self._making.make(self._drawn_heldout, HELDOUT_REFERENCE, at_most, edge=edge)

    @property
    def heldout_prompts(self) -> CalibrationSet:
        """Those that are checked on, without those that are known to be of no use."""
        return reference_files.usable(self._drawn_heldout, self._folder)

    def plan_ahead(self) -> None:
        """Tell the time left what calls these references will take in this run."""
        own = self.drawn.first(FULL_RUNS) if self._places else self.drawn
        steps, missing = self._spec.num_steps, len(reference_files.missing(own, self._folder))
        later = self.drawn if self._places else None
        self._making.plan(REFERENCE, missing * steps, 2 * missing * steps, later)
        heldout = len(reference_files.missing(self._drawn_heldout, self._folder))
        self._making.plan(HELDOUT_REFERENCE, heldout * steps, 0)

    @cached_property
    def predictor(self) -> Predictor:
        """What predicts errors and qualities, from the reference and an edge pass, which is made if need be.

        Raises:
            UnpredictableError: nothing can be predicted with this scheduler or this pair.
        """
        made, pipe = self.own_runs, self._pair.pipe
        if self._without_edge:
            return Predictor.of_cloud_alone(pipe.scheduler, pipe.config.sampling.handoff, made)
        edge_pass = EdgePass(pipe, made.prompt_set, self._folder)

        def passes(adapter: HandoffAdapter) -> list[dict[str, Tensor]]:
            return self._making.make_edge_pass(edge_pass, adapter)

        handoff = pipe.config.sampling.handoff
        return Predictor.of(pipe.scheduler, handoff, made, passes, edge_pass.own_adapter)

    def p(self) -> int:
        """The warm-up as set, or read off the noise profile; at most the smallest s."""
        if self._spec.p is not None:
            return self._spec.p
        return auto_p(self.own_runs.noise_change, min(self._spec.s_values))
