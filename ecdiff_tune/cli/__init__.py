"""The commands by name; a command's module is imported when it runs, for models' libraries take seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecdiff_tune.config import Settings


@dataclass(frozen=True)
class Command:
    """What is true of a command.

    Args:
        about: what it does, for ``--help``.
        note: what its own ``--help`` adds.
        module: that has a function of the command's name.
        of_study: it goes by the settings of a study that is there, and begins none.
        of_config: it goes by the settings of a tuned config, and begins a study of its own.
        loads_models: it works with the pair itself.
        searches: it goes by the settings of a search.
        divides: on several ranks all of them work; of other commands the first does everything.
        heeds: settings and groups that it goes by alone; empty is all that are not another command's own.
        search: what is chosen of the group ``search`` where neither the command line nor conf/base.yaml
            chooses.
        defaults: other settings that it has other defaults for than conf/base.yaml.
    """

    about: str
    module: str
    of_study: bool = False
    of_config: bool = False
    loads_models: bool = True
    note: str = ""
    searches: bool = False
    divides: bool = False
    heeds: tuple[str, ...] = ()
    search: str = "greedy"
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def function(self, name: str) -> Callable[[Settings], object]:
        """What does its work."""
        return getattr(import_module(f"ecdiff_tune.{self.module}"), name)


ARGUMENTS = "[KEY=VALUE | GROUP=CHOICE …] [--cfg job] [-m] [--config-dir DIR]"
"""Of every command."""
_OWN = "What is not given is the study's own; pair= and study= name it"
_RESCORES = (
    f"{_OWN}. Free are objective, link, rerank.* and\n"
    "pareto.*; settings that would need new measurements are refused."
)
_WALKS = (
    "It goes the paper's greedy walk unless search= says otherwise. A study goes on with its own search;\n"
    "tune searches all dimensions at once (search=joint)."
)
COMMANDS: dict[str, Command] = {
    "tune": Command(
        "reference, search, then the winner on held-out prompts",
        "cli.tune",
        searches=True,
        divides=True,
        note="It searches the whole grid at once (search=joint). search=greedy is the paper's walk over\n"
        "(k, alpha) and then over s, which stage1 and stage2 take. A study goes on with its own search.",
        search="joint",
    ),
    "stage1": Command(
        "search (k, alpha) with the cloud model alone (Algorithm 2)",
        "cli.tune",
        searches=True,
        divides=True,
        note=_WALKS,
    ),
    "stage2": Command(
        "search s for the stage-1 winner, or (p, k, alpha) or (schedule, alpha) by hand (Algorithm 3)",
        "cli.tune",
        searches=True,
        divides=True,
        note=_WALKS,
    ),
    "reference": Command("cloud and edge images, noise profile, latency profile", "cli.tune", divides=True),
    "rerank": Command(
        "the best config by other weights, another link or machine; no model call",
        "cli.rerank",
        of_study=True,
        loads_models=False,
        note=_RESCORES,
    ),
    "pareto": Command(
        "all configs that no other beats in quality, time and cloud calls; no model call",
        "cli.pareto",
        of_study=True,
        loads_models=False,
        note=_RESCORES,
    ),
    "compare": Command(
        "the winner beside what else could have been done, on held-out prompts (Tables 1 and 6)",
        "cli.compare",
        of_study=True,
        note=f"{_OWN}, and its ecdiff.yaml must be there. Free are\n"
        "compare.*, metrics.*, batch_size, sharing, offload and vae_slicing. Methods that do not apply to\n"
        "the pair are left out.",
    ),
    "ablate": Command(
        "what correcting twice, alpha and the scheduler are worth (Table 2)",
        "cli.ablate",
        of_study=True,
        note=f"{_OWN}, and its ecdiff.yaml must be there. Free are\n"
        "ablate.*, metrics.*, batch_size, sharing, offload and vae_slicing.",
    ),
    "noise": Command(
        "how the cloud's noise changes from step to step (Figure 3)",
        "cli.noise",
        of_study=True,
        note=f"{_OWN}. Its reference is made where it is missing.",
        divides=True,
    ),
    "errors": Command(
        "noise at each step, latent error over steps, the theorems' bounds (Figures 1 and 5)",
        "cli.latent_errors",
        of_study=True,
        note=f"{_OWN}. Free are errors.*: num_prompts and noise\n"
        "take time, config is another YAML than the study's ecdiff.yaml.",
        divides=True,
    ),
    "transfer": Command(
        "a tuned config at another number of steps, scheduler, guidance or size, checked on few prompts",
        "cli.transfer",
        of_config=True,
        searches=True,
        note="It needs transfer.config=FILE.yaml; of pair and sampling what is not given is that config's\n"
        "own. Its study is called transfer and has 12 prompts, unless others are given.",
        search="joint",
        defaults={
            "study": "transfer",
            "calibration": {"num_prompts": 12},
            "heldout": {"num_prompts": 0},
        },
        divides=True,
    ),
    "table5": Command(
        "every tuned pair beside the paper's rows (Table 5); no model call",
        "cli.table5",
        loads_models=False,
        note="It reads every DIR/<pair>/<study>/ecdiff.yaml and writes DIR/table5.csv, .md and .tex.\n"
        "output_dir is the only setting that it goes by.",
        heeds=("output_dir",),
    ),
    "export": Command(
        "a tuned config for cache-dit or as lines of Python for diffusers; no model call",
        "cli.export",
        of_study=True,
        loads_models=False,
        note=f"{_OWN}. Writes outputs/<pair>/<study>/export/. Free is export.*.",
    ),
    "report": Command(
        "one page about a study, with its images; no model call",
        "cli.report",
        of_study=True,
        loads_models=False,
        note=f"{_OWN}. Writes outputs/<pair>/<study>/report/index.html.",
    ),
    "check": Command(
        "can these two models work together? (reads no weights)",
        "cli.check",
        heeds=("pair", "sampling", "output_dir"),  # the last so that all commands may be given alike
    ),
}
_OF_ONE = {
    **{name: name for name in ("compare", "ablate", "errors", "pareto", "transfer")},
    "method": "tune",
    "acceleration": "tune",
}
"""Settings and groups of them that one command alone goes by, and which."""


def unheeded(name: str, keys: Iterable[str]) -> list[str]:
    """The settings among ``keys`` that change nothing of a command.

    >>> unheeded("table5", ["study", "output_dir"]), unheeded("tune", ["compare.schedule", "seed"])
    (['study'], ['compare.schedule'])
    >>> unheeded("stage1", ["method", "acceleration.values"]), unheeded("tune", ["method"])
    (['method', 'acceleration.values'], [])
    """
    heeds = COMMANDS[name].heeds
    groups = [(key, key.partition(".")[0]) for key in keys]
    return [
        key for key, group in groups if (heeds and group not in heeds) or _OF_ONE.get(group, name) != name
    ]
