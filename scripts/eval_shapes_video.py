"""Measures the embedded video pair on captions that training never saw.

    python scripts/eval_shapes_video.py [--config ecdiff.yaml] [--vbench FOLDER]

Generates every caption by the cloud, the edge, HybridSD (the cloud, then the edge for the last --edge-steps)
and a tuned config, with the handoff converted (matched) and, where there is one, once more without
(identity). Reads the clips back against their captions and compares them with the cloud's, frame by frame.
Prints a table; writes it as JSON (--out) and a contact sheet beside it (three clips, each by cloud, edge and
HybridSD), and VBench's dimensions as `python scripts/vbench.py score --partial FOLDER/*` reads them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

import quiet_terminal  # noqa: F401
from ecdiff_core import ECDiffPipeline, Sampling, TunedConfig
from ecdiff_core.io.atomic_files import replacing, write_text
from ecdiff_core.shapes_video.grammar import MovingScene, scenes
from ecdiff_tune.metrics.images import psnr, ssim
from ecdiff_tune.metrics.intervals import interval95
from shapes_pair import evaluate
from shapes_video import dimensions
from shapes_video.draw import draw
from shapes_video.read import read
from shapes_video.train_vae import decode, encode

SHEET_CLIPS = 3
COLUMNS = {
    "objects": "color_right",
    "motions": "motion_right",
    "objects and motions": "object_and_motion_right",
    "shapes": "shape_right",
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pair", type=Path, default=Path("ecdiff_core/shapes_video"), help="a folder with cloud/ and edge/"
    )
    parser.add_argument("--config", type=Path, metavar="YAML", help="tuned for the pair, for the run `tuned`")
    parser.add_argument("--vbench", type=Path, metavar="FOLDER", help="for a run's *_eval_results.json each")
    parser.add_argument("--prompts", type=int, default=50, help="number of held-out captions")
    parser.add_argument("--steps", type=int, default=50, help="CogVideoX DDIM steps")
    parser.add_argument("--edge-steps", type=int, nargs="+", default=[10, 25], help="of the HybridSD runs")
    parser.add_argument("--guidance-scale", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=10, help="captions generated at once")
    parser.add_argument("--seed", type=int, default=0, help="of the captions, the drawings and the noise")
    parser.add_argument("--out", type=Path, default=Path("outputs/shapes_video_eval.json"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def shares_right(clips: Tensor, scene_list: list[MovingScene]) -> dict[str, float]:
    """Shares in 0 … 1 of what is right in clips (n, frames, 3, 64, 64)."""
    readings = [read(c.permute(0, 2, 3, 1).numpy(), s) for c, s in zip(clips, scene_list, strict=True)]
    objects = [o for reading in readings for o in reading.objects]
    found = {name: statistics.fmean(getattr(o, field) for o in objects) for name, field in COLUMNS.items()}
    return found | {"backgrounds": statistics.fmean(r.background_right for r in readings)}


def generate_all(pipe: ECDiffPipeline, captions: list[str], args: argparse.Namespace) -> dict[str, Tensor]:
    """Clips by the name of a run."""
    runs = {
        name: (params, pipe.config.sampling)
        for name, params in evaluate.runs(pipe.num_steps, args.edge_steps).items()
    }
    if args.config:
        config = TunedConfig.load(args.config)
        runs["tuned"] = config.params, config.sampling
    found = {}
    for name, (params, sampling) in runs.items():
        for adapter in ("matched",) if name in ("cloud", "edge") else ("matched", "identity"):
            of_run = replace(sampling, handoff_adapter=adapter)
            run = ECDiffPipeline(pipe.pair, replace(pipe.config, sampling=of_run))
            label = name if adapter == "matched" else f"{name} {adapter}"
            found[label] = evaluate.generate(run, params, captions, args.batch, args.seed)
    return found


def measure(generated: dict[str, Tensor], drawn: Tensor, decoded: Tensor, held: list[MovingScene]) -> Any:
    """All figures of the clips."""
    compared = {name: ssim(clips, generated["cloud"]) for name, clips in generated.items() if name != "cloud"}
    to_read = {"drawn": drawn, "autoencoder": decoded, **generated}
    return {
        "vae_psnr_db": float(psnr(decoded, drawn).mean()),
        "right": {name: shares_right(clips, held) for name, clips in to_read.items()},
        "ssim_to_cloud": {
            name: {
                "mean": float(v.mean()),
                "ci95": interval95(v.tolist(), seed=0),
                "std": float(v.std()),
                "min": float(v.min()),
            }
            for name, v in compared.items()
        },
    }


def print_table(figures: dict[str, Any]) -> None:
    """Rows of clips' origins and columns of shares."""
    print(f"autoencoder {figures['vae_psnr_db']:.2f} dB PSNR\n")
    columns = list(figures["right"]["drawn"])
    print(" " * 20 + "  ".join(columns) + "  ssim to cloud: mean (min)")
    for name, shares in figures["right"].items():
        row = "  ".join(f"{shares[column]:{len(column)}.3f}" for column in columns)
        close = figures["ssim_to_cloud"].get(name)
        print(f"{name:20}{row}" + (f"  {close['mean']:.4f} ({close['min']:.4f})" if close else ""))


def write_sheet(generated: dict[str, Tensor], path: Path) -> None:
    """Frames of the first clips from left to right, by cloud, edge and HybridSD below each other."""
    first = [clips[:SHEET_CLIPS] for clips in list(generated.values())[:3]]
    rows = [clip for by_origin in zip(*first, strict=True) for clip in by_origin]
    sheet = torch.cat([torch.cat(list(pad(row, (1, 1, 1, 1))), dim=2) for row in rows], dim=1)
    image = Image.fromarray((sheet.nan_to_num() * 255).round().byte().permute(1, 2, 0).numpy())
    with replacing(path) as part:
        image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST).save(part, format="PNG")


def main() -> None:
    args = parse_args()
    sampling = Sampling(
        num_inference_steps=args.steps,
        guidance_scale=args.guidance_scale,
        scheduler="CogVideoXDDIMScheduler",
        handoff_adapter="matched",
    )
    pipe = evaluate.load(args.pair / "cloud", args.pair / "edge", sampling, args.device)
    held = list(itertools.islice(scenes(args.seed, held_out=True), args.prompts))
    rng = np.random.default_rng(args.seed)
    drawn = torch.from_numpy(np.stack([draw(scene, rng) for scene in held]))
    vae = pipe.pair.family.pipeline.vae
    decoded = decode(vae, encode(vae, (drawn * 255).round().byte()).to(args.device))
    generated = generate_all(pipe, [scene.caption() for scene in held], args)
    figures = measure(generated, drawn.permute(0, 1, 4, 2, 3), decoded, held)
    for name, clips in generated.items() if args.vbench else ():
        values = dimensions.judge(list(clips.permute(0, 1, 3, 4, 2).numpy()), held)
        dimensions.write(values, args.vbench / f"{name.replace(' ', '_')}_eval_results.json")
    print_table(figures)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    write_text(args.out, json.dumps({"settings": settings, **figures}, indent=2) + "\n")
    write_sheet(generated, args.out.with_suffix(".png"))
    print(f"\nwrote {args.out} and {args.out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
