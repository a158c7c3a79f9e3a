"""``report``: one HTML page about a study, which opens without a network."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from ecdiff_core.io.atomic_files import write_text
from ecdiff_core.io.text import visible
from ecdiff_tune.metrics.score_format import shown
from ecdiff_tune.report import (
    costs,
    experiments,
    figures,
    gallery,
    headline,
    quality_seconds,
    result,
    sensitivity,
    sortable,
    study_data,
    study_figures,
)
from ecdiff_tune.report.figure_files import inline
from ecdiff_tune.report.paper_figures import noise_change
from ecdiff_tune.report.study_data import StudyData
from ecdiff_tune.study import files
from ecdiff_tune.study.progress import describe
from ecdiff_tune.study.recorded import Recorded


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
    """The whole page, images and styles inside."""
    return render("page.html", view(data))


def render(template: str, values: Mapping[str, Any]) -> str:
    """One of the pages with what it shows, styles inside."""
    style, script = (
        Markup((figures.STATIC / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js")
    )
    return _template(template).render(style=style, script=script, **values)


@cache
def _template(name: str) -> Template:
    jinja = Environment(
        loader=FileSystemLoader(figures.STATIC),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters["seconds"] = headline.seconds_text
    jinja.filters["score"] = lambda value: shown(value, 3)
    return jinja.get_template(name)


def _shown(value: Any) -> Any:
    """Texts without control characters and marks of direction, which would reach beyond themselves."""
    return visible(value, "\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value


def view(data: StudyData) -> dict[str, Any]:
    """What the template shows."""
    record, limits = data.record, data.spec.options.optuna
    compared, sweeps = experiments.methods_compared(data.path), sensitivity.sweeps(record)
    warm_up = data.winner.candidate.params.warm_up
    return {
        "data": data,
        "describe": describe,
        "inline": inline,
        "command": lambda name: result.command(name, data.spec),
        "sentence": headline.sentence(data),
        "tiles": headline.tiles(data),
        "gallery": gallery.read(data.path),
        "gain": gallery.GAIN,
        "searched": study_figures.search_figures(data.trials, limits.min_quality, limits.max_seconds),
        "left_out": study_figures.left_out(data.trials),
        "tradeoff": quality_seconds.tradeoff(data, compared.spots),
        "configs": sortable.configs(data),
        "noise": None if data.noise is None or data.noise.empty else noise_change(data.noise, warm_up),
        "errors": experiments.latent_errors(data.path),
        "compared": compared,
        "accelerated": experiments.accelerations(data.path),
        "bars": costs.bars(data),
        "costs": costs.costs(data),
        "sweeps": sweeps,
        "sweep_styles": sensitivity.styles(sweeps, data.winner.candidate),
        "sensitivity": sortable.sensitivity(sweeps),
        "spread": study_figures.spread(data),
        "heldout": sortable.heldout(data),
        "verdict": result.heldout_verdict(data.score),
        "prompts": sortable.prompts(data),
        "provenance": headline.provenance(data),
    }
