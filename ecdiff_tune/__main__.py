"""``python -m ecdiff_tune COMMAND [OVERRIDES]``: Hydra commands, one primary config each."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ecdiff_core import __version__
from ecdiff_core.console import quiet_libraries, run_command
from ecdiff_core.errors import ECDiffError, nearest

COMMANDS = {
    "tune": "reference, stage 1, stage 2, then the winner on held-out prompts",
    "stage1": "search (k, alpha) with the cloud model alone",
    "stage2": "search s for the stage-1 winner, or for (p, k, alpha) by hand",
    "reference": "cloud and edge pictures, noise profile, latency profile",
}
USAGE = "usage: ecdiff-tune COMMAND [KEY=VALUE | GROUP=CHOICE …] [--cfg job] [-m] [--config-dir DIR]"


class CommandLineError(ECDiffError):
    """The command, a setting's name or its value is not known."""


def config_folder() -> Path:
    """conf/: beside the packages in a checkout, inside this package when installed from a wheel."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


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
    from hydra.errors import HydraException
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    from ecdiff_tune import settings

    settings.register()

    @hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=command)
    def job(config: DictConfig) -> None:
        chosen = settings.from_config(config)
        quiet_libraries()
        from ecdiff_tune import commands

        commands.COMMANDS[command](chosen)

    try:
        job()
    except (HydraException, OmegaConfBaseException) as error:
        raise CommandLineError(_hydra_message(error)) from error
    except PermissionError as error:
        raise CommandLineError(
            f"Cannot write to {error.filename}. Set output_dir to a writable folder."
        ) from error


def _hydra_message(error: Exception) -> str:
    """Hydra's or OmegaConf's words on one line, with the nearest name for a key that does not exist."""
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

    cause = error.__cause__ if isinstance(error.__cause__, Exception) else None
    for one in (error, cause):
        key = getattr(one, "full_key", None) or getattr(one, "key", None)
        if isinstance(one, ConfigAttributeError | ConfigKeyError) and key:
            names = _setting_names()
            return f"Unknown setting {key}: {nearest(str(key), names)}."
    text = str(cause or error) if "Could not override" in str(error) else str(error)
    return " ".join(text.split())


def _setting_names() -> list[str]:
    from omegaconf import OmegaConf

    from ecdiff_tune.settings import Settings

    tree = OmegaConf.to_container(OmegaConf.structured(Settings))
    assert isinstance(tree, dict)
    names: list[str] = []
    for key, value in tree.items():
        names += [f"{key!s}.{inner!s}" for inner in value] if isinstance(value, dict) else [str(key)]
    return names


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``ecdiff-tune``; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"ecdiff {__version__}")
        return 0
    command, *rest = arguments

    def work() -> None:
        if command not in COMMANDS:
            raise CommandLineError(f"Unknown command {command!r}: {nearest(command, COMMANDS)}.")
        sys.argv = [f"ecdiff-tune {command}", *rest]
        _run(command)

    return run_command(work, "; run the same command again to go on from here")


if __name__ == "__main__":
    sys.exit(main())
