"""Exit statuses of the command lines."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ecdiff_core.errors import NonFiniteLatentsError, PairError, ParamsError, nearest
from ecdiff_core.io.console import run_command


def raising(error: BaseException) -> int:
    def command() -> None:
        raise error

    return run_command(command, "; run it again to go on")


def test_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: print("done")) == 0
    assert capsys.readouterr() == ("done\n", "")


@pytest.mark.parametrize("error", [ParamsError, PairError, NonFiniteLatentsError])
def test_errors_of_the_user_are_one_line(capsys: pytest.CaptureFixture[str], error: type[Exception]) -> None:
    assert raising(error("Expected this, got that. Do so.")) == 2
    assert capsys.readouterr() == ("", "error: Expected this, got that. Do so.\n")


def test_ctrl_c_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(KeyboardInterrupt()) == 130
    assert capsys.readouterr() == ("", "\nstopped; run it again to go on\n")


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError("a bug"), AssertionError("a bug")])
def test_bugs_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error), match="a bug"):
        raising(error)


def test_a_reader_who_stops_ends_it_quietly() -> None:
    script = (
        "import sys; from ecdiff_core.io.console import run_command\n"
        "def command():\n"
        "    for i in range(100000): print(i, flush=True)\n"
        "sys.exit(run_command(command))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 141


def test_nearest_names_all_choices_and_the_likely_one() -> None:
    assert nearest("redy", ["blue", "red"]) == "choose from blue, red (did you mean red?)"
    assert nearest("zzz", ["blue", "red"]) == "choose from blue, red"
