"""References of a study's prompts, and what they predict: made when they are first asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from filelock import FileLock, Timeout
from torch import Tensor

from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.plan import HandoffAdapter
from ecdiff_tune.data.calibration import CalibrationSet
from ecdiff_tune.evaluation import image_faults, reference
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.divided_batches import DividedBatches
from ecdiff_tune.evaluation.edge_pass import FIRST_PROMPTS, EdgePass
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.placed_images import PlacedImages, ReferencePlan
from ecdiff_tune.evaluation.prefix_sharing import Generations
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.evaluation.state_store import StateStore
from ecdiff_tune.evaluation.warm_up import auto_p
from ecdiff_tune.forecast.predictor import Predictor
from ecdiff_tune.forecast.reference_placement import place_reference
from ecdiff_tune.search.options import LEAST_PROMPTS
from ecdiff_tune.study import left_out, reference_plan
from ecdiff_tune.study.progress import Progress, duration
from ecdiff_tune.study.spec import FULL_RUNS, PLACED, StudySpec
from ecdiff_tune.study.spending import HELDOUT_REFERENCE, REFERENCE, SAMPLES, Spending

PLACED_SHARE = 0.25
"""Placed calls of an image as a share of T, until their number is decided."""


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
        self._spending, self._progress = spending, progress
        rungs = () if spec.options.until is None else spec.options.prompts(len(drawn))
        # The race begins on the first, and goes beyond the last where it is not settled by then.
        self._raced, self._usual = min((*rungs, len(drawn))), max(rungs, default=len(drawn))
        self._calibrations: dict[int, Reference] = {}
        self._predicted: tuple[tuple[Candidate, ...], list[float]] = ((), [])

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
        if not self._places:
            own = self.own_runs  # which are made with the edge pass
            return own if len(prompts) == len(self._own) else self._make_own(prompts)
        plan = self._decided_plan()
        if plan is None:
            self._progress.say("reference: no placed plan is near enough; the cloud runs on every prompt")
            return self._make_own(prompts)
        return self._placed(PlacedImages(plan, self._folder), prompts)

    def _make_own(self, prompts: CalibrationSet) -> Reference:
        most = image_faults.most_left_out(len(self.drawn))
        return self._make(prompts, REFERENCE, most, None)

    def _decided_plan(self) -> ReferencePlan | None:
        """The plan that makes the images of most prompts, on all ranks rank 0's."""
        ranks, study = self._pair.batches.ranks, self._spec.path
        predictor = None if ranks.broadcast(reference_plan.is_decided(study)) else self.predictor

        def decide() -> ReferencePlan | None:
            assert predictor is not None
            return place_reference(predictor, FULL_RUNS)

        return ranks.broadcast(reference_plan.kept(study, decide) if ranks.first else None)

    def _placed(self, placed: PlacedImages, prompts: CalibrationSet) -> Reference:
        """The own runs with a placed plan's images of some prompts; without those that are of no use."""
        own, pair = self.own_runs, self._pair
        # Without what it might share with configs: how they round would depend on whether it was made now.
        generations = Generations(pair.pipe, prompts, pair.batches, None, ())
        label, plan = "reference, placed calls", placed.plan
        done, calls = self._progress.prompts_done, self._spending.calls
        with self._spending.part(REFERENCE), self._turn(label):
            missing = len(placed.missing(prompts))
            if not self._calibrations:
                self._progress.say(
                    f"reference: the cloud's own run on {len(own.prompts)} prompts, on the others "
                    f"{len(plan.steps)} placed cloud calls with a predicted error of "
                    f"{plan.predicted_error:.1g} SSIM"
                )
            self._say_calls(label, missing * len(plan.steps), 0)
            self._plan(REFERENCE, 0, 0, max(self._usual, len(prompts)))
            self._progress.start_task(label, len(prompts), len(prompts) - missing)
            placed.make(pair.pipe, prompts, generations, pair.batches, done, calls)
        known = reference.faulty_rows(prompts.first(FULL_RUNS), self._folder)
        found = {row: fault for row, fault in placed.faulty_rows(prompts).items() if row not in known}
        most, dtype = image_faults.most_left_out(len(self.drawn)), pair.pipe.config.sampling.dtype
        image_faults.refuse_many(known | found, prompts, most, dtype)
        self._leave_out(prompts, found)
        kept = prompts.without(known | found)
        runs = zip(own.prompt_set.keys, own.prompts, strict=True)
        return Reference(tuple(one for key, one in runs if key in kept.keys), kept, placed)

    @cached_property
    def own_runs(self) -> Reference:
        """The models' own runs on the prompts that are tuned on, or with ``reference=placed`` or a race that
        may end before all on the first of them; with an edge pass where something predicts."""
        prompts = self._own
        if self._without_edge:
            return self._make(prompts, REFERENCE, None, None, edge=False)
        predicts = self._places or self._spec.kind.predicts
        edge_pass = EdgePass(self._pair.pipe, prompts, self._folder) if predicts else None
        return self._make(prompts, REFERENCE, None, edge_pass)

    @property
    def _without_edge(self) -> bool:
        """Whether the edge is not asked: on fewer prompts than a rung has, what it tells of cloud-only plans
        is not worth twice the cloud's calls."""
        spec = self._spec
        return spec.kind.predicts and not spec.asks_edge and len(self.drawn) < LEAST_PROMPTS

    def shown(self) -> Reference:
        """That of the calibration prompts, with the edge's images of those that have own runs."""
        if self._without_edge:
            self._make(self.own_runs.prompt_set, SAMPLES, None, None)
        return self.calibration

    @property
    def _own(self) -> CalibrationSet:
        """The prompts whose own runs are made before anything is searched."""
        if self._places:
            return self.drawn.first(FULL_RUNS)
        return self.drawn if self._spec.options.until is None else self.drawn.first(FIRST_PROMPTS)

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
        return self._make(self._drawn_heldout, HELDOUT_REFERENCE, at_most, None, edge)

    @property
    def heldout_prompts(self) -> CalibrationSet:
        """Those that are checked on, without those that are known to be of no use."""
        return reference.usable(self._drawn_heldout, self._folder)

    def plan_ahead(self) -> None:
        """Tell the time left what calls these references will take in this run."""
        own = self._own
        steps, missing = self._spec.num_steps, len(reference.missing(own, self._folder))
        self._plan(REFERENCE, missing * steps, 2 * missing * steps, self._usual * self._places)
        self._plan(HELDOUT_REFERENCE, len(reference.missing(self._drawn_heldout, self._folder)) * steps, 0)

    def _plan(self, part: str, cloud: float, edge: float, placed: int = 0) -> None:
        """Tell the time left what a part will take from now on.

        Args:
            placed: it goes on to the images of placed calls of so many prompts.
        """
        left, steps = self._progress.time_left, self._spec.num_steps
        if left is None:
            return
        decodes = (cloud + edge) / steps
        if placed:
            plan, first = reference_plan.read(self._spec.path), self.drawn.first(placed)
            others = len(first) if plan is None else len(PlacedImages(plan, self._folder).missing(first))
            cloud += others * (PLACED_SHARE * steps if plan is None else len(plan.steps))
            decodes += others
        left.plan(part, cloud, edge, decodes)

    @cached_property
    def predictor(self) -> Predictor:
        """What predicts errors and qualities, from the reference and an edge pass, which is made if need be.

        Raises:
            UnpredictableError: nothing can be predicted with this scheduler or this pair.
        """
        made, pipe = self.own_runs, self._pair.pipe
        if self._without_edge:
            return Predictor.of_cloud_alone(pipe.scheduler, pipe.config.sampling.handoff, made)
        edge_pass, calls = EdgePass(pipe, made.prompt_set, self._folder), self._spending.calls

        def passes(adapter: HandoffAdapter) -> list[dict[str, Tensor]]:
            with self._spending.part(REFERENCE):
                return make_edge_pass(edge_pass, adapter, self._pair.batches, self._progress, calls)

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

    def _make(
        self,
        prompts: CalibrationSet,
        part: str,
        at_most: int | None,
        edge_pass: EdgePass | None,
        edge: bool = True,
    ) -> Reference:
        """The reference of a prompt set, with how much there is to do and progress.

        It lacks the prompts that are of no use: a note names them, ``at_most`` so many. Studies that run side
        by side wait for each other here, so that what they share is made once.
        """
        label = {HELDOUT_REFERENCE: "reference of the held-out prompts"}.get(part, part)
        pipe, where, progress = self._pair.pipe, self._folder, self._progress
        with self._spending.part(part), self._turn(label):
            missing = reference.missing(prompts, where)
            passes = set(edge_pass.missing(edge_pass.own_adapter)) & set(missing) if edge_pass else ()
            later = reference.without_edge(prompts, where) if edge else ()
            edge_runs = len(missing) * edge + len(passes) + len(later)
            self._say_calls(label, len(missing) * pipe.num_steps, edge_runs * pipe.num_steps)
            placed = self._places and part == REFERENCE and len(prompts) == FULL_RUNS
            own, usual = len(missing) * pipe.num_steps, self._usual * placed
            self._plan(part, own, edge_runs * pipe.num_steps, usual)
            title = f"{label} ({'cloud' if not edge else 'cloud and edge'} alone)"
            progress.start_task(title, len(prompts), len(prompts) - len(missing) - len(later))
            made = reference.make(
                pipe,
                prompts,
                where,
                batches=self._pair.batches,
                on_prompts=progress.prompts_done,
                callback=edge_pass,
                calls=self._spending.calls,
                at_most=at_most,
                edge=edge,
            )
        self._leave_out(prompts, reference.faulty_rows(prompts, where))
        return made

    def _turn(self, label: str) -> AbstractContextManager[None]:
        """For rank 0 the folder to itself."""
        if self._pair.batches.ranks.first:
            return _own_turn(self._folder, label, self._progress)
        return nullcontext()

    def _say_calls(self, label: str, cloud: int, edge: int) -> None:
        """How much there is to do; nothing is no line."""
        if cloud or edge:
            latency = self._pair.latency
            seconds = cloud * latency.cloud_call.median + edge * latency.edge_call.median
            self._progress.say(
                f"{label}: {cloud:,} cloud and {edge:,} edge calls, at most {duration(seconds)}"
            )

    def _leave_out(self, prompts: CalibrationSet, faulty: Mapping[int, tuple[str, int]]) -> None:
        for line in image_faults.describe(faulty, prompts):
            self._progress.say(f"note: {line}")
        left_out.add(self._spec.path, prompts, faulty)


@contextmanager
def _own_turn(where: Path, what: str, progress: Progress) -> Iterator[None]:
    """The folder of references to itself, waiting for another process if need be."""
    where.mkdir(parents=True, exist_ok=True)
    turn = FileLock(where / ".lock")
    with suppress(Timeout):
        turn.acquire(timeout=0)
    if not turn.is_locked:
        progress.say(f"{what}: another process is making it; waiting")
        turn.acquire()
    try:
        yield
    finally:
        turn.release()


def make_edge_pass(
    edge_pass: EdgePass,
    adapter: HandoffAdapter,
    batches: DividedBatches,
    progress: Progress,
    calls: Counter[str],
) -> list[dict[str, Tensor]]:
    """Edge passes along the cloud's trajectories, with how much there is to do and progress."""
    missing = edge_pass.missing(adapter)
    if missing:
        cloud, edge = edge_pass.missing_calls(adapter)
        progress.say(f"edge along the cloud's trajectory: {cloud:,} cloud and {edge:,} edge calls")
        whole = len(edge_pass.prompts.keys[: edge_pass.first])
        progress.start_task("edge along the cloud's trajectory", whole, whole - len(missing))
    return edge_pass.make(adapter, batches, progress.prompts_done if missing else lambda _: None, calls)
