"""``python -m ecdiff_core generate``: files, metadata, the closing line, and errors as one line."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ecdiff_core import ECDiffParams, ECDiffPipeline, MethodChoice, ModelRef, TunedConfig
from ecdiff_core.__main__ import _cloud_alone, _free, _save, main
from ecdiff_core.models.pair import load_pair
from ecdiff_core.output import Seconds
from ecdiff_core.sampling.plan_of_params import plan

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def config_path(tiny_config: TunedConfig, tmp_path: Path) -> Path:
    path = tmp_path / "ecdiff.yaml"
    tiny_config.save(path)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "images"


def generate(config: Path, out: Path, *arguments: str) -> int:
    return main(["generate", "--config", str(config), "--out", str(out), "--device", "cpu", *arguments])


def opened(path: str | Path) -> Image.Image:
    """An image that is read whole, so that its file is closed."""
    with Image.open(path) as image:
        image.load()
        return image


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_an_image_with_its_story(
    tiny_config: TunedConfig, config_path: Path, out: Path, capsys: Capture
) -> None:
    prompt = "a large red ring, “quoted”, on a dark background"
    assert generate(config_path, out, "--prompt", prompt, "--seed", "7") == 0
    assert names(out) == ["00007.png"]

    written = opened(out / "00007.png")
    alone = ECDiffPipeline.from_config(tiny_config, device="cpu")
    image = alone(prompt, generator=torch.Generator().manual_seed(7)).images[0]
    assert np.array_equal(np.asarray(written), np.asarray(image))
    assert written.text["ecdiff:prompt"] == prompt
    assert written.text["ecdiff:seed"] == "7"
    assert written.text["ecdiff:plan"] == "3C2A1C2A1C3E"
    assert written.text["ecdiff:mode"] == "ecdiff"
    told = TunedConfig.from_yaml(written.text["ecdiff:config"])
    assert told == alone.config
    assert (told.params, told.sampling) == (tiny_config.params, tiny_config.sampling)
    assert told.pair.cloud.fingerprint is not None

    stdout, stderr = capsys.readouterr()
    first, closing = stdout.splitlines()
    assert first == f"{out / '00007.png'}  {prompt}"
    assert re.fullmatch(
        r"12 steps = 5 cloud \+ 4 approximated \+ 3 edge · \d+\.\d\d s \(cloud only about \d+\.\d\d s\)",
        closing,
    )
    assert stderr == ""


def test_an_image_can_be_made_again_from_its_metadata(config_path: Path, out: Path, tmp_path: Path) -> None:
    assert generate(config_path, out, "--prompt", "a small blue star", "--seed", "3") == 0
    first = opened(out / "00003.png")
    again = tmp_path / "again.yaml"
    again.write_text(first.text["ecdiff:config"], encoding="utf-8")
    story = ("--prompt", first.text["ecdiff:prompt"], "--seed", first.text["ecdiff:seed"])
    assert generate(again, tmp_path / "again", *story) == 0
    assert (tmp_path / "again" / "00003.png").read_bytes() == (out / "00003.png").read_bytes()


def test_prompts_of_options_and_file_take_the_next_seeds(
    config_path: Path, out: Path, tmp_path: Path, capsys: Capture
) -> None:
    prompts_file = tmp_path / "prompts.txt"
    prompts_file.write_text("\n  a small green\fcross  \n\na large pink square\n", encoding="utf-8")
    arguments = ("--prompt", "one", "--prompt", "two", "--prompts-file", str(prompts_file), "--seed", "41")
    assert generate(config_path, out, *arguments) == 0
    story = {path.name: opened(path).text["ecdiff:prompt"] for path in out.iterdir()}
    assert story == {
        "00041.png": "one",
        "00042.png": "two",
        "00043.png": "a small green\fcross",
        "00044.png": "a large pink square",
    }
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[-1].endswith(" per image")


def test_batches_give_the_same_images(config_path: Path, out: Path, tmp_path: Path) -> None:
    prompts = ("--prompt", "a", "--prompt", "b", "--prompt", "c")
    assert generate(config_path, out, *prompts) == 0
    assert generate(config_path, tmp_path / "batches", *prompts, "--batch-size", "2") == 0
    assert names(out) == names(tmp_path / "batches") == ["00000.png", "00001.png", "00002.png"]
    for path in out.iterdir():
        one, other = (np.asarray(opened(p)).astype(int) for p in (path, tmp_path / "batches" / path.name))
        assert np.abs(one - other).max() <= 1  # a batch is summed in another order
        assert opened(path).text == opened(tmp_path / "batches" / path.name).text


@pytest.mark.parametrize(
    ("mode", "schedule", "closing"),
    [
        (
            "ecdiff",
            "3C2A1C2A1C3E",
            r"12 steps = 5 cloud \+ 4 approximated \+ 3 edge · .* \(cloud only about .*\)",
        ),
        ("hybrid", "9C3E", r"12 steps = 9 cloud \+ 0 approximated \+ 3 edge · .* \(cloud only about .*\)"),
        ("cloud", "12C", r"12 steps = 12 cloud \+ 0 approximated \+ 0 edge · \d+\.\d\d s"),
        ("edge", "12E", r"12 steps = 0 cloud \+ 0 approximated \+ 12 edge · \d+\.\d\d s"),
    ],
)
def test_modes(config_path: Path, out: Path, capsys: Capture, mode: str, schedule: str, closing: str) -> None:
    assert generate(config_path, out, "--prompt", "a", "--mode", mode) == 0
    assert opened(out / "00000.png").text["ecdiff:plan"] == schedule
    assert re.fullmatch(closing, capsys.readouterr().out.splitlines()[-1])


def test_edge_calls_for_the_residual_are_counted(
    tiny_config: TunedConfig, config_path: Path, out: Path, capsys: Capture
) -> None:
    replace(tiny_config, params=replace(tiny_config.params, residual=1.0)).save(config_path)
    assert generate(config_path, out, "--prompt", "a") == 0
    closing = capsys.readouterr().out.splitlines()[-1]
    assert "+ 3 edge, 1 more edge call for the residual · " in closing
    assert "cloud only about" in closing


def test_seconds_of_the_cloud_alone() -> None:
    spent = [Seconds(encode=1.0, cloud=5 * 4.0, edge=3 * 2.0, decode=0.5)]
    params = ECDiffParams(3, 2, 0.3, 9)
    assert _cloud_alone(plan(params, 12), spent) == 1.5 + 12 * 4
    assert _cloud_alone(plan(ECDiffParams.edge_only(), 12), spent) is None


def test_negative_prompt_changes_the_image(config_path: Path, out: Path) -> None:
    for negative in ([], ["--negative-prompt", "a large purple triangle"]):
        assert generate(config_path, out, "--prompt", "a", *negative) == 0
    assert names(out) == ["00000-2.png", "00000.png"]
    assert not np.array_equal(*(np.asarray(opened(path)) for path in out.iterdir()))


def test_nothing_is_overwritten(config_path: Path, out: Path, capsys: Capture) -> None:
    for prompt in ("first", "second", "third"):
        assert generate(config_path, out, "--prompt", prompt, "--mode", "edge") == 0
        named = capsys.readouterr().out.splitlines()[0].partition("  ")[0]
        assert opened(named).text["ecdiff:prompt"] == prompt
    assert names(out) == ["00000-2.png", "00000-3.png", "00000.png"]
    assert opened(out / "00000.png").text["ecdiff:prompt"] == "first"


def test_a_video_and_its_story_keep_one_name(tmp_path: Path) -> None:
    (tmp_path / "00000.mp4").touch()
    (tmp_path / "00000-2.json").touch()
    assert _free(tmp_path / "00000.mp4") == tmp_path / "00000-3.mp4"
    assert _free(tmp_path / "00001.mp4") == tmp_path / "00001.mp4"


@pytest.mark.parametrize(("colour", "said"), [((0, 0, 0), True), ((127, 127, 127), True), (None, False)])
def test_an_image_of_one_colour_is_told(
    colour: tuple[int, int, int] | None, said: bool, tmp_path: Path, tiny_config: TunedConfig, capsys: Capture
) -> None:
    image = Image.new("RGB", (8, 8), colour or (0, 0, 0))
    if colour is None:
        image.putpixel((0, 0), (1, 1, 1))
    pipe: Any = SimpleNamespace(
        pair=SimpleNamespace(family=SimpleNamespace(media="image")), config=tiny_config, choice=""
    )
    made: Any = SimpleNamespace(images=[image], plan=tiny_config.plan())
    given = Namespace(mode="ecdiff", negative_prompt=None, out=tmp_path, fps=8, cloud=None)
    _save(made, pipe, ["a circle"], [3], given)
    assert ("note: 00003.png is of one colour" in capsys.readouterr().err) == said


def test_weights_that_the_config_was_not_tuned_for(
    tiny_config: TunedConfig, config_path: Path, out: Path, capsys: Capture
) -> None:
    pair = replace(tiny_config.pair, edge=replace(tiny_config.pair.edge, fingerprint="0123456789abcdef"))
    replace(tiny_config, pair=pair).save(config_path)
    assert generate(config_path, out, "--prompt", "a") == 2
    assert re.search(r"edge model .* other weights .*tuned for \(0123456789abcdef\)", one_error_line(capsys))
    assert nothing_written(out)
    assert generate(config_path, out, "--prompt", "a", "--any-weights") == 0
    assert names(out) == ["00000.png"]


def one_error_line(capsys: Capture) -> str:
    """What stands on stderr: one line, and nothing on stdout."""
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith("error: ")
    assert stderr.endswith("\n")
    assert stderr.count("\n") == 1
    return stderr


def nothing_written(out: Path) -> bool:
    return not out.is_dir() or not names(out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"No prompt: give --prompt TEXT or a --prompts-file"),
        (["--prompt", "  "], r"A --prompt is empty"),
        (["--prompts-file", "table.jsonl"], r"table.jsonl to be text with one prompt a line"),
        (["--prompts-file", "empty.txt"], r"No prompt"),
        (["--prompts-file", "missing.txt"], r"Cannot read the prompts file missing\.txt: No such file"),
        (["--prompts-file", "binary.txt"], r"Cannot read the prompts file binary\.txt: it is not UTF-8 text"),
        (["--prompts-file", "."], r"Cannot read the prompts file \.: Is a directory"),
        (["--prompt", "a", "--batch-size", "0"], r"--batch-size >= 1, got 0"),
        (["--prompt", "a", "--seed", "-1"], r"--seed within 0 … \d+, got -1"),
        (["--prompt", "a", "--seed", str(2**64)], r"--seed"),
        (["--prompt", "a", "--device", "cuda:99"], r"Cannot use the device 'cuda:99'"),
        (["--prompt", "a", "--dtype", "int8"], r"Unknown dtype 'int8'"),
        (
            ["--prompt", "a", "--config", "missing.yaml"],
            r"Cannot read the config missing\.yaml: No such file",
        ),
        (["--prompt", "a", "--config", "empty.txt"], r"empty\.txt is empty"),
    ],
)
def test_wrong_arguments(
    config_path: Path,
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("\n \n", encoding="utf-8")
    Path("binary.txt").write_bytes(b"\xff\xfe\x00")
    assert generate(config_path, out, *arguments) == 2
    assert re.search(message, one_error_line(capsys))
    assert nothing_written(out)


Change = Callable[[TunedConfig], TunedConfig]


def sampling(**changes: object) -> Change:
    return lambda config: replace(config, sampling=replace(config.sampling, **changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (sampling(scheduler="HeunDiscreteScheduler"), r"one timestep a step.*HeunDiscrete"),
        (sampling(scheduler="DDPMScheduler"), r"DDPMScheduler draws fresh noise"),
        (sampling(height=18), r"multiples of 4 pixels, got height=18, width=32"),
        (sampling(num_inference_steps=1001), r"1001"),
        (
            lambda config: replace(config, pair=replace(config.pair, edge=ModelRef("/nowhere"))),
            r"No model folder at /nowhere",
        ),
        (
            lambda config: replace(config, pair=replace(config.pair, cloud=ModelRef("nobody/nothing"))),
            r"Cannot get nobody/nothing",
        ),
    ],
)
def test_configs_that_cannot_run(
    tiny_config: TunedConfig, config_path: Path, out: Path, capsys: Capture, change: Change, message: str
) -> None:
    change(tiny_config).save(config_path)
    assert generate(config_path, out, "--prompt", "a") == 2
    assert re.search(message, one_error_line(capsys))
    assert nothing_written(out)


def test_a_yaml_of_a_newer_version_or_with_unknown_keys(
    config_path: Path, out: Path, capsys: Capture
) -> None:
    text = config_path.read_text(encoding="utf-8")
    for wrong, message in (
        (text.replace("format_version: 1", "format_version: 99"), "needs a newer ecdiff"),
        (text.replace("alpha:", "aplha:"), "Unknown key params.aplha"),
    ):
        config_path.write_text(wrong, encoding="utf-8")
        assert generate(config_path, out, "--prompt", "a") == 2
        error = one_error_line(capsys)
        assert message in error
        assert str(config_path) in error
        assert nothing_written(out)


@pytest.mark.parametrize("below", ["", "folder"])
def test_out_that_cannot_be_written(config_path: Path, tmp_path: Path, capsys: Capture, below: str) -> None:
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    assert generate(config_path, tmp_path / "file" / below, "--prompt", "a") == 2
    assert f"Cannot write to --out {tmp_path / 'file' / below}" in one_error_line(capsys)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "kept"


def broken_pair(config: TunedConfig, folder: Path) -> TunedConfig:
    """The config on a copy of its pair whose cloud weights are not numbers."""
    shutil.copytree(Path(config.pair.cloud.id), folder)
    path = next((folder / "unet").glob("*.safetensors"))
    tensors = {name: torch.full_like(tensor, float("nan")) for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    return replace(config, pair=replace(config.pair, cloud=ModelRef(str(folder))))


@pytest.mark.parametrize("what", ["image", "video"])
def test_a_full_disk_is_one_line_and_leaves_no_half_file(
    what: str,
    config_path: Path,
    video_config: TunedConfig,
    out: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def save(_: object, path: Path | str, **others: object) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if what == "video":
        pytest.importorskip("imageio_ffmpeg")
        monkeypatch.setattr("diffusers.utils.export_to_video", save)
        video_config.save(config_path)
    else:
        monkeypatch.setattr(Image.Image, "save", save)
    assert generate(config_path, out, "--prompt", "a circle", "--seed", "7") == 2
    name = "00007.mp4" if what == "video" else "00007.png"
    assert capsys.readouterr().err == f"error: Cannot write {out / name}: No space left on device.\n"
    assert names(out) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_one_line(
    config_path: Path, out: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert generate(config_path, out, "--prompt", "a circle") == 2
        assert names(out) == ["00000.png"]
    assert capsys.readouterr().err == "error: No space left on device: nothing more can be written.\n"


def test_latents_that_are_not_finite(
    tiny_config: TunedConfig, config_path: Path, out: Path, tmp_path: Path, capsys: Capture
) -> None:
    broken_pair(tiny_config, tmp_path / "nan").save(config_path)
    assert generate(config_path, out, "--prompt", "a") == 2
    assert "not finite" in one_error_line(capsys)
    assert nothing_written(out)


@pytest.mark.parametrize(
    ("argv", "last_line"),
    [
        ([], r"error: .*required"),
        (["generte"], r"error: .*invalid choice: 'generte'"),
        (["generate", "--prompt", "a"], r"error: .*required: --config"),
        (["generate", "--config", "x", "--mode", "hybird"], r"error: .*--mode: invalid choice: 'hybird'"),
        (["generate", "--config", "x", "--seed", "one"], r"error: .*--seed: invalid int value: 'one'"),
        (["generate", "--config", "x", "--sed", "1"], r"error: unrecognized arguments: --sed 1"),
    ],
)
def test_mistyped_options(capsys: Capture, argv: list[str], last_line: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert re.search(last_line, stderr.splitlines()[-1])


def test_the_tuned_params_are_used(tiny_config: TunedConfig, config_path: Path, out: Path) -> None:
    replace(tiny_config, params=ECDiffParams(p=2, k=1, alpha=0.5, s=6)).save(config_path)
    assert generate(config_path, out, "--prompt", "a") == 0
    assert opened(out / "00000.png").text["ecdiff:plan"] == "2C1A1C1A1C6E"


def test_fingerprints_of_the_tuner_are_accepted(
    tiny_config: TunedConfig, config_path: Path, out: Path
) -> None:
    pair = load_pair(tiny_config.pair, device=torch.device("cpu"), dtype=torch.float32)
    replace(tiny_config, pair=pair.spec).save(config_path)
    assert generate(config_path, out, "--prompt", "a") == 0


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, where libraries write to a stderr that nobody watches here."""
    return subprocess.run(
        [sys.executable, "-m", "ecdiff_core", *arguments], capture_output=True, text=True, check=False
    )


