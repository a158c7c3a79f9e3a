"""Trains the embedded flow-matching pair and writes it as two diffusers folders.

    python scripts/train_shapes_flow.py --out ecdiff_core/shapes_flow

Autoencoder, tokenizer and the first text encoder start from the image pair's. Stages: cloud transformer with
the text encoders, edge transformer (distilled), export. Both stages keep a checkpoint in --work, so that a
stopped run goes on where it was; delete that folder to start again. The defaults suit an accelerator.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from ecdiff_core.shapes.grammar import scenes
from shapes_flow import models
from shapes_flow.train import TextEncoders, TrainingData, train_cloud, train_edge
from shapes_pair.data import SCENE_SEED, drawings
from shapes_pair.draw import draw
from shapes_pair.models import TEXT_WIDTH
from shapes_pair.train_vae import encode


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image-pair", type=Path, default=Path("ecdiff_core/shapes/cloud"))
    parser.add_argument("--work", type=Path, default=Path("outputs/shapes_flow"), help="of the checkpoints")
    parser.add_argument("--out", type=Path, help="cloud/ and edge/ go here; without it nothing is exported")
    parser.add_argument("--scenes", type=int, default=60_000, help="number of training scenes")
    parser.add_argument("--cloud-steps", type=int, default=12_000)
    parser.add_argument("--edge-steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--cloud-lr", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--edge-lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def first_encoder(folder: Path, tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """The image pair's text encoder, with a projection that changes nothing to begin with."""
    trained = CLIPTextModel.from_pretrained(folder, dtype=torch.float32).state_dict()
    encoder = models.text_encoder(tokenizer, TEXT_WIDTH, layers=3)
    prefix = "" if any(name.startswith("text_model.") for name in trained) else "text_model."
    wrong = encoder.load_state_dict({prefix + name: value for name, value in trained.items()}, strict=False)
    if wrong.unexpected_keys or set(wrong.missing_keys) - {"text_projection.weight"}:
        raise ValueError(f"The text encoder in {folder} is not the image pair's: {wrong}.")
    torch.nn.init.eye_(encoder.text_projection.weight)
    return encoder


def main() -> None:
    args = parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    device = torch.device(args.device)
    torch.manual_seed(0)

    scene_list = list(itertools.islice(scenes(SCENE_SEED), args.scenes))
    images = drawings(args.work / f"images_{args.scenes}.npy", scene_list, draw)
    tokenizer = CLIPTokenizer.from_pretrained(args.image_pair / "tokenizer")
    vae = AutoencoderKL.from_pretrained(args.image_pair / "vae").to(device)
    encoders = TextEncoders(
        first_encoder(args.image_pair / "text_encoder", tokenizer),
        models.text_encoder(tokenizer, models.SECOND_WIDTH, layers=2),
    ).to(device)
    cloud, edge = models.cloud_transformer().to(device), models.edge_transformer().to(device)

    latents = encode(vae, images)
    # Of the first latents alone: the figures do not depend on how many images there are.
    shift = round(latents[:2048].mean().item(), 5)
    scaling = round(1 / latents[:2048].std().item(), 5)
    print(f"latents: shift {shift}, scaling {scaling}", flush=True)

    def tokens(texts: list[str]) -> torch.Tensor:
        padded = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        return padded.input_ids.to(device)

    # Where a lone object goes is the hardest to learn: such scenes come twice as often.
    frequency = torch.tensor([2.0 if len(scene.objects) == 1 else 1.0 for scene in scene_list])
    data = TrainingData(
        ((latents - shift) * scaling).half().to(device),
        tokens([scene.caption() for scene in scene_list]),
        tokens([""]),
        frequency.to(device),
    )
    common = {"folder": args.work, "batch": args.batch}
    train_cloud(cloud, encoders, data, steps=args.cloud_steps, peak_lr=args.cloud_lr, **common)
    train_edge(edge, cloud, encoders, data, steps=args.edge_steps, peak_lr=args.edge_lr, **common)
    if args.out:
        from diffusers import StableDiffusion3Pipeline  # the one part of diffusers that only an export needs

        from shapes_pair.export import export

        vae.register_to_config(scaling_factor=scaling, shift_factor=shift)
        first, second = (encoder.half() for encoder in encoders.encoders)
        for name, model in (("cloud", cloud), ("edge", edge)):
            scheduler, parts = models.scheduler(), (first, tokenizer, second, tokenizer, None, None)
            pipeline = StableDiffusion3Pipeline(model.half(), scheduler, vae.half(), *parts)
            export(pipeline, args.out / name, args.image_pair)


if __name__ == "__main__":
    main()
