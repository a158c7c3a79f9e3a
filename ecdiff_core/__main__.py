"""``ecdiff generate``, ``serve``, ``link``: images or videos from a tuned config, on one machine or two."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, get_args

from ecdiff_core import __version__
from ecdiff_core.errors import CloudUnavailableError, OutputError, ParamsError
from ecdiff_core.io.atomic_files import replacing
from ecdiff_core.io.console import print_anywhere, quiet_libraries, run_command, show_loading
from ecdiff_core.io.text import is_unicode, visible
from ecdiff_core.io.threads import share_cores
from ecdiff_core.io.video import FPS, check_writer, save_mp4
from ecdiff_core.sampling.params import MAX_SEED
from ecdiff_core.sampling.plan import Mode, Plan
from ecdiff_core.serving.cloud_option import (
    add_cloud,
    check_cloud,
    check_options,
    fall_back,
    remote_cloud,
    within_deadline,
)
from ecdiff_core.serving.commands import add_link, add_serve, link, serve

if TYPE_CHECKING:
    from PIL.Image import Image

    from ecdiff_core.output import ECDiffOutput, Seconds
    from ecdiff_core.pipeline import ECDiffPipeline

_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
"""Which tuning reads, and this does not."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ecdiff", description="Images or videos from a tuned EC-Diff config."
    )
    parser.add_argument("--version", action="version", version=f"ecdiff {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    generate = commands.add_parser(
        "generate",
        help="write one PNG or MP4 a prompt",
        description="Write one PNG a prompt, named by its seed; of video models, one MP4 and its story as "
        "JSON. Nothing is overwritten: a name that is taken gets -2, -3, … after the seed.",
    )
    add = generate.add_argument
    add(
        "--config",
        required=True,
        metavar="YAML",
        help="tuned config: a file, or shapes, which comes with ecdiff",
    )
    add("--prompt", action="append", default=[], metavar="TEXT", help="may be given several times")
    add("--prompts-file", type=Path, metavar="TXT", help="one prompt a line")
    add("--negative-prompt", metavar="TEXT", help="for all prompts")
    add(
        "--seed",
        type=int,
        default=0,
        help="of the first prompt; each next one takes the next seed (default 0)",
    )
    add(
        "--out", type=Path, default=Path("outputs/generated"), metavar="DIR", help="default outputs/generated"
    )
    add("--mode", choices=get_args(Mode), default="ecdiff", help="as tuned, or a baseline (default ecdiff)")
    add("--batch-size", type=int, default=1, metavar="N", help="prompts at a time (default 1)")
    add("--fps", type=int, default=FPS, metavar="N", help=f"frames a second of videos (default {FPS})")
    add("--device", default=None, help="cpu, cuda, … (default: the accelerator if there is one)")
    add("--dtype", default=None, help="float32, float16 or bfloat16 (default: the config's)")
    add("--offload", default="none", help="none, model or sequential: less memory, more time (default none)")
    add("--vae-slicing", action="store_true", help="decode one image of a batch at a time")
    add("--vae-tiling", action="store_true", help="decode images tile by tile")
    add("--any-weights", action="store_true", help="accept weights that the config was not tuned for")
    add_cloud(add)
    add_serve(commands)
    add_link(commands)
    return parser


def _prompts(args: argparse.Namespace) -> list[str]:
    prompts = list(args.prompt)
    if not all(prompt.strip() for prompt in prompts):
        raise ParamsError("A --prompt is empty.", key="--prompt", advice="Give it words, or leave it out.")
    if args.prompts_file is not None:
        if args.prompts_file.suffix.lower() in _TABLES:
            expected = "to be text with one prompt a line, not a table"
            line = f"Expected {args.prompts_file} {expected}."
            raise ParamsError(line, key="--prompts-file", got=str(args.prompts_file), expected=expected)
        try:
            lines = args.prompts_file.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            line = f"Cannot read the prompts file {args.prompts_file}: {reason}."
            raise ParamsError(line, key="--prompts-file", got=str(args.prompts_file)) from error
        prompts += [line.strip() for line in lines if line.strip()]
    for prompt in prompts:
        if "\0" in prompt or not is_unicode(prompt):
            line = f"Expected prompts to be UTF-8 text, got '{visible(prompt)}'."
            raise ParamsError(line, key="--prompt", got=visible(prompt), expected="UTF-8 text")
    if not prompts:
        line = "No prompt: give --prompt TEXT or a --prompts-file with at least one line."
        raise ParamsError(line, key="--prompt")
    return prompts


