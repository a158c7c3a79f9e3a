"""``report``: one HTML page about a study."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ecdiff_tune.cli.study_spec import study_spec
from ecdiff_tune.config import Settings
from ecdiff_tune.report import accelerated_page, page
from ecdiff_tune.study import recorded
from ecdiff_tune.study.folder import StudyFolder
from ecdiff_tune.study.progress import Progress


def report(settings: Settings, log: Callable[[str], None] | None = None) -> Path:
    """Write a study's page from its ledger and files; no model is loaded.

    Args:
        log: called with the line that says so; None prints it.

    Returns:
        The page.

    Raises:
        ECDiffError: something that the user can act on.
    """
    with StudyFolder(study_spec(settings)) as folder, Progress(log) as progress:
        if accelerated_page.holds_accelerations_alone(folder.path):
            path = accelerated_page.write(folder.spec)
        else:
            path = page.write(recorded.load(folder.spec))
        progress.log(f"wrote {path}")
    return path
