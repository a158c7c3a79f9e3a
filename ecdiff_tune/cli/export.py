"""``export``: a tuned config in the words of another tool."""

from __future__ import annotations

from pathlib import Path

from ecdiff_core.config import TunedConfig
from ecdiff_core.io.atomic_files import write_text
from ecdiff_tune.cli.study_spec import study_path
from ecdiff_tune.config import Settings, SettingsError
from ecdiff_tune.methods.export import FORMS, to_measure
from ecdiff_tune.study import files


def export(settings: Settings) -> None:
    """Write what ``export.to`` names, of ``export.config`` or the study's newest winner.

    Raises:
        ECDiffError: something that the user can act on.
    """
    folder, given = study_path(settings), settings.export
    there = [one for one in (folder / files.ACCELERATED, folder / files.CONFIG) if one.is_file()]
    if given.config is None and not there:
        line = f"Nothing was tuned in {folder}: run tune first, or give export.config=YAML."
        raise SettingsError(line, key="export.config", got=str(folder))
    source = there[0] if given.config is None else Path(given.config).expanduser()
    name, make = FORMS[given.to]
    target = folder / files.EXPORT / name
    config = TunedConfig.load(source)
    text = make(config)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, text)
    print(f"wrote {target} from {source}")
    if given.to != "diffusers" and (line := to_measure(config)):
        print(line)
