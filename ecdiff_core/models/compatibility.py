"""Whether two models can work together, by their config files before any weights are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import diffusers
from diffusers import SchedulerMixin

from ecdiff_core.errors import PairError, reason_of
from ecdiff_core.models.families import Family
from ecdiff_core.models.families.parts import part_class
from ecdiff_core.models.handoff import NoiseSchedule, only_matched
from ecdiff_core.models.weight_files import missing_file, part_path


class Verdict(Enum):
    """Of a row."""

    OK = "ok"
    CONVERTIBLE = "convertible"
    REFUSED = "refused"


@dataclass(frozen=True)
class Row:
    """One property of both models, and whether the edge can go on from the cloud with it."""

    name: str
    cloud: str
    edge: str
    verdict: Verdict
    why: str = ""


_MATCHED = "with sampling.handoff_adapter=matched"
NEEDS_MATCHED = "refused with identity: set sampling.handoff_adapter=matched"
"""Why a row is convertible, and without it refused."""
_TEXT_KEYS = ("model_type", "hidden_size", "num_hidden_layers", "d_model", "num_layers", "vocab_size")


def compare(cloud: Path, edge: Path, family: type[Family]) -> list[Row]:
    """Every property that matters, for two diffusers folders of one family.

    Raises:
        PairError: a config file is missing or damaged.
    """
    rows = [
        _equal(name, _values(cloud, family, keys), _values(edge, family, keys), why)
        for name, (keys, why) in family.must_agree.items()
    ]
    rows += [
        Row(name, ours, theirs, Verdict.OK, "" if ours == theirs else why)
        for name, (keys, why) in family.may_differ.items()
        for ours, theirs in [(_values(cloud, family, keys), _values(edge, family, keys))]
    ]
    if has_schedule(edge):
        rows += _schedule_rows(cloud, edge)
    else:
        rows.append(
            Row("noise schedule", _schedule_text(cloud), "none", Verdict.OK, "the cloud's is assumed")
        )
    absent = family.absent_parts(cloud)
    rows += [_text_row(cloud, edge, part) for part in family.text_encoder_parts if part not in absent]
    rows += [
        Row(part, "none", _text_shown(edge, part), Verdict.OK, "the cloud does without it")
        for part in family.text_encoder_parts
        if part in absent
    ]
    return rows


def refusals(rows: list[Row]) -> list[str]:
    """The refused rows, a phrase each."""
    return [f"{r.name} {r.cloud} | {r.edge} ({r.why})" for r in rows if r.verdict is Verdict.REFUSED]


def check_rows(rows: list[Row]) -> None:
    """Raise PairError where a row is refused."""
    wrong = refusals(rows)
    if wrong:
        line = f"Cloud and edge do not fit together (cloud | edge): {'; '.join(wrong)}."
        got = {r.name: f"{r.cloud} | {r.edge}" for r in rows if r.verdict is Verdict.REFUSED}
        raise PairError(line, key="pair", got=got)


def read_config(folder: Path, part: str) -> dict[str, Any]:
    """A part's config.json (of a scheduler, scheduler_config.json).

    Raises:
        PairError: it is missing or damaged.
    """
    path = part_path(folder, part) / ("scheduler_config.json" if part == "scheduler" else "config.json")
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise missing_file(path) from error
    except ValueError as error:
        raise PairError(f"{path} is damaged: it is not JSON.", key=str(path)) from error
    if not isinstance(tree, dict):
        line = f"{path} is damaged: expected a mapping, got {type(tree).__name__}."
        raise PairError(line, key=str(path), got=tree, expected="a mapping")
    return tree


def whole_config(folder: Path, part: str) -> dict[str, Any]:
    """``read_config`` of a model, with the class's defaults for what the file leaves out.

    Raises:
        PairError: as ``read_config``, and for a class that is not known.
    """
    config = read_config(folder, part)
    try:
        model_class: Any = part_class(folder, part)
        if hasattr(model_class, "config_class") and model_class.config_class is not None:  # transformers
            return dict(model_class.config_class.from_dict(config).to_dict())
    except (ValueError, TypeError) as error:
        path = part_path(folder, part) / "config.json"
        raise PairError(f"{path} cannot be used: {error}", key=str(path)) from error
    defaults = signature(model_class.__init__).parameters.items()
    return {**{name: p.default for name, p in defaults if p.default is not Parameter.empty}, **config}


def load_scheduler(folder: Path) -> SchedulerMixin:
    """The scheduler that a model came with.

    Raises:
        PairError: its config is missing, damaged or of an unknown class.
    """
    name = read_config(folder, "scheduler").get("_class_name")
    scheduler_class: Any = getattr(diffusers, str(name), None)
    if scheduler_class is None or not str(name).endswith("Scheduler"):
        path = folder / "scheduler"
        raise PairError(f"{path}: diffusers has no scheduler {name!r}.", key=str(path), got=name)
    try:
        scheduler: SchedulerMixin = scheduler_class.from_pretrained(folder, subfolder="scheduler")
    except Exception as error:  # whatever a scheduler raises of its settings, or a package that it needs
        path = folder / "scheduler" / "scheduler_config.json"
        line = f"{path} cannot be used by {name} ({reason_of(error)})."
        raise PairError(line, key=str(path), got=name) from error
    return scheduler


def noise_schedule(folder: Path, cloud: Path) -> NoiseSchedule | None:
    """A model's noise schedule, its scaling the cloud's where it has no VAE; None for flow matching."""
    return NoiseSchedule.of(load_scheduler(folder), _vae_config(folder, cloud)["scaling_factor"])


def has_schedule(folder: Path) -> bool:
    """Whether a folder tells how its model's noisy latents are made; an edge of a denoiser alone does not."""
    return (folder / "scheduler").is_dir()


