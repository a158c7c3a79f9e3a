"""Everything that a command works with: prompts, folder, models, latency profile, reference."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path

from filelock import FileLock, Timeout
from torch import Tensor

from ecdiff_core.devices import device_name, get_dtype
from ecdiff_core.memory import Batches, keep_freed_memory
from ecdiff_core.pair import EMBEDDED, load_pair
from ecdiff_core.params import ECDiffParams
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.plan import HandoffAdapter
from ecdiff_core.tuned_config import TunedConfig
from ecdiff_tune import batch_size, calibration, latency, ranks, reference
from ecdiff_tune.calibration import CalibrationSet
from ecdiff_tune.candidate import Candidate
from ecdiff_tune.crew import Crew
from ecdiff_tune.edge_along import EdgeAlong
from ecdiff_tune.evaluator import Evaluator
from ecdiff_tune.latency import LatencyProfile
from ecdiff_tune.ledger import Ledger
from ecdiff_tune.objective import Weights, efficiency
from ecdiff_tune.optuna_setup import agree
from ecdiff_tune.predict import PREDICTING, Predictor
from ecdiff_tune.progress import Progress, duration
from ecdiff_tune.reference import Reference
from ecdiff_tune.search.base import Records
from ecdiff_tune.settings import AUTO, REFERENCE_FOLDER, Settings
from ecdiff_tune.spending import CALLS_FILE, HELDOUT_REFERENCE, KINDS, REFERENCE, Spending
from ecdiff_tune.state_store import StateStore
from ecdiff_tune.study import Scorer
from ecdiff_tune.study_folder import STATE_FILE, StudyFolder, read_state, study_path
from ecdiff_tune.thumbnails import FIRST, Thumbnails


@dataclass(frozen=True)
class Workbench:
    """A study that is ready to be worked on."""

    settings: Settings
    path: Path
    created: str
    pipe: ECDiffPipeline
    prompts: CalibrationSet
    heldout: CalibrationSet
    latency: LatencyProfile
    ledger: Ledger
    progress: Progress
    reference: Reference
    reference_folder: Path
    batches: Batches
    store: StateStore | None
    spending: Spending

    @property
    def wallclock(self) -> bool:
        """Whether trials are timed instead of estimated."""
        return self.settings.latency == "wallclock"

    def p(self) -> int:
        """The warm-up as set, or read off the noise profile; at most the smallest s."""
        if self.settings.params.p != AUTO:
            return int(self.settings.params.p)
        return reference.auto_p(self.reference.noise_change, min(self.settings.s_values))

    def predict(self, candidates: Sequence[Candidate]) -> list[float]:
        """The quality of candidates, foretold from the reference and an edge pass, which is made if need be.

        Raises:
            UnpredictableError: nothing can be foretold with this scheduler or this pair.
        """
        return self.predictor.qualities(candidates)

    @cached_property
    def predictor(self) -> Predictor:
        """What foretells errors and qualities.

        Raises:
            UnpredictableError: nothing can be foretold with this scheduler or this pair.
        """
        calls = self.spending.calls
        along = EdgeAlong(self.pipe, self.prompts, self.reference_folder, calls=calls)

        def passes(adapter: HandoffAdapter) -> list[dict[str, Tensor]]:
            with self.spending.part(REFERENCE):
                return make_edge_along(along, adapter, self.batches, self.progress)

        handoff = self.pipe.config.sampling.handoff
        return Predictor.of(self.pipe.scheduler, handoff, self.reference, passes, along.own_adapter)

    def scorer(self) -> Scorer:
        """Measurements to scores, by this study's weights and latency."""
        objective = self.settings.objective
        weights = Weights(objective.w1, objective.w2, objective.w3)
        timed = self.reference if self.wallclock else None
        return Scorer.of(self.latency, weights, self.settings.earliest_s, timed)

    @cached_property
    def evaluator(self) -> Evaluator:
        """Measures candidates on the calibration set; one for all stages, which share what they can."""
        return self._evaluator(self.prompts, self.reference, self.store)

    def heldout_evaluator(self) -> Evaluator:
        """Measures candidates on the held-out set, whose reference is made now if need be."""
        return self._evaluator(self.heldout, self.heldout_reference(), None)

    def heldout_reference(self) -> Reference:
        """Of the held-out set, made now if need be."""
        with self.spending.part(HELDOUT_REFERENCE):
            return make_reference(
                self.pipe,
                self.heldout,
                self.reference_folder,
                self.batches,
                self.latency,
                self.progress,
                self.spending.calls,
                "reference of the held-out prompts",
            )

    def _evaluator(self, prompts: CalibrationSet, made: Reference, store: StateStore | None) -> Evaluator:
        return Evaluator(
            self.pipe,
            prompts,
            made,
            self.ledger,
            batches=self.batches,
            store=store,
            s_values=self.settings.s_values,
            calls=self.spending.calls,
            thumbnails=thumbnails(self.settings) if prompts is self.prompts else None,
        )

    def records(self) -> Records:
        """What is kept of candidates, for an Optuna study."""
        evaluator, kept = self.evaluator, thumbnails(self.settings)
        clouds = cache(lambda: [one.cloud for one in self.reference.prompts[:FIRST]])

        def picture(candidate: Candidate) -> Path | None:
            return None if kept is None else kept.sheet(evaluator.key(candidate), clouds())

        return Records(evaluator.known, evaluator.learn, picture)


