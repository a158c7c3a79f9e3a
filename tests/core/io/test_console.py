"""Exit statuses of the command lines."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from ecdiff_core.__main__ import main
from ecdiff_core.errors import ECDiffError, NonFiniteLatentsError, PairError, ParamsError, nearest
from ecdiff_core.io.console import run_command, show_loading


def raising(error: BaseException) -> int:
    def command() -> None:
        raise error

    return run_command(command, "; run it again to go on")


def test_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: print("done")) == 0
    assert capsys.readouterr() == ("done\n", "")


@pytest.mark.parametrize("error", [ParamsError, PairError, NonFiniteLatentsError])
def test_errors_of_the_user_are_one_line(
    capsys: pytest.CaptureFixture[str], error: type[ECDiffError]
) -> None:
    assert raising(error("Expected this, got that. Do so.", key="this")) == 2
    assert capsys.readouterr() == ("", "error: Expected this, got that. Do so.\n")


@pytest.mark.parametrize(("terminal", "said"), [(True, "loading shapes\n"), (False, "")])
def test_what_is_loaded_is_said_at_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool, said: str
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    show_loading("shapes")
    assert capsys.readouterr() == ("", said)


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
        assert process.wait(timeout=600) == 141


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", "0 ... 1, 2 x 3 >= e \\u661f \\ud800 | a\n"),
        ("latin-1", "0 ... 1, 2 × 3 >= é \\u661f \\ud800 · a\n"),
        ("cp1252", "0 … 1, 2 × 3 >= é \\u661f \\ud800 · a\n"),
        ("utf-8", "0 … 1, 2 × 3 ≥ é 星 \\ud800 · a\n"),
    ],
)
def test_any_text_goes_to_any_output(monkeypatch: pytest.MonkeyPatch, encoding: str, expected: str) -> None:
    written = io.BytesIO()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", io.TextIOWrapper(written, encoding, write_through=True))
        assert run_command(lambda: print("0 … 1, 2 × 3 ≥ é 星 \ud800 · a")) == 0
        assert written.getvalue().decode(encoding) == expected
        with pytest.raises(SystemExit, match="0"):
            main(["generate", "--help"])
        assert "cpu, cuda, ..." in written.getvalue().decode(encoding).replace("…", "...")


def test_errors_are_one_line_whatever_is_in_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(ParamsError("Got 'a\n\x1b[31mb\u202ec'.", key="a")) == 2
    assert capsys.readouterr().err == "error: Got 'a\\n\\x1b[31mb\\u202ec'.\n"


@pytest.mark.parametrize(
    ("typed", "meant", "others"),
    [
        ("grid", "exhaustive", ["greedy", "joint", "race"]),
        ("random", "optuna", ["race", "predict"]),
        ("fp16", "float16", ["bfloat16", "float32"]),
        ("half", "float16", ["bfloat16", "float32"]),
        ("bf16", "bfloat16", ["float16", "float32"]),
        ("torch.float32", "float32", ["bfloat16", "float16"]),
        ("gpu", "cuda", ["auto", "cpu"]),
        ("gpu", "auto", ["cpu"]),
        ("ddim", "DDIMScheduler", ["DDIMInverseScheduler", "DEISMultistepScheduler"]),
        ("dpm++", "DPMSolverMultistepScheduler", ["DPMSolverSinglestepScheduler", "DDIMScheduler"]),
        ("euler", "EulerDiscreteScheduler", ["EDMEulerScheduler", "DEISMultistepScheduler"]),
        ("DDIMSchedular", "DDIMScheduler", ["DEISMultistepScheduler", "PNDMScheduler"]),
        ("bayesian", "tpe", ["cmaes", "grid", "nsga2"]),
        ("sdxl", "sdxl_vega", ["sd14_bksdm_small", "shapes"]),
        ("Wi-Fi", "wifi", ["none"]),
        ("ddim", "fewer_ddim", ["fewer_dpm", "hybrid_10"]),
        ("sampling.stepz", "sampling.num_inference_steps", ["sampling.width", "sampling.height"]),
        ("sampling.guidence", "sampling.guidance_scale", ["sampling.handoff", "sampling.height"]),
        ("gradeint", "gradient", ["newton2", "reuse"]),
    ],
)
def test_nearest_knows_what_people_type(typed: str, meant: str, others: list[str]) -> None:
    assert nearest(typed, [meant, *others]).endswith(f" (did you mean {meant}?)")


def test_nearest_names_all_choices_and_the_likely_one() -> None:
    assert nearest("redy", ["blue", "red"]) == "choose from blue, red (did you mean red?)"
    assert nearest("zzz", ["blue", "red"]) == "choose from blue, red"


@pytest.mark.parametrize(
    ("typed", "known"),
    [
        ("EDMEuler", ["DDIMScheduler", "EulerDiscreteScheduler", "PNDMScheduler", "UniPCMultistepScheduler"]),
        ("sampling.stepz", ["sampling.width", "sampling.height", "sampling.scheduler"]),
        ("calibration.num_heldout", ["calibration.num_prompts", "calibration.file", "calibration.column"]),
        ("stepz", ["seed", "study", "search"]),
    ],
)
def test_nearest_proposes_nothing_where_nothing_is_near(typed: str, known: list[str]) -> None:
    assert "did you mean" not in nearest(typed, known)


def test_libraries_do_not_write_into_a_users_terminal() -> None:
    """Neither what they say while they are imported (torchvision is missing here), nor what they warn of."""
    script = (
        "from ecdiff_core.io.console import quiet_libraries\n"
        "quiet_libraries()\n"
        "import warnings\n"
        "from transformers import CLIPImageProcessor\n"
        "for name, said in (('diffusers.models', 'theirs'), ('torch', 'theirs'), ('mine', 'own')):\n"
        "    exec('warnings.warn(said)', {'__name__': name, 'warnings': warnings, 'said': said})\n"
    )
    quiet = ("PYTHONWARNINGS", "TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY")
    environment = {key: value for key, value in os.environ.items() if key not in quiet}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert "theirs" not in done.stderr
    assert "torchvision" not in done.stderr
    assert done.stdout == ""
    assert "UserWarning: own" in done.stderr