def test_help_needs_no_torch_and_names_every_option() -> None:
    done = run("generate", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    options = "config prompt prompts-file negative-prompt seed out mode batch-size device dtype any-weights"
    for option in options.split():
        assert f"--{option}" in done.stdout
    script = (
        "import sys, contextlib, ecdiff_core.__main__ as m\n"
        "with contextlib.suppress(SystemExit): m.main(['generate', '--help'])\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stderr == "False\n"


def test_in_a_process_of_its_own_the_error_is_one_line(
    tiny_config: TunedConfig, config_path: Path, out: Path, tmp_path: Path
) -> None:
    """Both models are loaded and run before this error, so all that libraries would say has been said."""
    broken_pair(tiny_config, tmp_path / "nan").save(config_path)
    done = run(
        "generate", "--config", str(config_path), "--prompt", "a", "--out", str(out), "--device", "cpu"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: The image is not finite .*\n", done.stderr)
    assert nothing_written(out)


@pytest.mark.parametrize("basis", ["", "predicted, not measured"])
def test_an_early_answer_says_that_it_is_one(
    tiny_config: TunedConfig, config_path: Path, out: Path, capsys: Capture, basis: str
) -> None:
    score = {"quality": 0.9, **({"basis": basis} if basis else {})}
    replace(tiny_config, score=score).save(config_path)
    assert generate(config_path, out, "--prompt", "a red circle") == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert told == ["note: the config is an early answer: predicted, not measured"] * bool(basis)
    if basis:
        assert f"basis: {basis}  # an early answer" in config_path.read_text("utf-8")


def test_an_acceleration_is_named(
    tiny_config: TunedConfig, tmp_path: Path, out: Path, capsys: Capture
) -> None:
    """Its calls are cheaper than the cloud's own, of whose seconds nothing is known."""
    method = MethodChoice("taylorseer", {"cache_interval": 2})
    replace(tiny_config, params=ECDiffParams.cloud_only(12), method=method).save(tmp_path / "fast.yaml")
    assert generate(tmp_path / "fast.yaml", out, "--prompt", "a ring") == 0
    closing = capsys.readouterr().out.splitlines()[-1]
    plan = "12 steps = 12 cloud + 0 approximated + 0 edge"
    assert re.fullmatch(rf"{re.escape(plan)} with TaylorSeer cache_interval=2 .* · \d+\.\d\d s", closing)