@contextmanager
def prepare(settings: Settings) -> Iterator[Workbench]:
    """Make a study ready, from the cheapest check to the dearest step; the folder is locked meanwhile.

    Raises:
        ECDiffError: something that the user can mend.
    """
    prompts, heldout = calibration.load(settings)
    begun = StudyFolder.of_worker(settings) if settings.has_workers else StudyFolder(settings)
    with begun as folder, Progress() as progress:
        settings = folder.settings
        crew = Crew(settings, prompts, heldout)
        pipe = load_pipe(settings)
        spec = pipe.pair.spec
        crew.check(spec)
        created = folder.claim(spec, prompts.digest, str(pipe.device))
        progress.say(_opening(settings, pipe, len(prompts), len(heldout)))
        if (folder.path / "ledger.sqlite").is_file():
            progress.say(f"going on with the study of {created}: what it measured is not generated again")
        if pipe.pair.convertible and settings.sampling.handoff_adapter == "identity":
            names = ", ".join(f"{r.name} {r.cloud} | {r.edge}" for r in pipe.pair.convertible)
            progress.say(
                f"note: cloud and edge differ in {names}; sampling.handoff_adapter=matched converts."
            )
        if settings.calibration.file is None and not settings.pair.cloud.startswith(EMBEDDED):
            progress.say(
                "note: without calibration.file the prompts are captions of the embedded pair's scenes; "
                "give a file of your own."
            )
        spending = Spending(folder.path / CALLS_FILE)
        with spending.part("latency"):
            profile = _latency_profile(folder, pipe, progress, spending.calls)
        where = reference_folder(settings, pipe)
        timed = settings.latency == "wallclock"
        with spending.part("batch size"):
            size = 1 if timed else _batch_size(folder.path, pipe, settings, len(prompts), progress, spending)
        if crew.count > 1:
            progress.say(crew.told(len(prompts), size))
        batches = crew.batches(size, progress.say)
        with (
            closing(Ledger(folder.path / "ledger.sqlite", settings.sampling.handoff_adapter)) as ledger,
            crew.store(state_folder(settings), states_bytes(settings)) as store,
        ):
            calls = spending.calls
            predicting = settings.search.name in PREDICTING
            along = EdgeAlong(pipe, prompts, where, calls=calls) if predicting else None
            with spending.part(REFERENCE):
                made = make_reference(pipe, prompts, where, batches, profile, progress, calls, along=along)
            yield Workbench(
                settings,
                folder.path,
                created,
                pipe,
                prompts,
                heldout,
                profile,
                ledger,
                progress,
                made,
                where,
                batches,
                None if timed or settings.sharing == "off" else store,
                spending,
            )


def make_reference(
    pipe: ECDiffPipeline,
    prompts: CalibrationSet,
    where: Path,
    batches: Batches,
    profile: LatencyProfile,
    progress: Progress,
    calls: Counter[str],
    what: str = REFERENCE,
    along: EdgeAlong | None = None,
) -> Reference:
    """The reference of a prompt set, with how much there is to do and progress.

    ``along`` makes its edge passes of the prompts whose reference is made; ``calls`` counts model calls.
    Studies that run side by side wait for each other here, so that what they share is made once.
    """
    where.mkdir(parents=True, exist_ok=True)
    turn = FileLock(where / ".lock")
    with suppress(Timeout):
        turn.acquire(timeout=0)
    if not turn.is_locked:
        progress.say(f"{what}: another process is making it; waiting")
        turn.acquire()
    try:
        return _make_reference(pipe, prompts, where, batches, profile, progress, calls, what, along)
    finally:
        turn.release()


def _make_reference(
    pipe: ECDiffPipeline,
    prompts: CalibrationSet,
    where: Path,
    batches: Batches,
    profile: LatencyProfile,
    progress: Progress,
    calls: Counter[str],
    what: str,
    along: EdgeAlong | None,
) -> Reference:
    missing = reference.missing(prompts, where)
    passes = set(along.missing(along.own_adapter)) & set(missing) if along else ()
    cloud, edge = len(missing) * pipe.num_steps, (len(missing) + len(passes)) * pipe.num_steps
    if missing:
        seconds = cloud * profile.cloud_call.median + edge * profile.edge_call.median
        progress.say(f"{what}: {cloud:,} cloud and {edge:,} edge calls, about {duration(seconds)}")
    progress.start_task(f"{what} (cloud's and edge's pictures)", len(prompts))
    return reference.make(
        pipe,
        prompts,
        where,
        batches=batches,
        on_prompts=progress.prompts_done,
        listener=along,
        calls=calls,
    )


