"""What both command lines share: errors as one line, exit statuses, quiet libraries."""

from __future__ import annotations

import codecs
import errno
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable

from ecdiff_core.errors import ECDiffError
from ecdiff_core.io.text import lookalike, visible

_HANDLER = "ecdiff.lookalike"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
LIBRARIES = (
    *("accelerate", "diffusers", "huggingface_hub", "matplotlib", "peft", "safetensors", "torch"),
    *("torchmetrics", "torchvision", "tqdm", "transformers"),
)
"""Whose warnings a person who runs a command can do nothing about."""


def print_anywhere() -> None:
    """Let stdout and stderr take any text: what their encoding lacks is written as ASCII that reads alike.

    Without it a line such as "0 … 1" ends a command with a traceback where the output is ASCII or Latin-1, as
    in many containers, and a prompt that was not UTF-8 does so everywhere.
    """
    codecs.register_error(_HANDLER, lookalike)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def run_command(command: Callable[[], None], when_stopped: str = "") -> int:
    """Run a command and return its exit status.

    0 done; 2 an error that the user can act on (a full disk is one), printed as one line on stderr; 130
    stopped by Ctrl-C; 141 stopped because nobody reads the output any more (``| head``). Any other exception
    is a bug and keeps its traceback.
    """
    print_anywhere()
    try:
        command()
        sys.stdout.flush()
    except ECDiffError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        leave_stdout()
        return 141
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        print(f"error: {error.strerror}: nothing more can be written.", file=sys.stderr)
        leave_stdout()
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped{when_stopped}", file=sys.stderr)
        return 130
    return 0


def show_loading(name: str) -> None:
    """Say on a terminal what is loaded: from a hub that takes minutes without a line."""
    if sys.stderr.isatty():
        print(f"loading {name}", file=sys.stderr, flush=True)


def leave_stdout() -> None:
    """Let what cannot be written be forgotten, so that nothing is left to flush at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def quiet_libraries() -> None:
    """Leave the terminal to our own lines: no loading bars, no warnings and no notes of the libraries below
    errors.

    Set TRANSFORMERS_VERBOSITY and DIFFUSERS_VERBOSITY to see notes, ``python -W default`` or PYTHONWARNINGS
    to see warnings. Call this before diffusers is imported.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=rf"({'|'.join(LIBRARIES)})(\.|$)")

    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
