"""The paper's two-stage greedy search, written as the paper writes it (EC-Diff Algorithms 2 and 3).

The walks ask one thing only: whether a config is above another one. That is decided on as few prompts as it
takes, or with ``error_rate=0`` always on all, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ecdiff_core.sampling.plan import HandoffAdapter
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.search import points
from ecdiff_tune.search.base import Context, Rounds, Search
from ecdiff_tune.search.paired import significantly_worse
from ecdiff_tune.search.race import RaceState
from ecdiff_tune.search.spaces import Stage1Space, Stage2Space, nearest_value

N = TypeVar("N", int, float)
V = TypeVar("V")
PATIENCE = 3
"""Changes without improvement, in a row, that end a walk."""


@dataclass(frozen=True)
class Question:
    """Whether a candidate's objective is above another's; above the walk's floor where there is no other."""

    candidate: Candidate
    than: Candidate | None


Walk = Generator[Question, bool, N]
"""Yields questions, is sent the answers, returns the best value."""

StageWalk = Generator[Question, bool, Candidate | None]
"""The same of a stage; returns its winner."""


def next_unvisited(values: Sequence[N], current: N, direction: int, visited: Sequence[N]) -> N | None:
    """The nearest value beyond ``current`` in a direction that was not visited; None if there is none."""
    beyond = [v for v in values if (v - current) * direction > 0 and v not in visited]
    return min(beyond, key=lambda v: abs(v - current)) if beyond else None


def walk(values: Sequence[N], start: N, at: Callable[[N], Candidate]) -> Walk[N]:
    """The inner loop of Algorithm 2 and the whole of Algorithm 3.

    It goes on from the current value, not from the best one; a direction with nothing left ends it.
    """
    visited, current, best, direction, worse = [start], start, start, 1, 0
    while worse < PATIENCE and len(visited) < len(values):
        following = next_unvisited(values, current, direction, visited)
        if following is None:
            break
        current = following
        visited.append(current)
        if (yield Question(at(current), at(best))):
            best, worse = current, 0
        else:
            worse, direction = worse + 1, -direction
    return best


def scan(values: Iterable[V], inner: Callable[[V], StageWalk]) -> StageWalk:
    """The outer loop of Algorithm 2: values in their order, until three in a row bring no improvement."""
    best: Candidate | None = None
    worse = 0
    for value in values:
        found = yield from inner(value)
        if found is not None and (yield Question(found, best)):
            best, worse = found, 0
        else:
            worse += 1
        if worse >= PATIENCE:
            break
    return best


def stage1(space: Stage1Space, estimator: str) -> StageWalk:
    """Algorithm 2: for every k a walk over alpha from 0.5; three k in a row without improvement end it."""
    alphas = space.alphas_of(estimator)

    def inner(k: int) -> StageWalk:
        def at(alpha: float) -> Candidate:
            return space.at(k, alpha, estimator)

        return at((yield from walk(alphas, nearest_value(alphas, 0.5), at)))

    return (yield from scan(space.ks, inner))


def stage2(space: Stage2Space, handoff_adapter: HandoffAdapter) -> StageWalk:
    """Algorithm 3: a walk over s."""

    def at(s: int) -> Candidate:
        candidate = space.at(s, handoff_adapter)
        return space.aliases.get(candidate, candidate)

    return at((yield from walk(space.s_values, space.start, at)))


def best_of(stages: Iterable[StageWalk]) -> StageWalk:
    """One stage after the other, for dimensions that the paper does not search; the first of equals wins."""
    best: Candidate | None = None
    for stage in stages:
        found = yield from stage
        if found is not None and (best is None or (yield Question(found, best))):
            best = found
    return best


