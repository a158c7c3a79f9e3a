"""Trains the embedded pair from nothing and writes it as two diffusers folders.

    python scripts/train_shapes_pair.py --out ecdiff_core/shapes

Stages: autoencoder, text encoder, cloud UNet, edge UNet (distilled), export. Every stage keeps a checkpoint
in --work, so that a stopped run goes on where it was; delete that folder to start again.

    python scripts/train_shapes_pair.py --start-from ecdiff_core/shapes --cloud-steps 2000 --cloud-lr 3e-4

takes the autoencoder, the text encoder and both UNets of an exported pair and trains the UNets on, the text
encoder with the cloud's; --vae-steps and --text-steps then mean nothing. A start needs a --work of its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from numpy.typing import NDArray

from ecdiff_core.io.atomic_files import write_text
from shapes_pair import models
from shapes_pair.data import training_images, training_scenes
from shapes_pair.export import export
from shapes_pair.train_text import train_text
from shapes_pair.train_unets import TrainingData, train_cloud, train_edge
from shapes_pair.train_vae import encode, reconstruction_psnr, train_vae


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, default=Path("outputs/shapes_pair"), help="checkpoints live here"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/shapes_pair/trained"), help="cloud/ and edge/ go here"
    )
    parser.add_argument("--start-from", type=Path, help="an exported pair: a folder with cloud/ and edge/")
    parser.add_argument("--scenes", type=int, default=20_000, help="number of training scenes")
    parser.add_argument("--vae-steps", type=int, default=2000)
    parser.add_argument("--text-steps", type=int, default=400)
    parser.add_argument("--cloud-steps", type=int, default=6300)
    parser.add_argument("--cloud-lr", type=float, default=8e-4, help="peak learning rate")
    parser.add_argument("--edge-steps", type=int, default=2400)
    parser.add_argument("--edge-lr", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    claim(args.work, str(args.start_from or "nothing"), parser)
    return args


def claim(work: Path, start: str, parser: argparse.ArgumentParser) -> None:
    """Bind a folder of checkpoints to what its training started from."""
    path = work / "started_from.txt"
    if path.exists() and path.read_text(encoding="utf-8") != start:
        parser.error(f"{work} holds a training that started from {path.read_text(encoding='utf-8')}.")
    if not path.exists() and any(work.glob("*.pt")):
        parser.error(f"{work} holds checkpoints of another training. Choose another --work.")
    write_text(path, start)


def latents_of(vae: AutoencoderKL, images: NDArray[np.uint8], folder: Path) -> torch.Tensor:
    """Scaled latents of the images, half precision, shape (n, 4, 16, 16); encoded once."""
    path = folder / f"latents_{len(images)}.pt"
    if not path.exists():
        part = path.with_suffix(".part")
        torch.save((encode(vae, images) * vae.config.scaling_factor).half(), part)
        part.rename(path)
    return torch.load(path, weights_only=True)


def load_weights(folder: Path, **parts: torch.nn.Module) -> None:
    """Fill parts with the weights of an exported pipeline."""
    exported = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    for name, part in parts.items():
        part.load_state_dict(getattr(exported, name).state_dict())
    if "vae" in parts:  # the one number of a config that training finds
        parts["vae"].register_to_config(scaling_factor=exported.vae.config.scaling_factor)


def main() -> None:
    args = parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    device = torch.device(args.device)
    torch.manual_seed(0)

    scene_list = training_scenes(args.scenes)
    captions = [scene.caption() for scene in scene_list]
    images = training_images(args.work, scene_list)
    tokenizer = models.tokenizer(captions)
    if args.start_from:
        tokenizer = type(tokenizer).from_pretrained(args.start_from / "cloud" / "tokenizer")
    vae, encoder = models.vae().to(device), models.text_encoder(tokenizer).to(device)
    cloud, edge = models.cloud_unet().to(device), models.edge_unet().to(device)
    if args.start_from:
        load_weights(args.start_from / "cloud", vae=vae, text_encoder=encoder, unet=cloud)
        load_weights(args.start_from / "edge", unet=edge)

    def tokens(texts: list[str]) -> torch.Tensor:
        return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids

    token_ids = tokens(captions)
    if not args.start_from:
        train_vae(vae, images, folder=args.work, steps=args.vae_steps)
        train_text(encoder, token_ids, images, folder=args.work, steps=args.text_steps)
    print(f"vae: {reconstruction_psnr(vae, images[:512]):.2f} dB on training images", flush=True)

    # Where a lone object goes is the hardest to learn: such scenes come twice as often.
    frequency = torch.tensor([2.0 if len(scene.objects) == 1 else 1.0 for scene in scene_list])
    data = TrainingData(latents_of(vae, images, args.work), token_ids, tokens([""]), frequency)
    scheduler = models.scheduler()
    train_cloud(
        cloud, encoder, scheduler, data, folder=args.work, steps=args.cloud_steps, peak_lr=args.cloud_lr
    )
    train_edge(
        edge, cloud, encoder, scheduler, data, folder=args.work, steps=args.edge_steps, peak_lr=args.edge_lr
    )

    for name, unet in (("cloud", cloud), ("edge", edge)):
        parts = (vae.half(), encoder.half(), tokenizer, unet.half(), scheduler, None, None)
        pipeline = StableDiffusionPipeline(*parts, requires_safety_checker=False)
        export(pipeline, args.out / name, args.start_from and args.start_from / "cloud")


if __name__ == "__main__":
    main()