def make_edge_along(
    along: EdgeAlong, adapter: HandoffAdapter, batches: Batches, progress: Progress
) -> list[dict[str, Tensor]]:
    """Edge passes along the cloud's trajectories, with how much there is to do and progress."""
    missing = along.missing(adapter)
    if missing:
        cloud, edge = along.missing_calls(adapter)
        progress.say(f"edge along the cloud's trajectory: {cloud:,} cloud and {edge:,} edge calls")
        progress.start_task("edge along the cloud's trajectory", len(along.prompts.keys[: along.first]))
    return along.make(adapter, batches, progress.prompts_done if missing else lambda _: None)


def load_pipe(settings: Settings) -> ECDiffPipeline:
    """The pair, on this process's device.

    Raises:
        ECDiffError: it cannot be loaded, or not do what the settings ask for, the search's included.
    """
    sampling, device = settings.core_sampling(), ranks.own_device(settings.device)
    if device.type == "cpu":
        keep_freed_memory()
    pair = load_pair(
        settings.pair_spec(),
        device=device,
        dtype=get_dtype(settings.dtype),
        memory=settings.core_memory(),
    )
    whole = ECDiffParams.cloud_only(sampling.num_steps)
    pipe = ECDiffPipeline(pair, TunedConfig(pair.spec, whole, sampling))
    for adapter in settings.handoff_adapters:  # before anything is generated
        pipe.check_adapter(adapter)
    return pipe


def _opening(settings: Settings, pipe: ECDiffPipeline, prompts: int, heldout: int) -> str:
    pair = pipe.pair
    cloud, edge = (sum(p.numel() for p in m.parameters()) / 1e6 for m in (pair.cloud, pair.edge))
    return (
        f"pair {settings.pair.name}: cloud {cloud:.1f} M, edge {edge:.1f} M parameters; "
        f"{prompts} prompts to tune on, {heldout} held out; "
        f"{settings.num_steps} {settings.sampling.scheduler} steps on {pipe.device}"
    )


def _latency_profile(
    folder: StudyFolder, pipe: ECDiffPipeline, progress: Progress, calls: Counter[str]
) -> LatencyProfile:
    """The study's latency profile: measured once, so that a resumed study goes by the same seconds."""
    path, settings = folder.path / "latency.json", folder.settings
    known = LatencyProfile.load(path) if path.is_file() else None

    def own() -> LatencyProfile:
        if known:
            return known
        calls.update(dict.fromkeys(KINDS, latency.CALLS))
        return latency.measure(pipe, settings.core_link(), take_turns=settings.offload == "none")

    profile = (
        agree(settings, read_state(folder.path / STATE_FILE)["settings"], own)
        if settings.has_workers
        else own()
    )
    efficiency(0.0, *profile.alone(settings.num_steps))  # a pair that eq. 10 has no meaning for ends here
    if profile != known:
        profile.save(path)
    cloud, edge = profile.cloud_call.median * 1e3, profile.edge_call.median * 1e3
    progress.say(
        f"latency: cloud call {cloud:.1f} ms, edge call {edge:.1f} ms ({edge / cloud:.2f} of it), "
        f"encode {profile.encode.median * 1e3:.1f} ms, decode {profile.decode.median * 1e3:.1f} ms, "
        f"transfer {profile.transfer_seconds * 1e3:.1f} ms"
    )
    return profile


def _batch_size(
    folder: Path,
    pipe: ECDiffPipeline,
    settings: Settings,
    prompts: int,
    progress: Progress,
    spending: Spending,
) -> int:
    """As set; ``auto`` is found once, so that a resumed study goes on with the same."""
    if settings.batch_size != AUTO:
        return int(settings.batch_size)

    def find() -> dict[int, float]:
        return batch_size.throughputs(pipe, prompts, spending.calls)

    return batch_size.kept(folder / "batch_size.json", find, progress.say)


def thumbnails(settings: Settings) -> Thumbnails | None:
    """Where pictures of configs are kept; of searches that show them."""
    return Thumbnails(study_path(settings) / "thumbnails") if settings.search.name == "optuna" else None


def state_folder(settings: Settings) -> Path:
    """For states that do not fit into memory."""
    return study_path(settings) / ".states"


def states_bytes(settings: Settings) -> int:
    """Of host memory for states; the ranks of a machine share what the setting allows."""
    return round(settings.sharing_gib * 2**30 / int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def reference_folder(settings: Settings, pipe: ECDiffPipeline) -> Path:
    """Where references of these weights and sampling settings lie, which studies share."""
    sampling = asdict(pipe.sampling)
    for unused in ("handoff", "estimator"):
        sampling.pop(unused)
    spec = pipe.pair.spec
    told = {
        "weights": [spec.cloud.fingerprint, spec.edge.fingerprint],
        "sampling": sampling,
        "device": pipe.device.type,
        "timed": [settings.offload, device_name(pipe.device)] if settings.latency == "wallclock" else False,
        "vae_tiling": settings.vae_tiling,
    }
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
    return Path(settings.output_dir) / settings.pair.name / REFERENCE_FOLDER / digest