def _save(
    output: ECDiffOutput, pipe: ECDiffPipeline, prompts: list[str], seeds: list[int], args: argparse.Namespace
) -> None:
    """Files named by seed, each with what it takes to make it again in or beside it; none is overwritten."""
    video = pipe.pair.family.media == "video"
    for image, prompt, seed in zip(output.images, prompts, seeds, strict=True):
        story = {"prompt": prompt, "seed": str(seed), "mode": args.mode, "plan": output.plan.schedule}
        if args.cloud is not None:
            story["cloud"] = args.cloud
            if pipe.cloud is None:
                story |= {"cloud": "fallback to the edge", "mode": "edge"}
        if args.negative_prompt:
            story["negative_prompt"] = args.negative_prompt
        if pipe.choice and pipe.cloud is not None:
            story["choice"] = pipe.choice
        story["config"] = replace(pipe.config, front=None).to_yaml()
        path = _free(args.out / f"{seed:05d}.{'mp4' if video else 'png'}")
        if video:
            with replacing(path.with_suffix(".json")) as part:  # neither file is there without the other
                part.write_text(json.dumps(story, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
                save_mp4(path, image, args.fps)
        else:
            _save_png(path, image, story)
        print(f"{path}  {visible(prompt)}", flush=True)
        if all(low == high for frame in (image if video else [image]) for low, high in _extrema(frame)):
            print(
                f"note: {path.name} is of one colour, which no prompt asks for: the decoder probably left "
                "what its dtype holds. Try --dtype float32 or bfloat16.",
                file=sys.stderr,
            )


def _extrema(image: Image) -> Sequence[tuple[float, float]]:
    """The least and the greatest value of every channel."""
    found = image.getextrema()
    return found if isinstance(found[0], tuple) else [found]


def _free(path: Path) -> Path:
    """The path, with ``-2``, ``-3``, … after its stem where there is such a file, or such a video's story."""
    stem, number = path.stem, 1
    while path.exists() or (path.suffix == ".mp4" and path.with_suffix(".json").exists()):
        number += 1
        path = path.with_stem(f"{stem}-{number}")
    return path


def _save_png(path: Path, image: Image, story: dict[str, str]) -> None:
    """A PNG with its story in the metadata."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in story.items():
        info.add_itxt(f"ecdiff:{key}", value)
    with replacing(path) as part:
        image.save(part, format="PNG", pnginfo=info)


def _cloud_alone(plan: Plan, spent: Sequence[Seconds]) -> float | None:
    """Seconds that the cloud model alone would have taken; None where the plan has no call of it."""
    if not plan.cloud_calls:
        return None
    cloud_call = sum(one.cloud for one in spent) / plan.cloud_calls
    return sum(one.encode + one.decode for one in spent) + cloud_call * plan.num_steps


def generate(args: argparse.Namespace) -> None:
    """Run the command; prints a line an image and a closing line with calls and seconds."""
    # Torch and diffusers take seconds to import: --help and a mistyped option should not wait for them.
    if args.batch_size < 1:
        raise ParamsError(key="--batch-size", got=args.batch_size, expected=">= 1")
    if args.fps < 1:
        raise ParamsError(key="--fps", got=args.fps, expected=">= 1")
    if not 0 <= args.seed <= MAX_SEED:
        raise ParamsError(key="--seed", got=args.seed, expected=f"within 0 … {MAX_SEED}")
    prompts = _prompts(args)
    check_options(args)
    quiet_libraries()
    import torch
    from tqdm import tqdm

    from ecdiff_core.config import TunedConfig
    from ecdiff_core.models.find import find_configs
    from ecdiff_core.models.memory import Batches, Memory, keep_freed_memory
    from ecdiff_core.models.pair_files import family_of
    from ecdiff_core.pipeline import ECDiffPipeline

    memory = Memory(args.offload, args.vae_slicing, args.vae_tiling)
    cloud = remote_cloud(args)
    config = TunedConfig.load(args.config)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=args.out):
            pass
    except OSError as error:
        line = f"Cannot write to --out {args.out}: {error.strerror}."
        raise OutputError(line, key="--out", got=str(args.out)) from error
    if family_of(find_configs(config.pair.cloud)).media == "video":
        check_writer()
    lost = check_cloud(cloud, args)
    show_loading(config.pair.name)
    pipe = ECDiffPipeline.from_config(
        config,
        device=args.device,
        dtype=args.dtype,
        memory=memory,
        check_weights=not args.any_weights,
        cloud=cloud,
    )
    if lost is not None:
        fall_back(pipe, lost)
    pipe = within_deadline(pipe, args)
    early = [f"the config is an early answer: {config.basis}"] if config.basis else []
    for note in (*early, *pipe.pair.notes):
        print(f"note: {note}", file=sys.stderr)
    if pipe.device.type == "cpu":
        keep_freed_memory()
    spent: list[Seconds] = []
    plan = pipe.plan(args.mode)
    bar = tqdm(unit="step", disable=not sys.stderr.isatty(), leave=False)

    def generate_rows(rows: Sequence[int]) -> ECDiffOutput:
        bar.reset(total=(len(prompts) - rows[0]) * plan.num_steps)
        return pipe(
            [prompts[row] for row in rows],
            negative_prompt=args.negative_prompt,
            generator=[torch.Generator().manual_seed(args.seed + row) for row in rows],
            mode="edge" if pipe.cloud is None and cloud is not None else args.mode,
            on_step=lambda *_: bar.update(len(rows)),
        )

    def run(rows: Sequence[int]) -> ECDiffOutput:
        try:
            return generate_rows(rows)
        except CloudUnavailableError as error:
            if args.fallback != "edge":
                raise
            fall_back(pipe, error)
            return generate_rows(rows)

    batches = Batches(args.batch_size, log=lambda line: print(f"note: {line}", file=sys.stderr))
    for rows, output in batches.over(range(len(prompts)), run):
        bar.clear()
        _save(output, pipe, [prompts[row] for row in rows], [args.seed + row for row in rows], args)
        spent.append(output.seconds)
    bar.close()
    if cloud is not None and pipe.cloud is None:
        plan = pipe.plan("edge")
    closing = f"{plan} · {sum(one.total for one in spent) / len(prompts):.2f} s"
    alone = None if args.mode == "cloud" or cloud is not None else _cloud_alone(plan, spent)
    if alone is not None:
        closing += f" (cloud only about {alone / len(prompts):.2f} s)"
    what = "video" if pipe.pair.family.media == "video" else "image"
    print(closing + (f" per {what}" if len(prompts) > 1 else ""))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``ecdiff``; returns the exit status."""
    share_cores()
    print_anywhere()
    args = _parser().parse_args(argv)
    if args.command == "generate":
        return run_command(lambda: generate(args), "; images that are listed above are complete")
    return run_command(lambda: {"serve": serve, "link": link}[args.command](args))


if __name__ == "__main__":
    sys.exit(main())
