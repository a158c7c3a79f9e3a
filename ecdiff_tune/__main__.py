"""``python -m ecdiff_tune COMMAND [OVERRIDES]``: Hydra commands."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from ecdiff_core import __version__
from ecdiff_core.errors import ECDiffError
from ecdiff_core.io.console import print_anywhere, quiet_libraries, run_command
from ecdiff_core.io.threads import share_cores
from ecdiff_tune.cli import ARGUMENTS, COMMANDS
from ecdiff_tune.cli.arguments import (
    command_first,
    flags_first,
    paths_quoted,
    refuse_deletions,
    swept_to_scratch,
    written_out,
)
from ecdiff_tune.data.conf_folder import config_folder
from ecdiff_tune.study.renamed import present_arguments

if TYPE_CHECKING:
    from ecdiff_tune.config import Settings
    from ecdiff_tune.evaluation.ranks import Ranks

USAGE = f"usage: ecdiff-tune COMMAND {ARGUMENTS}"


class CommandLineError(ECDiffError):
    """The command, a setting's name or its value is not known."""


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = [f"  {name:<{width}}  {command.about}" for name, command in COMMANDS.items()]
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

    from ecdiff_tune.cli import composing, hydra_configs
    from ecdiff_tune.config import names

    kind = COMMANDS[command]
    begun: list[str] = []
    failures: list[Exception] = []

    config_name = hydra_configs.primary_config(command, sys.argv[1:])

    @hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=config_name)
    def job(config: DictConfig) -> None:
        begun.append(command)
        try:
            hydras, overrides = cast(DictConfig, HydraConfig.get()), HydraConfig.get().overrides.task
            names.refuse_unknown(hydras, "hydra.")
            chosen = composing.settings_of(command, config, overrides)
            if kind.loads_models:
                quiet_libraries()
            if kind.divides:
                from ecdiff_tune.evaluation.ranks import current

                current().broadcast((command, chosen))
            kind.function(command)(chosen)
        except ECDiffError as error:
            if HydraConfig.get().mode is not RunMode.RUN:
                raise  # of a sweep's jobs Hydra names the one that failed
            failures.append(error)
        except BrokenPipeError as error:
            failures.append(error)

    try:
        job()
    except (HydraException, OmegaConfBaseException) as error:
        raise CommandLineError(composing.one_line(error), key="arguments", got=sys.argv[1:]) from error
    except OSError as error:
        if begun or isinstance(error, BrokenPipeError):
            raise
        # Hydra makes the folder that hydra.run.dir or hydra.sweep.dir names before the command begins.
        line = f"Cannot write to {error.filename}: {error.strerror}."
        advice = "Give Hydra a writable folder."
        raise CommandLineError(line, key=str(error.filename), advice=advice) from error
    if failures:
        raise failures[0]


def _print_settings(command: str) -> None:
    """A command's own help."""
    from ecdiff_tune.cli.hydra_configs import explained

    text = io.StringIO()
    try:
        with redirect_stdout(text):
            _run(command)
    finally:  # Hydra ends the process
        print(explained(text.getvalue()), end="")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``ecdiff-tune``; returns the exit status."""
    share_cores()
    arguments = list(sys.argv[1:] if argv is None else argv)
    print_anywhere()
    if "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":  # started by torchrun or the like
        from ecdiff_tune.evaluation import ranks

        return ranks.run(lambda: _command(arguments), _follow)
    return _command(arguments)


def _follow(others: Ranks) -> None:
    """Do what rank 0 does until it ends, without a word and without a tracker."""
    quiet_libraries()
    job: tuple[str, Settings] | None = None
    while True:
        command, settings = cast("tuple[str, Settings]", others.broadcast(job))
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            COMMANDS[command].function(command)(replace(settings, tracking="none"))


def _command(arguments: Sequence[str]) -> int:
    """Run a command; the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"ecdiff {__version__}")
        return 0
    command, rest = command_first(arguments)
    rest = flags_first(paths_quoted(present_arguments(written_out(command, rest), print)))

    def work() -> None:
        if command == "generate":
            line = "generate is a command of ecdiff: ecdiff generate --config YAML --prompt TEXT."
            raise CommandLineError(line, key="command", got=command)
        if command not in COMMANDS:
            raise CommandLineError.unknown("command", command, COMMANDS)
        refuse_deletions(rest)
        with swept_to_scratch(rest) as more:
            sys.argv = [f"ecdiff-tune {command}", *rest, *more]
            if "torch" not in sys.modules:  # which takes seconds, diffusers more
                print("ecdiff: loading …", file=sys.stderr, flush=True)
            if {"-h", "--help"} & set(rest):
                _print_settings(command)
            else:
                _run(command)

    return run_command(work, "; run the same command again to go on from here")


if __name__ == "__main__":
    sys.exit(main())
