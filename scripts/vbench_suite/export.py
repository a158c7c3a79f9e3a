"""Videos as VBench wants them: ``$prompt-$index.mp4``, five a prompt, each with a seed that is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch

from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import ParamsError
from ecdiff_core.io.atomic_files import write_text
from ecdiff_core.io.text import counted
from ecdiff_core.io.video import FPS, check_writer, save_mp4
from ecdiff_core.models.devices import dtype_name
from ecdiff_core.models.memory import Batches
from ecdiff_core.output import ECDiffOutput
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.params import MAX_SEED
from ecdiff_core.sampling.plan import Mode
from vbench_suite.scores import VBenchError, read_suite

SAMPLES = 5
"""Videos a prompt: VBench reads those with index 0 … 4."""
VIDEOS, LIST, STATE = "videos", "videos.jsonl", "export.json"
_LONGEST = 230
"""Bytes of a video's name: file systems allow 255, and the unfinished file's name is somewhat longer."""


@dataclass(frozen=True)
class Video:
    """One to be made. Its seed depends on nothing but itself, so that any part of a suite is the same."""

    prompt: str
    index: int
    seed: int

    @property
    def file(self) -> str:
        """Its name as VBench looks for it."""
        return f"{self.prompt}-{self.index}.mp4"


@dataclass(frozen=True)
class Request:
    """What to export.

    Args:
        config: tuned YAML of a video pair.
        suite: ``VBench_full_info.json``, or a text file with a prompt a line.
        out: folder for ``videos/``, ``videos.jsonl`` (prompt, index, seed) and ``export.json`` (settings).
        mode: as tuned, or a baseline with the same settings.
        samples: videos a prompt.
        seed: all videos' seeds come from it, their prompt and their index.
        first: only the first so many prompts; None is all.
        batch_size: videos at a time.
        fps: frames a second.
        device, dtype: where and in what to run; None is the accelerator, and the config's.
        check_weights: refuse weights whose fingerprint is not the config's.

    Raises:
        ParamsError: a value is out of range.
    """

    config: Path
    suite: Path
    out: Path
    mode: Mode = "ecdiff"
    samples: int = SAMPLES
    seed: int = 0
    first: int | None = None
    batch_size: int = 1
    fps: int = FPS
    device: str | None = None
    dtype: str | None = None
    check_weights: bool = True

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ParamsError.unknown("mode", self.mode, get_args(Mode))
        for name in ("samples", "first", "batch_size", "fps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParamsError(key=f"--{name.replace('_', '-')}", got=value, expected=">= 1")
        if not 0 <= self.seed <= MAX_SEED:
            raise ParamsError(key="--seed", got=self.seed, expected=f"within 0 … {MAX_SEED}")

    def videos(self) -> list[Video]:
        """All that are wanted, prompt by prompt.

        Raises:
            VBenchError: the suite cannot be read, or a prompt is no file's name.
        """
        prompts = read_suite(self.suite)[: self.first]
        wanted = [Video(one, i, _seed(self.seed, one, i)) for one in prompts for i in range(self.samples)]
        for video in wanted:
            size = len(video.file.encode())
            if size > _LONGEST or not video.prompt.isprintable() or "/" in video.prompt:
                raise VBenchError(
                    f"VBench names a video by its prompt, but {video.prompt[:40]!r}… of {self.suite} is no "
                    f"file's name: at most {_LONGEST} bytes (this: {size}), printable, no slash.",
                    key=str(self.suite),
                    got=video.prompt,
                    expected=f"at most {_LONGEST} bytes",
                )
        return wanted


def _seed(seed: int, prompt: str, index: int) -> int:
    return int(hashlib.sha256(f"{seed}\n{prompt}\n{index}".encode()).hexdigest()[:8], 16)


def export(request: Request, log: Callable[[str], None] = print) -> None:
    """Make the videos that are not there yet; the same request goes on where it was stopped.

    Args:
        log: called with a line a video.

    Raises:
        VBenchError: the pair makes images, or ``out`` holds videos of other settings.
        ECDiffError: the config, the models or the folder cannot be used.
    """
    wanted = request.videos()
    config = TunedConfig.load(request.config)
    if request.dtype is not None:
        config = replace(config, sampling=replace(config.sampling, dtype=dtype_name(request.dtype)))
    check_writer()
    state = _state(request, config)
    _refuse_others(request.out, state)
    missing = [one for one in wanted if not (request.out / VIDEOS / one.file).is_file()]
    if missing:
        pipe = ECDiffPipeline.from_config(config, device=request.device, check_weights=request.check_weights)
        if pipe.pair.family.media != "video":
            line = f"VBench measures videos, and the pair {config.pair.name} makes images."
            raise VBenchError(line, key="pair", got=config.pair.name, expected="video")
        write_text(request.out / STATE, json.dumps(state, indent=2, ensure_ascii=False) + "\n")
        _list(request.out / LIST, wanted)
        _make(pipe, missing, request, log)
    log(f"{counted(len(wanted), 'video')} in {request.out / VIDEOS}, {len(missing)} of them made now")


def _make(
    pipe: ECDiffPipeline, missing: Sequence[Video], request: Request, log: Callable[[str], None]
) -> None:
    def run(rows: Sequence[int]) -> ECDiffOutput:
        return pipe(
            [missing[row].prompt for row in rows],
            generator=[torch.Generator().manual_seed(missing[row].seed) for row in rows],
            mode=request.mode,
        )

    for rows, output in Batches(request.batch_size, log).over(range(len(missing)), run):
        for row, frames in zip(rows, output.images, strict=True):
            path = request.out / VIDEOS / missing[row].file
            save_mp4(path, frames, request.fps)
            log(str(path))


def _state(request: Request, config: TunedConfig) -> dict[str, Any]:
    """What the videos of a folder depend on beside their names."""
    bare = replace(config, score=None, provenance=None)
    return {"config": bare.to_yaml(), "mode": request.mode, "seed": request.seed, "fps": request.fps}


def _refuse_others(out: Path, state: Mapping[str, Any]) -> None:
    path = out / STATE
    if not path.is_file():
        return
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise VBenchError(f"{path} is damaged.", key=str(path), advice="Choose another --out.") from error
    others = [name for name, value in state.items() if found.get(name) != value]
    if others:
        line = f"{out} holds videos of another {' and '.join(others)}."
        raise VBenchError(line, key="--out", got=others, advice="Choose another --out.")


def _list(path: Path, wanted: Sequence[Video]) -> None:
    """All videos' prompts, indices and seeds, those of earlier requests included."""
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n") if path.is_file() else []
    lines += [json.dumps({"file": one.file, **asdict(one)}, ensure_ascii=False) for one in wanted]
    write_text(path, "\n".join(dict.fromkeys(lines)) + "\n")
