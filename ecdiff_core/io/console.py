"""What both command lines share: errors as one line, exit statuses, quiet libraries."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable

from ecdiff_core.errors import ECDiffError


def run_command(command: Callable[[], None], when_stopped: str = "") -> int:
    """Run a command and return its exit status.

    0 done; 2 an error that the user can mend, told as one line on stderr; 130 stopped by Ctrl-C; 141 stopped
    because nobody reads the output any more (``| head``). Any other exception is a bug and keeps its
    traceback.
    """
    try:
        command()
    except ECDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to flush at exit
        return 141
    except KeyboardInterrupt:
        print(f"\nstopped{when_stopped}", file=sys.stderr)
        return 130
    return 0


def quiet_libraries() -> None:
    """Leave the terminal to our own lines: no loading bars and no notes of the libraries below errors.

    Set TRANSFORMERS_VERBOSITY and DIFFUSERS_VERBOSITY to see them. Call this before diffusers is imported.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("torch", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers")

    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
