"""``tune method=NAME``: the values of an acceleration, or of several that compete."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from ecdiff_core.errors import ConfigError, ParamsError
from ecdiff_core.io.atomic_files import write_text
from ecdiff_core.methods import METHODS, get_method
from ecdiff_core.methods.choice import MethodChoice
from ecdiff_core.methods.in_pair import accelerated, why_not
from ecdiff_core.methods.method import Values
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_tune.cli.finish import example
from ecdiff_tune.cli.study_spec import study_spec
from ecdiff_tune.config import Settings, SettingsError
from ecdiff_tune.config.command_groups import AccelerationSettings
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.methods import verdict
from ecdiff_tune.methods.calibrate import ratios
from ecdiff_tune.methods.measure import MethodMeasurer, Runs
from ecdiff_tune.methods.seen import NO_FLOOR, DialResult, Floor, judge
from ecdiff_tune.methods.tuning import Tuned, Winner, time_side_by_side, tune
from ecdiff_tune.methods.winner_config import config_of
from ecdiff_tune.study import files
from ecdiff_tune.study.open_study import COMMAND_LINE, Caller, OpenStudy, open_study
from ecdiff_tune.study.process_setup import LoadedPair
from ecdiff_tune.study.references import References

LEAST_MEAN, LEAST_WORST = 0.95, 0.8
"""What a setting must keep where neither a floor nor a present setting is given: SSIM."""


def accelerate(settings: Settings, caller: Caller = COMMAND_LINE) -> None:
    """Tune the methods of ``method``; the fastest becomes accelerated.yaml.

    Raises:
        ECDiffError: something that the user can act on.
    """
    names = settings.methods
    fixed = dict(settings.acceleration.values or {})
    if fixed and len(names) > 1:
        line = "acceleration.values belong to one method: name it, method=NAME."
        raise SettingsError(line, key="acceleration.values", got=names)
    try:
        for name in names:
            get_method(name).complete(fixed)
        with open_study(study_spec(settings, accelerates=True), caller=caller) as (study, pair, references):
            runs = Runs(study.path / files.METHODS / files.RUNS)
            found: dict[str, Tuned] = {}
            for name in _usable(names, fixed, pair.pipe, study.progress.log):
                with study.spending.part(name):
                    found[name] = _tune(settings, name, fixed, (study, pair, references), runs)
            _finish(settings, found, (study, pair, references), runs)
    except ParamsError as error:
        raise error.renamed("method.values", "acceleration.values") from error.__cause__


Opened = tuple[OpenStudy, LoadedPair, References]


def _usable(
    names: Sequence[str], fixed: Values, pipe: ECDiffPipeline, log: Callable[[str], None]
) -> list[str]:
    """The methods that can be used with the cloud model, each put into it once: what is wrong with the values
    that are given is known before anything is generated.

    Raises:
        ParamsError: the values do not fit the model or T.
        ConfigError: none can be used.
    """
    scale = pipe.config.sampling.guidance_scale
    reasons = {}
    for name in names:
        if reason := why_not(MethodChoice(name), pipe.pair, pipe.num_steps):
            reasons[name] = reason
            log(f"left out: {name} ({reason})")
        elif set(get_method(name).calibrated) <= set(fixed):
            with accelerated(pipe.pair, MethodChoice(name, fixed), pipe.num_steps, scale, pipe.scheduler):
                pass
    if len(reasons) == len(names):
        why = "; ".join(f"{name} ({reason})" for name, reason in reasons.items())
        line = f"The cloud model takes no method that is asked for: {why}."
        others = [one for one in METHODS if one not in names]
        raise ConfigError(line, key="method", got=names, expected=others)
    return [name for name in names if name not in reasons]


def _measurer(opened: Opened, reference: Reference, runs: Runs) -> MethodMeasurer:
    study, pair, _ = opened
    return MethodMeasurer(pair.pipe, reference, study.ledger, runs, pair.batches, study.spending.calls)


def _tune(settings: Settings, name: str, fixed: Values, opened: Opened, runs: Runs) -> Tuned:
    study, pair, references = opened
    method, calibration, given = get_method(name), references.calibration, settings.acceleration
    prompts, where = calibration.prompt_set, study.path / files.METHODS / f"{name}.json"
    known = {**ratios(method, pair.pipe, prompts, where, study.spending.calls), **fixed}

    def floor(present: DialResult | None) -> Floor:
        return _floor(given, present)

    log = study.progress.log
    log(f"{method.label} ({method.source}), searching {method.dial}")
    presets = method.presets(pair.pipe.num_steps)
    return tune(method, known, _measurer(opened, calibration, runs), len(prompts), floor, log, presets)


def _floor(given: AccelerationSettings, present: DialResult | None) -> Floor:
    """What is to be kept: as asked for, else what the present setting keeps."""
    mean, worst = (LEAST_MEAN, LEAST_WORST) if present is None else (present.quality, present.worst)
    return Floor(
        mean if given.min_quality is None else given.min_quality,
        worst if given.min_worst is None else given.min_worst,
    )


def _asked(given: AccelerationSettings, floor: Floor) -> Floor:
    """Of a floor what was not read off a present setting, which other prompts need not keep either."""
    asked = _floor(given, None)
    return Floor(
        asked.mean if floor.mean == asked.mean else NO_FLOOR.mean,
        asked.worst if floor.worst == asked.worst else NO_FLOOR.worst,
    )


def _finish(settings: Settings, found: dict[str, Tuned], opened: Opened, runs: Runs) -> None:
    """Seconds side by side, held-out scores, a YAML a method, the table, and which is fastest."""
    study, pair, references = opened
    folder, lines = study.path / files.METHODS, [line for one in found.values() for line in one.findings]

    def log(line: str) -> None:
        study.progress.log(line)
        lines.append(line)

    table = pd.concat([one.table() for one in found.values()])
    write_text(folder / files.METHODS_TABLE, table.to_csv(index=False))
    winners = {name: one.winner for name, one in found.items() if one.winner is not None}
    for name in [name for name in found if name not in winners]:
        floor = found[name].floor
        log(f"{get_method(name).label}: no setting that does something keeps {floor}, or is expected to")
        (folder / f"{name}.yaml").unlink(missing_ok=True)  # an earlier command's, of another floor
    prompts, count = references.calibration.prompt_set, settings.acceleration.timed_prompts
    presents = [(one.present, one.floor) for one in found.values() if one.present is not None]
    timed = list(dict.fromkeys(one.choice for one in (*(one for one, _ in presents), *winners.values())))
    off, seconds = math.inf, dict[MethodChoice, float]()
    saved: list[Path] = []
    if timed:
        with study.spending.part("seconds"):
            ledger, calls = study.ledger, study.spending.calls
            off, seconds = time_side_by_side(pair.pipe, timed, prompts, count, ledger, calls)
    for name, winner in winners.items():
        heldout = _heldout(opened, winner, runs)
        how = {
            "study": study.spec.name,
            "search": f"dial {winner.choice.method.dial}",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "calibration": {"num_prompts": len(prompts), "digest": prompts.digest},
        }
        base = replace(pair.pipe.config, sampling=pair.pipe.sampling)
        base = replace(base, scheduler_config=pair.pipe.scheduler_config)
        config = config_of(base, winner, seconds[winner.choice], off, heldout, how, settings.seed)
        config.save(folder / f"{name}.yaml")
        saved.append(folder / f"{name}.yaml")
        log(verdict.about(winner.choice, winner.result, len(prompts), others=True))
        if heldout is not None and config.score is not None:
            interval = config.score["heldout"]["quality_ci95"] or (math.nan, math.nan)
            for line in verdict.held_out(heldout, interval, _asked(settings.acceleration, found[name].floor)):
                log(f"  {line}")
        log(f"  {verdict.speed(winner.choice.method.label, seconds[winner.choice], off)}")
    faster = {name: seconds[one.choice] for name, one in winners.items() if seconds[one.choice] < off}
    best = min(faster, key=faster.__getitem__, default=None)
    for present, floor in presents:
        other = None if best is None else winners[best].choice
        log(verdict.answer(present.choice, present.result, seconds, off, other, floor))
    target = study.path / files.ACCELERATED
    if best is not None:
        write_text(target, (folder / f"{best}.yaml").read_text(encoding="utf-8"))
        saved.insert(0, target)
    else:
        if winners:
            log("no setting that keeps the floor is faster than off")
        if target.is_file():
            log(f"removed {target} of an earlier command; that of each method is in {folder}")
            target.unlink()
    write_text(folder / files.METHODS_FINDINGS, "".join(f"{line.strip()}\n" for line in lines))
    log(study.spending.describe())
    log("wrote " + ", ".join(map(str, [*saved, folder / files.METHODS_TABLE])))
    if faster:
        log(
            f"next: python -m ecdiff_core generate --config {shlex.quote(str(saved[0]))} "
            f"{example(prompts.prompts)}"
        )


def _heldout(opened: Opened, winner: Winner, runs: Runs) -> DialResult | None:
    study, _, references = opened
    if not len(references.heldout_prompts):
        return None
    with study.spending.part("held-out"):
        measurer = _measurer(opened, references.heldout, runs)
        count, value = len(references.heldout.prompt_set), winner.choice.values[winner.choice.method.dial]
        return judge(value, lambda _, first: measurer.measure(winner.choice, first), count, NO_FLOOR, True)