def through(space: points.Space, names: Sequence[str], chosen: Mapping[str, Any]) -> StageWalk:
    """Both algorithms over dimensions of any number: all but the last are scanned, the last is walked from
    its middle, and of those that are no numbers every value is tried.

    Args:
        names: of the dimensions that are left to choose.
        chosen: values of the others.
    """

    def at(**more: Any) -> Any:
        return space.at(**chosen, **more)

    if not names:
        return at()
    name, *others = names
    values: Sequence[Any] = space.dimensions[name]

    def inner(value: Any) -> StageWalk:
        return (yield from through(space, others, {**chosen, name: value}))

    if not space.is_numeric(name):
        return (yield from best_of(map(inner, values)))
    if others:
        return (yield from scan(values, inner))
    middle = sorted(values)[len(values) // 2]
    return at(**{name: (yield from walk(values, middle, lambda value: at(**{name: value})))})


def greedy(space: Stage1Space | Stage2Space | points.Space, context: Context) -> Search:
    """``Search`` over one stage's walk.

    The paper's best value of stage 1 starts at 0, so that a candidate must score above 0 to win.
    """
    pruned: dict[Candidate, str] = {}
    floor = 0.0
    if isinstance(space, Stage1Space):
        stages = [stage1(space, estimator) for estimator in space.estimators]
        walks = len(stages) * (1 + len(space.ks))
    elif isinstance(space, Stage2Space):
        stages = [stage2(space, adapter) for adapter in space.handoff_adapters]
        walks = len(stages)
    else:
        names = sorted(space.dimensions, key=space.is_numeric)
        stages, walks, floor = [through(space, names, {})], len(space.grid), float("-inf")
    judge = Judge(context, RaceState(context, pruned), pruned, len(space.grid) + walks, floor)
    return Search(_rounds(best_of(stages), judge), pruned)


@dataclass(frozen=True)
class Judge:
    """Answers a walk's questions.

    Args:
        pruned: why candidates were not measured on all prompts, to be filled.
        most: questions, each of which is tested once a rung, with its share of the error rate.
        floor: what the first candidate must be above.
    """

    context: Context
    state: RaceState
    pruned: dict[Candidate, str]
    most: int
    floor: float = 0.0

    def is_above(self, question: Question) -> Rounds[bool]:
        """On the prompts of the first rung that tells, else on all.

        The answer may be wrong where the two are within ``margin``.
        """
        options, everything = self.context.options, self.context.num_prompts
        level = options.level(everything, self.most + 1)
        for prompts in options.prompts(everything) if level else ():
            known = yield from self._measured(question, prompts)
            if known is not None:
                return known
            mine, other = (self._values(one, prompts) for one in (question.candidate, question.than))
            tests = [(mine, other), (other, mine)]
            below, above = (significantly_worse(*pair, everything, level, options.margin) for pair in tests)
            if above or below:
                answer = sum(mine) > sum(other) if above and below else above
                self._prune(question.than if answer else question.candidate, prompts)
                return answer
        known = yield from self._measured(question, everything)
        if known is not None:
            return known
        return self._value(question.candidate) > self._value(question.than)

    def winner(self, best: Candidate | None) -> Rounds[Candidate | None]:
        """The end of a walk, measured on all prompts; None where it cannot be used."""
        if best is not None:
            yield from self.state.measure([best], self.context.num_prompts)
        return None if best is None or self._value(best) == float("-inf") else best

    def _measured(self, question: Question, prompts: int) -> Rounds[bool | None]:
        """See that both are measured so far; the answer where one of them cannot be used."""
        for one in (question.than, question.candidate):
            if one is not None:
                yield from self.state.measure([one], prompts)
        if self._value(question.candidate) == float("-inf"):
            return False
        return True if self._value(question.than) == float("-inf") else None

    def _value(self, one: Candidate | None) -> float:
        """The objective on the prompts that it was measured on last."""
        result = None if one is None else self.state.result(one)
        return self.floor if result is None else result.value

    def _values(self, one: Candidate | None, prompts: int) -> tuple[float, ...]:
        result = None if one is None else self.state.result(one)
        return (self.floor,) * prompts if result is None else result.values[:prompts]

    def _prune(self, loser: Candidate | None, prompts: int) -> None:
        if loser is not None and self.state.seen(loser) < self.context.num_prompts:
            self.pruned[loser] = f"walk after {prompts} prompts"


def _rounds(stage: StageWalk, judge: Judge) -> Rounds[Candidate | None]:
    answer: bool | None = None
    while True:
        try:
            question = next(stage) if answer is None else stage.send(answer)
        except StopIteration as finished:
            return (yield from judge.winner(finished.value))
        answer = yield from judge.is_above(question)
