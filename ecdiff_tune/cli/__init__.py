"""The commands by name; a command's module is imported when it runs, for models' libraries take seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ecdiff_tune.config import Settings


@dataclass(frozen=True)
class Command:
    """What is true of a command.

    Args:
        about: what it does, for ``--help``.
        module: that has a function of the command's name.
        of_study: it goes by the settings of a study that is there, and begins none.
        loads_models: it works with the pair itself.
        divides: on several ranks all of them work; of other commands the first does everything.
    """

    about: str
    module: str
    of_study: bool = False
    loads_models: bool = True
    divides: bool = False

    def function(self, name: str) -> Callable[[Settings], None]:
        """What does its work."""
        return getattr(import_module(f"ecdiff_tune.{self.module}"), name)


COMMANDS: dict[str, Command] = {
    "tune": Command(
        "reference, stage 1, stage 2, then the winner on held-out prompts", "cli.tune", divides=True
    ),
    "stage1": Command("search (k, alpha) with the cloud model alone", "cli.tune", divides=True),
    "stage2": Command(
        "search s for the stage-1 winner, or for (p, k, alpha) or (schedule, alpha) by hand",
        "cli.tune",
        divides=True,
    ),
    "reference": Command("cloud and edge images, noise profile, latency profile", "cli.tune", divides=True),
    "rerank": Command(
        "the best config by other weights, another link or machine; no model call",
        "cli.rerank",
        of_study=True,
        loads_models=False,
    ),
    "pareto": Command(
        "all configs that no other beats in quality, time and burden; no model call",
        "cli.pareto",
        of_study=True,
        loads_models=False,
    ),
    "compare": Command(
        "the winner beside what else could have been done, on held-out prompts (Tables 1 and 6)",
        "cli.compare",
        of_study=True,
    ),
    "ablate": Command(
        "what correcting twice, alpha and the scheduler are worth (Table 2)",
        "cli.ablate",
        of_study=True,
    ),
    "noise": Command(
        "how the cloud's noise changes from step to step (Figure 3)",
        "cli.noise",
        of_study=True,
        divides=True,
    ),
    "errors": Command(
        "noise at each step, latent error over steps, the theorems' bounds (Figures 1 and 5)",
        "cli.errors",
        of_study=True,
        divides=True,
    ),
    "table5": Command(
        "every tuned pair beside the paper's rows (Table 5); no model call",
        "cli.table5",
        loads_models=False,
    ),
    "report": Command(
        "one page about a study, with its images; no model call",
        "cli.report",
        of_study=True,
        loads_models=False,
    ),
    "check": Command("can these two models work together? (reads no weights)", "cli.check"),
}
