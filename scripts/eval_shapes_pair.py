"""Measures the embedded pair on captions that training never saw.

    python scripts/eval_shapes_pair.py
    python scripts/eval_shapes_pair.py --pair ecdiff_core/shapes_flow --steps 28 --edge-steps 6 14 \
        --scheduler FlowMatchEulerDiscreteScheduler

Generates every caption by the cloud, the edge and HybridSD (the cloud, then the edge for the last
--edge-steps), reads the images back against their captions, and compares them with the cloud's. Prints a
table; writes it as JSON (--out) and an image grid beside it (rows: cloud, edge, the first HybridSD).
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import pad

import quiet_terminal  # noqa: F401
from ecdiff_core import ECDiffPipeline, Sampling
from ecdiff_core.io.atomic_files import replacing, write_text
from ecdiff_core.shapes.grammar import Scene, scenes
from ecdiff_tune.evaluation import latency
from ecdiff_tune.evaluation.link import Link
from ecdiff_tune.metrics.images import psnr, ssim
from shapes_pair import evaluate
from shapes_pair.draw import draw

GRID_PROMPTS = 10


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pair", type=Path, default=Path("ecdiff_core/shapes"), help="a folder with cloud/ and edge/"
    )
    parser.add_argument("--prompts", type=int, default=100, help="number of held-out captions")
    parser.add_argument("--steps", type=int, default=50, help="sampling steps")
    parser.add_argument("--scheduler", default="DDIMScheduler", help="a diffusers scheduler class")
    parser.add_argument("--edge-steps", type=int, nargs="+", default=[10, 25], help="of the HybridSD runs")
    parser.add_argument("--guidance-scale", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=25, help="prompts generated at once")
    parser.add_argument("--seed", type=int, default=0, help="of the captions, the drawings and the noise")
    parser.add_argument("--out", type=Path, default=Path("outputs/shapes_eval.json"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    if args.prompts < 1 or args.batch < 1:
        parser.error(f"Expected --prompts and --batch of at least 1, got {args.prompts} and {args.batch}.")
    if args.steps < max(args.edge_steps):
        parser.error(f"Expected --steps of at least {max(args.edge_steps)}, got {args.steps}.")
    for folder in (args.pair / "cloud", args.pair / "edge"):
        if not (folder / "model_index.json").is_file():
            parser.error(f"No diffusers pipeline in {folder}. Train one with scripts/train_shapes_pair.py.")
    return args


def measure(
    pipe: ECDiffPipeline, scene_list: list[Scene], batch: int, seed: int, edge_steps: list[int]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """All figures, and the generated images by name."""
    profile = latency.measure(pipe, Link())
    cloud_seconds, edge_seconds = profile.cloud_call.median, profile.edge_call.median
    rng = np.random.default_rng(seed)
    drawn = torch.stack([torch.from_numpy(draw(scene, rng)).permute(2, 0, 1) for scene in scene_list]).float()
    decoded = evaluate.reconstruct(pipe, drawn, batch)
    captions = [scene.caption() for scene in scene_list]
    generated = {
        name: evaluate.generate(pipe, params, captions, batch, seed)
        for name, params in evaluate.runs(pipe.num_steps, edge_steps).items()
    }
    compared = {name: ssim(p, generated["cloud"]) for name, p in generated.items() if name != "cloud"}
    # The first two rows tell what the reader and the autoencoder leave of an image that is right.
    to_read = {"drawn": drawn, "autoencoder": decoded, **generated}
    figures = {
        "parameters": {
            "cloud": evaluate.count_parameters(pipe.pair.cloud),
            "edge": evaluate.count_parameters(pipe.pair.edge),
            **{
                name: evaluate.count_parameters(part)
                for name, part in pipe.pair.family.pipeline.components.items()
                if isinstance(part, nn.Module) and part is not pipe.pair.cloud
            },
        },
        "seconds_per_call": {
            "cloud": cloud_seconds,
            "edge": edge_seconds,
            "edge_over_cloud": edge_seconds / cloud_seconds,
        },
        "vae_psnr_db": float(psnr(decoded, drawn).mean()),
        "right": {name: evaluate.shares_right(images, scene_list) for name, images in to_read.items()},
        "ssim_to_cloud": {
            name: {"mean": float(v.mean()), "std": float(v.std()), "min": float(v.min())}
            for name, v in compared.items()
        },
    }
    return figures, generated


def print_table(figures: dict[str, Any]) -> None:
    """The figures, as rows of images' origins and columns of shares."""
    parameters, seconds = figures["parameters"], figures["seconds_per_call"]
    print("parameters  " + "  ".join(f"{name} {count:,}" for name, count in parameters.items()))
    print(
        f"one call    cloud {seconds['cloud'] * 1e3:.2f} ms  edge {seconds['edge'] * 1e3:.2f} ms  "
        f"edge/cloud {seconds['edge_over_cloud']:.3f}  (batch 1 with guidance)"
    )
    print(f"autoencoder {figures['vae_psnr_db']:.2f} dB PSNR\n")
    columns = list(figures["right"]["drawn"])
    print(" " * 12 + "  ".join(columns) + "  ssim to cloud: mean (min)")
    for name, shares in figures["right"].items():
        row = "  ".join(f"{shares[column]:{len(column)}.3f}" for column in columns)
        close = figures["ssim_to_cloud"].get(name)
        print(f"{name:12}{row}" + (f"  {close['mean']:.4f} ({close['min']:.4f})" if close else ""))


def write_grid(generated: dict[str, Tensor], path: Path) -> None:
    """The first prompts' images, a row for each of the first three origins, at twice their size."""
    rows = [pad(images[:GRID_PROMPTS], (1, 1, 1, 1)) for images in list(generated.values())[:3]]
    grid = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    image = Image.fromarray((grid.nan_to_num() * 255).round().byte().permute(1, 2, 0).numpy())
    with replacing(path) as part:
        image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST).save(part, format="PNG")


def main() -> None:
    args = parse_args()
    sampling = Sampling(
        num_inference_steps=args.steps, guidance_scale=args.guidance_scale, scheduler=args.scheduler
    )
    pipe = evaluate.load(args.pair / "cloud", args.pair / "edge", sampling, args.device)
    scene_list = list(itertools.islice(scenes(args.seed, held_out=True), args.prompts))
    figures, generated = measure(pipe, scene_list, args.batch, args.seed, args.edge_steps)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    print_table(figures)
    write_text(args.out, json.dumps({"settings": settings, **figures}, indent=2) + "\n")
    write_grid(generated, args.out.with_suffix(".png"))
    print(f"\nwrote {args.out} and {args.out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
