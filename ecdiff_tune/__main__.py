"""``python -m ecdiff_tune COMMAND [OVERRIDES]``: Hydra commands, one primary config each."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from ecdiff_core import __version__
from ecdiff_core.console import quiet_libraries, run_command
from ecdiff_core.errors import ECDiffError, nearest
from ecdiff_tune.config_folder import config_folder
from ecdiff_tune.quoting import paths_quoted, quoting_hint

if TYPE_CHECKING:
    from ecdiff_tune.settings import Settings

COMMANDS = {
    "tune": "reference, stage 1, stage 2, then the winner on held-out prompts",
    "stage1": "search (k, alpha) with the cloud model alone",
    "stage2": "search s for the stage-1 winner, or for (p, k, alpha) or (schedule, alpha) by hand",
    "reference": "cloud and edge pictures, noise profile, latency profile",
    "rerank": "the best config by other weights, another link or machine; no model call",
    "pareto": "all configs that no other beats in quality, time and burden; no model call",
    "compare": "the winner beside what else could have been done, on held-out prompts (Tables 1 and 6)",
    "ablate": "what correcting twice, alpha and the scheduler are worth (Table 2)",
    "noise": "how the cloud's noise changes from step to step (Figure 3)",
    "errors": "noise at each step, latent error over steps, the theorems' bounds (Figures 1 and 5)",
    "table5": "every tuned pair beside the paper's rows (Table 5); no model call",
    "report": "one page about a study, with its pictures; no model call",
    "check": "can these two models work together? (reads their configs alone)",
}
READING = {"rerank": "rerank", "pareto": "pareto", "report": "report.page"}
"""Commands that read what a study measured and go by its settings, and their modules."""
EVIDENCE = ("compare", "ablate", "noise", "errors", "table5")
"""Commands that show what the paper shows; their modules in ``evidence`` have their names."""
OF_A_STUDY = (*READING, "compare", "ablate")
"""Commands of a study that must be there."""
WITHOUT_MODELS = (*READING, "table5")
USAGE = "usage: ecdiff-tune COMMAND [KEY=VALUE | GROUP=CHOICE …] [--cfg job] [-m] [--config-dir DIR]"


class CommandLineError(ECDiffError):
    """The command, a setting's name or its value is not known."""


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            USAGE,
            "",
            "Tunes (p, k, alpha, s) of EC-Diff for a cloud and an edge diffusion model.",
            "",
            "commands:",
            *commands,
            "",
            "`ecdiff-tune COMMAND --help` lists a command's settings. Example:",
            "  ecdiff-tune tune pair=shapes search.k=[1,2,3] calibration.num_prompts=20",
        ]
    )


def _run(command: str) -> None:
    """Hand the rest of sys.argv to Hydra; its errors become one line."""
    # Hydra prints and exits on its own unless it is asked for whole errors; then they can be told our way.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    from ecdiff_tune import settings

    settings.register()

    begun: list[str] = []
    failures: list[Exception] = []

    @hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=command)
    def job(config: DictConfig) -> None:
        begun.append(command)
        try:
            if command in READING or command in EVIDENCE:
                from ecdiff_tune import study_settings

                if command in OF_A_STUDY or (command != "table5" and study_settings.is_known(config)):
                    config = study_settings.restore(config, HydraConfig.get().overrides.task)
            chosen = settings.from_config(config)
            if command not in WITHOUT_MODELS:
                quiet_libraries()
            _function(command)(chosen)
        except ECDiffError as error:
            if HydraConfig.get().mode is not RunMode.RUN:
                raise  # of a sweep's jobs Hydra names the one that failed
            failures.append(error)
        except BrokenPipeError as error:
            failures.append(error)

    try:
        job()
    except (HydraException, OmegaConfBaseException) as error:
        raise CommandLineError(_hydra_message(error)) from error
    except OSError as error:
        if begun or isinstance(error, BrokenPipeError):
            raise
        # Hydra makes its run folder before the command begins.
        raise CommandLineError(
            f"Cannot write to {error.filename}: {error.strerror}. Set output_dir to a writable folder."
        ) from error
    if failures:
        raise failures[0]


