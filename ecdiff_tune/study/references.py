"""References of a study's prompts, and what they predict: made when they are first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from torch import Tensor

from ecdiff_core.sampling.plan import HandoffAdapter
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation import image_faults, reference_files
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.edge_pass import FIRST_PROMPTS, EdgePass
from ecdiff_tune.evaluation.placed_images import ReferencePlan
from ecdiff_tune.evaluation.reference import Reference, auto_p
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
        rungs = () if spec.options.until is None else spec.options.prompts(len(drawn))
        # The race begins on the first, and goes beyond the last where it is not settled by then.
        self._raced, self._usual = min((*rungs, len(drawn))), max(rungs, default=len(drawn))
        self._calibrations: dict[int, Reference] = {}
        self._predicted: tuple[tuple[Candidate, ...], list[float]] = ((), [])
        self._making = ReferenceMaking(spec, pair, folder, spending, progress)

    @property
    def calibration(self) -> Reference:
        """Of the prompts that are tuned on; where a race may end before, of those that it has come to."""
        if self._raced not in self._calibrations:
            self._calibrations = {self._raced: self._of_first(self._raced)}
        return self._calibrations[self._raced]

    def grow(self, count: int | None) -> Reference:
        """``calibration`` with so many prompts at least; None is all."""
        self._raced = max(self._raced, len(self.drawn) if count is None else count)
        return self.calibration

    @property
    def has_all(self) -> bool:
        """Whether ``calibration`` is of all prompts."""
        return self._raced >= len(self.drawn)

    @property
    def most_prompts(self) -> CalibrationSet:
        """Those that may be tuned on: all that are drawn, without those that are known to be of no use."""
        return self.drawn if self._spec.options.until is not None else self.calibration.prompt_set

    def _of_first(self, count: int) -> Reference:
        """Of so many prompts that are of use, as far as there are."""
        drawn = count
        while True:
            made = self._of_drawn(self.drawn.first(drawn))
            lacking = count - len(made.prompt_set)
            if lacking <= 0 or drawn >= len(self.drawn):
                return made
            drawn += lacking

    def _of_drawn(self, prompts: CalibrationSet) -> Reference:
        most = image_faults.most_left_out(len(self.drawn))
        if not self._places:
            own = self.own_runs  # which are made with the edge pass
            return own if prompts == self._own else self._making.make(prompts, REFERENCE, most)
        plan = self._decided_plan()
        if plan is None:
            self._progress.log("reference: no placed plan is near enough; the cloud runs on every prompt")
            return self._making.make(prompts, REFERENCE, most)
        ahead = self.drawn.first(max(self._usual, len(prompts)))
        return self._making.place(plan, prompts, self.own_runs, most, ahead)

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
        """The models' own runs on the prompts that are tuned on, or with ``reference=placed`` or a race that
        may end before all on the first of them; with an edge pass where something predicts."""
        prompts, later = self._own, self._placed_later
        if self._without_edge:
            return self._making.make(prompts, REFERENCE, edge=False, placed_later=later)
        predicts = self._places or self._spec.kind.predicts
        edge_pass = EdgePass(self._pair.pipe, prompts, self._folder) if predicts else None
        return self._making.make(prompts, REFERENCE, None, edge_pass, placed_later=later)

    @property
    def _without_edge(self) -> bool:
        """Whether the edge is not asked: where accelerations of the cloud alone are tuned, or where on fewer
        prompts than a rung has what it tells of cloud-only plans is not worth twice the cloud's calls."""
        spec = self._spec
        if spec.accelerates:
            return True
        return spec.kind.predicts and not spec.asks_edge and len(self.drawn) < LEAST_PROMPTS

    def shown(self) -> Reference:
        """That of the calibration prompts, with the edge's images of those that have own runs."""
        if self._without_edge:
            self._making.make(self.own_runs.prompt_set, SAMPLES)
        return self.calibration

    @property
    def _own(self) -> CalibrationSet:
        """The prompts whose own runs are made before anything is searched."""
        if self._places:
            return self.drawn.first(FULL_RUNS)
        return self.drawn if self._spec.options.until is None else self.drawn.first(FIRST_PROMPTS)

    @property
    def _placed_later(self) -> CalibrationSet | None:
        """The prompts whose images placed calls are likely to make."""
        return self.drawn.first(self._usual) if self._places else None

    @property
    def _places(self) -> bool:
        """Whether placed calls make most images: not of accelerations, which are held against whole runs."""
        spec = self._spec
        return spec.reference == PLACED and len(self.drawn) > FULL_RUNS and not spec.accelerates

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
        steps, missing = self._spec.num_steps, len(reference_files.missing(self._own, self._folder))
        self._making.plan(REFERENCE, missing * steps, 2 * missing * steps, self._placed_later)
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

    def predict(self, candidates: Sequence[Candidate]) -> list[float]:
        """Qualities; of a whole grid kept, for a search ranks what its bounds on calls have ranked."""
        asked = tuple(candidates)
        if self._predicted[0] != asked:
            found = self.predictor.qualities(asked)
            if len(asked) < len(self._predicted[0]):
                return found
            self._predicted = asked, found
        return self._predicted[1]

    def p(self) -> int:
        """The warm-up as set, or read off the noise profile; at most the smallest s."""
        if self._spec.p is not None:
            return self._spec.p
        return auto_p(self.own_runs.noise_change, min(self._spec.s_values))
