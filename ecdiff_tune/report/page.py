"""``report``: one HTML page about a study, which opens without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ecdiff_core.io.files import write_text
from ecdiff_core.io.text import visible
from ecdiff_tune.data.conf_folder import config_folder
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.report import (
    charts,
    experiments,
    gallery,
    headline,
    provenance,
    search_cost,
    sensitivity,
    sortable,
    study_data,
    tradeoff,
)
from ecdiff_tune.report.command_line import command
from ecdiff_tune.report.study_data import StudyData
from ecdiff_tune.report.time_bars import bars
from ecdiff_tune.study import files
from ecdiff_tune.study.progress import describe
from ecdiff_tune.study.recorded import Recorded

STATIC = Path(__file__).parent / "static"


def write(record: Recorded) -> Path:
    """Write the page of a study; its path.

    Raises:
        ECDiffError: as ``study_data.of``.
    """
    data = study_data.of(record)
    page = record.path / files.PAGE
    write_text(page, html(data))
    return page


def html(data: StudyData) -> str:
    """The whole page, pictures and styles inside."""
    jinja = Environment(
        loader=FileSystemLoader(STATIC),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters["seconds"] = headline.seconds_text
    jinja.filters["score"] = lambda value: shown(value, 3)
    style, script = (Markup((STATIC / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js"))
    return jinja.get_template("page.html").render(style=style, script=script, **view(data))


def _shown(value: Any) -> Any:
    """Texts without control characters and marks of direction, which would reach beyond themselves."""
    return visible(value, "\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value


def view(data: StudyData) -> dict[str, Any]:
    """What the template shows."""
    record, pairs = data.record, config_folder() / "pair"
    limits = data.spec.options.optuna
    compared, sweeps = experiments.methods_compared(data.path), sensitivity.sweeps(record)
    return {
        "data": data,
        "describe": describe,
        "command": lambda name: command(name, data.spec, pairs),
        "sentence": headline.sentence(data),
        "tiles": headline.tiles(data),
        "gallery": gallery.read(data.path),
        "gain": gallery.GAIN,
        "search_plots": charts.search_plots(data.trials, limits.min_quality, limits.max_seconds),
        "left_out": charts.left_out(data.trials),
        "tradeoff": tradeoff.tradeoff(data, compared.points),
        "configs": sortable.configs(data),
        "noise": charts.noise_profile(data),
        "errors": experiments.latent_errors(data.path),
        "compared": compared,
        "bars": bars(data),
        "costs": search_cost.costs(data),
        "sweeps": sweeps,
        "sweep_styles": sensitivity.styles(sweeps, data.winner.candidate),
        "sensitivity": sortable.sensitivity(sweeps),
        "spread": charts.spread(data),
        "heldout": sortable.heldout(data),
        "verdict": headline.verdict(data),
        "prompts": sortable.prompts(data),
        "provenance": provenance.provenance(data),
    }
