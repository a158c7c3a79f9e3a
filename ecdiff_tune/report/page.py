"""``report``: one HTML page about a study, which opens without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ecdiff_core.files import write_text
from ecdiff_core.text import visible
from ecdiff_tune import files
from ecdiff_tune.config_folder import config_folder
from ecdiff_tune.report import (
    charts,
    further,
    gallery,
    headline,
    origin,
    search_cost,
    sensitivity,
    sortable,
    study_data,
    tradeoff,
)
from ecdiff_tune.report.study_data import StudyData
from ecdiff_tune.report.time_bars import bars
from ecdiff_tune.settings import Settings
from ecdiff_tune.study.folder import StudyFolder
from ecdiff_tune.study.progress import Progress, describe

STATIC = Path(__file__).parent / "static"


def report(settings: Settings) -> None:
    """Write a study's page from its ledger and files; no model is loaded.

    Raises:
        ECDiffError: something that the user can mend.
    """
    with StudyFolder(settings) as folder, Progress() as progress:
        path = write(folder.path, settings)
        progress.say(f"wrote {path}")


def write(path: Path, settings: Settings) -> Path:
    """The page of the study in the folder ``path``; where it was written."""
    data = study_data.read(path, settings)
    page = path / files.PAGE
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
    style, script = (Markup((STATIC / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js"))
    return jinja.get_template("page.html").render(style=style, script=script, **view(data))


def _shown(value: Any) -> Any:
    """Texts without control characters and marks of direction, which would reach beyond themselves."""
    return visible(value, "\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value


def view(data: StudyData) -> dict[str, Any]:
    """What the template shows."""
    record, pairs = data.record, config_folder() / "pair"
    search = data.settings.search
    compared, sweeps = further.methods_compared(data.path), sensitivity.sweeps(record)
    return {
        "data": data,
        "describe": describe,
        "command": lambda name: origin.command(name, data.settings, pairs),
        "sentence": headline.sentence(data),
        "tiles": headline.tiles(data),
        "gallery": gallery.read(data.path),
        "gain": gallery.GAIN,
        "search_plots": charts.search_plots(data.trials, search.min_quality, search.max_seconds),
        "left_out": charts.left_out(data.trials),
        "tradeoff": tradeoff.tradeoff(data, compared.points),
        "configs": sortable.configs(data),
        "noise": charts.noise_profile(data),
        "errors": further.latent_errors(data.path),
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
        "provenance": origin.provenance(data),
    }