def _vae_config(folder: Path, cloud: Path) -> dict[str, Any]:
    return whole_config(folder if (folder / "vae").is_dir() else cloud, "vae")


def _values(folder: Path, family: type[Family], keys: tuple[str, ...]) -> str:
    config = whole_config(folder, family.denoiser_part)
    return ", ".join(str(config.get(key)) for key in keys)


def _equal(name: str, cloud: str, edge: str, why: str) -> Row:
    same = cloud == edge
    return Row(name, cloud, edge, Verdict.OK if same else Verdict.REFUSED, "" if same else why)


def _schedule_rows(cloud: Path, edge: Path) -> list[Row]:
    vaes = [_vae_config(folder, cloud) for folder in (cloud, edge)]
    ours, theirs = (str(vae.get("latent_channels")) for vae in vaes)
    rows = [_equal("autoencoder's channels", ours, theirs, "the latents are of another autoencoder")]
    moved = ("shift_factor", "latents_mean", "latents_std")
    factors = [
        ", ".join([str(vae.get("scaling_factor")), *(f"{key} {vae[key]}" for key in moved if vae.get(key))])
        for vae in vaes
    ]
    schedules = [noise_schedule(folder, cloud) for folder in (cloud, edge)]
    convertible = all(schedules) and all(vaes[0].get(key) == vaes[1].get(key) for key in moved)
    predictions = [_prediction(folder) for folder in (cloud, edge)]
    terms = [_schedule_text(folder) for folder in (cloud, edge)]
    needed = {"prediction type": "prediction type", "num_train_timesteps": "noise schedule"}
    found = only_matched(*schedules)
    for name, (ours, theirs) in (
        ("latent scaling", factors),
        ("prediction type", predictions),
        ("noise schedule", terms),
    ):
        if ours == theirs:
            rows.append(Row(name, ours, theirs, Verdict.OK))
        elif convertible:
            why = NEEDS_MATCHED if found and needed[found[0]] == name else _MATCHED
            rows.append(Row(name, ours, theirs, Verdict.CONVERTIBLE, why))
        else:
            why = "nothing converts between the two"
            rows.append(Row(name, ours, theirs, Verdict.REFUSED, why))
    return rows


def _prediction(folder: Path) -> str:
    scheduler = load_scheduler(folder)
    # Consistency models have no name for it: what they make of noisy latents is the clean ones.
    unnamed = "sample" if "sigma_data" in scheduler.config else "epsilon"
    return "flow" if _is_flow(scheduler) else str(scheduler.config.get("prediction_type", unnamed))


def _is_flow(scheduler: SchedulerMixin) -> bool:
    """Whether the model was trained by rectified flow; UniPC and DPM++ have betas as well, and use none."""
    if hasattr(scheduler, "alphas_cumprod"):
        return bool(scheduler.config.get("prediction_type") == "flow_prediction")
    return "sigma_data" not in scheduler.config


def _schedule_text(folder: Path) -> str:
    """The noise schedule in words, equal for two models only where it is."""
    scheduler = load_scheduler(folder)
    config: Mapping[str, Any] = scheduler.config
    if _is_flow(scheduler):  # its shift only chooses the timesteps, for which the cloud's is used
        return "rectified flow"
    if "sigma_data" in config:  # EDM (arXiv 2206.00364) and what was distilled from it
        return (
            f"EDM, sigma {config.get('sigma_min')} … {config.get('sigma_max')}, data {config['sigma_data']}"
        )
    words = str(config["beta_schedule"])
    if "beta_start" in config:  # UnCLIP's have no choice of them
        words += f" {config['beta_start']} … {config['beta_end']}"
    if config["num_train_timesteps"] != 1000:
        words += f", {config['num_train_timesteps']} timesteps"
    if config.get("trained_betas") is not None:
        words += f", betas {list(config['trained_betas'])}"
    if config.get("snr_shift_scale") is not None:
        words += f", SNR shift {config['snr_shift_scale']}"
    if config.get("rescale_betas_zero_snr"):
        words += ", zero terminal SNR"
    return words


def _text_row(cloud: Path, edge: Path, part: str) -> Row:
    ours, shown = whole_config(cloud, part), (_text_shown(cloud, part), _text_shown(edge, part))
    if not (edge / part).is_dir():
        return Row(part, *shown, Verdict.OK, "the cloud's embeddings are sent")
    theirs = whole_config(edge, part)
    same = all(ours.get(key) == theirs.get(key) for key in _TEXT_KEYS)
    why = "" if same else "the edge was trained on other embeddings than the cloud's"
    return Row(part, *shown, Verdict.OK if same else Verdict.REFUSED, why)


def _text_shown(folder: Path, part: str) -> str:
    if not (folder / part).is_dir():
        return "none"
    config = whole_config(folder, part)
    name = (config.get("architectures") or [config.get("model_type", "?")])[0]
    return f"{name} {config.get('hidden_size') or config.get('d_model')}"
