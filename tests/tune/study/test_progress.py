"""What a person sees while a command runs."""

from __future__ import annotations

import subprocess
import sys


def test_a_reader_who_stops_ends_it_quietly() -> None:
    script = (
        "import sys; from ecdiff_core.console import run_command\n"
        "from ecdiff_tune.study.progress import Progress\n"
        "def command():\n"
        "    with Progress() as progress:\n"
        "        for i in range(100000): progress.say(f'{i} :star: [bold]')\n"
        "sys.exit(run_command(command))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "0 :star: [bold]\n"  # neither emoji nor markup
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 141