def _function(command: str) -> Callable[[Settings], None]:
    """What does a command's work; models' libraries are imported for those alone that need them."""
    if command in READING:
        return getattr(import_module(f"ecdiff_tune.{READING[command]}"), command)
    if command in EVIDENCE:
        return getattr(import_module(f"ecdiff_tune.evidence.{command}"), command)
    return import_module("ecdiff_tune.commands").COMMANDS[command]


def _hydra_message(error: Exception) -> str:
    """What Hydra or OmegaConf found wrong, on one line, with the nearest name where one was mistyped."""
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return f"Unknown {group} {choice!r}: {nearest(choice, error.options)}."
    if isinstance(error, OverrideParseException):
        told = f"Expected KEY=VALUE or GROUP=CHOICE, got {error.override!r}; --help lists all settings."
        return told + quoting_hint(error.override or "")
    cause = error.__cause__
    for one in (error, cause):
        key = str(getattr(one, "full_key", None) or getattr(one, "key", None) or "")
        if isinstance(one, ConfigAttributeError | ConfigKeyError) and key:
            return f"Unknown setting {key}: {nearest(key, _sibling_settings(key))}; --help lists all."
    key = str(getattr(error, "full_key", None) or getattr(cause, "full_key", None) or "")
    if "ListConfig" in f"{error}{cause}" and key:
        return f"Expected {key} to be a list, such as {key}=[1,2,3]."
    first = [
        str(one).strip().splitlines()[0] for one in (error, cause) if one is not None and str(one).strip()
    ]
    return ": ".join(dict.fromkeys(line.rstrip(".") for line in first)) + "."


def _sibling_settings(key: str) -> list[str]:
    """The settings of the group that ``key`` is in, or the outermost ones."""
    from dataclasses import fields, is_dataclass

    from ecdiff_tune.settings import Settings

    group, dot, _ = key.rpartition(".")
    inside = getattr(Settings(), group, None) if dot else None
    if is_dataclass(inside):
        return [f"{group}.{field.name}" for field in fields(inside)]
    return [field.name for field in fields(Settings)]


_WITH_VALUE = {"--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"}
_WITH_VALUE |= {"--config-dir", "-cd"}
"""Hydra's flags that the next argument belongs to."""


def _flags_first(arguments: Sequence[str]) -> list[str]:
    """Hydra takes its flags before the settings alone.

    >>> _flags_first(["study=a,b", "-m", "seed=1", "--cfg", "job"])
    ['-m', '--cfg', 'job', 'study=a,b', 'seed=1']
    """
    flags: list[str] = []
    settings: list[str] = []
    left = iter(arguments)
    for one in left:
        (flags if one.startswith("-") else settings).append(one)
        if one in _WITH_VALUE:
            flags += [value for value in [next(left, None)] if value is not None]
    return flags + settings


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``ecdiff-tune``; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":  # started by torchrun or the like
        from ecdiff_tune import ranks

        return ranks.run(lambda: _command(arguments))
    return _command(arguments)


def _command(arguments: Sequence[str]) -> int:
    """Run a command; the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"ecdiff {__version__}")
        return 0
    command = next((one for one in arguments if one in COMMANDS), arguments[0])
    rest = _flags_first(
        paths_quoted([one for i, one in enumerate(arguments) if i != arguments.index(command)])
    )

    def work() -> None:
        if command not in COMMANDS:
            raise CommandLineError(f"Unknown command {command!r}: {nearest(command, COMMANDS)}.")
        sys.argv = [f"ecdiff-tune {command}", *rest]
        _run(command)

    return run_command(work, "; run the same command again to go on from here")


if __name__ == "__main__":
    sys.exit(main())
