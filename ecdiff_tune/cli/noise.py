"""``noise``: the paper's Figure 3, how much the cloud's noise changes from step to step."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ecdiff_core.io.text import counted
from ecdiff_tune.cli.study_spec import study_spec
from ecdiff_tune.config import Settings
from ecdiff_tune.evaluation.ranks import current
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.report.figure_files import write_figure
from ecdiff_tune.report.paper_figures import noise_change
from ecdiff_tune.report.table_files import write_table, wrote
from ecdiff_tune.study import files
from ecdiff_tune.study.open_study import open_study

FIGURES = {"image": "figure3a", "video": "figure3b"}
"""Names of the files, by what the pair makes; the paper shows images in (a) and videos in (b)."""


def noise(settings: Settings) -> None:
    """Table and figure of the study's reference, which is made where it is missing.

    Raises:
        ECDiffError: something that the user can act on.
    """
    with open_study(study_spec(settings), current()) as (study, pair, references):
        media = pair.pipe.pair.family.media
        timesteps = pair.pipe.scheduler.timesteps.tolist()
        profile = noise_table(references.own_runs, timesteps)
        p, folder, name = references.p(), study.path / files.NOISE, FIGURES[media]
        count = len(references.own_runs.prompts)
        caption = (
            f"Mean |eps_i - eps_(i-1)| of the cloud model of {settings.pair.name} over {count} prompts, and "
            f"its variance over them; {settings.num_steps} {settings.sampling.scheduler} steps."
        )
        forms = {"timestep": "{:g}", "mean": "{:.5f}", "variance": "{:.3g}", "relative": "{:.4f}"}
        shown = profile.assign(**{column: profile[column].map(form.format) for column, form in forms.items()})
        figure = noise_change(profile, p, both_scales=True, over=counted(count, "prompt"))
        paths = [
            *write_table(folder, name, profile, shown, caption),
            *write_figure(folder, name, figure),
        ]
        for line in (*_lines(profile, p), wrote(paths)):
            study.progress.log(line)


def noise_table(reference: Reference, timesteps: list[float]) -> pd.DataFrame:
    """A row a step i = 1 … T - 1.

    ``mean`` and ``variance`` over prompts are of the mean |eps_i - eps_{i-1}| over the noise's elements,
    which is Figure 3; ``relative`` is the mean over prompts of ||eps_i - eps_{i-1}|| / ||eps_i||.

    Args:
        timesteps: the scheduler's, T of them.
    """
    grams = np.stack([one.gram.numpy() for one in reference.prompts])
    square = np.diagonal(grams, axis1=1, axis2=2)
    cross = np.diagonal(grams, offset=1, axis1=1, axis2=2)
    change = np.sqrt(np.clip(square[:, 1:] + square[:, :-1] - 2 * cross, 0, None))
    table = reference.noise_profile()
    table.insert(1, "timestep", timesteps[1:])
    return table.assign(relative=(change / np.sqrt(square[:, 1:])).mean(axis=0))


def _lines(profile: pd.DataFrame, p: int) -> list[str]:
    """Where the noise changes most, and where the paper's method begins to approximate it."""
    mean = profile["mean"].to_numpy()
    least, most = int(mean.argmin()), int(mean.argmax())
    return [
        f"noise change {mean[0]:.5f} at step 1, least {mean[least]:.5f} at step {least + 1}, "
        f"most {mean[most]:.5f} at step {most + 1}; p = {p}"
    ]
