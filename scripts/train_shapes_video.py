"""Trains the embedded video pair from nothing and writes it as two diffusers folders.

    python scripts/train_shapes_video.py --out ecdiff_core/shapes_video

Stages: autoencoder, cloud transformer with the text encoder, edge transformer (distilled), export. Every
stage keeps a checkpoint in --work, so that a stopped run goes on where it was; delete that folder to start
again. The defaults suit an accelerator.

    python scripts/train_shapes_video.py --start-from ecdiff_core/shapes_video --cloud-steps 0 --edge-lr 5e-4

takes all parts of an exported pair and trains the transformers on; --vae-steps then means nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLCogVideoX
from safetensors.torch import load_model

from ecdiff_core.models.handoff import NoiseSchedule
from ecdiff_core.shapes_video.grammar import scenes
from shapes_pair.data import SCENE_SEED, drawings
from shapes_video import models
from shapes_video.draw import draw
from shapes_video.train_transformers import AVERAGE_DECAY, TrainingData, train_cloud, train_edge
from shapes_video.train_vae import encode, reconstruction_psnr, train_vae


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, default=Path("outputs/shapes_video"), help="checkpoints live here"
    )
    parser.add_argument("--out", type=Path, help="cloud/ and edge/ go here; without it nothing is exported")
    parser.add_argument("--start-from", type=Path, help="an exported pair: a folder with cloud/ and edge/")
    parser.add_argument("--clips", type=int, default=40_000, help="number of training scenes")
    parser.add_argument("--vae-steps", type=int, default=3000)
    parser.add_argument("--cloud-steps", type=int, default=12_000)
    parser.add_argument("--edge-steps", type=int, default=6000)
    parser.add_argument("--vae-batch", type=int, default=32)
    parser.add_argument("--batch", type=int, default=256, help="of both transformers")
    parser.add_argument("--vae-lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--cloud-lr", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--edge-lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--average-decay", type=float, default=AVERAGE_DECAY, help="of the averaged weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def latents_of(vae: AutoencoderKLCogVideoX, clips: torch.Tensor, folder: Path) -> torch.Tensor:
    """Unscaled latents of the clips, half precision; encoded once."""
    path = folder / f"latents_{len(clips)}.pt"
    if not path.exists():
        part = path.with_suffix(".part")
        torch.save(encode(vae, clips), part)
        part.rename(path)
    return torch.load(path, weights_only=True, map_location=clips.device)


def scaling_factors(latents: torch.Tensor, exported: Path | None) -> tuple[float, float]:
    """The edge's, to which latents have a spread of 1, and the cloud's; those of an exported pair stay."""
    if exported:
        configs = [
            json.loads((exported / side / "vae/config.json").read_text()) for side in ("edge", "cloud")
        ]
        return configs[0]["scaling_factor"], configs[1]["scaling_factor"]
    edge = round(1 / latents.float().std().item(), 5)
    return edge, round(edge * models.CLOUD_OVER_EDGE_SCALING, 5)


def load_weights(folder: Path, **parts: torch.nn.Module) -> None:
    """Fill parts with the weights of an exported pipeline's."""
    for name, part in parts.items():
        (path,) = (folder / name).glob("*.safetensors")
        load_model(part, path)


def main() -> None:
    args = parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    device = torch.device(args.device)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True

    scene_list = list(itertools.islice(scenes(SCENE_SEED), args.clips))
    clips = torch.from_numpy(drawings(args.work / f"clips_{args.clips}.npy", scene_list, draw)[:]).to(device)
    tokenizer = models.tokenizer()
    vae, encoder = models.vae().to(device), models.text_encoder(tokenizer).to(device)
    cloud, edge = models.cloud_transformer().to(device), models.edge_transformer().to(device)

    if args.start_from:
        load_weights(args.start_from / "cloud", vae=vae, text_encoder=encoder, transformer=cloud)
        load_weights(args.start_from / "edge", transformer=edge)
    else:
        train_vae(
            vae, clips, folder=args.work, steps=args.vae_steps, batch=args.vae_batch, peak_lr=args.vae_lr
        )
    print(f"vae: {reconstruction_psnr(vae, clips[:64]):.2f} dB on training clips", flush=True)
    latents = latents_of(vae, clips, args.work)
    edge_scaling, cloud_scaling = scaling_factors(latents, args.start_from)

    def tokens(texts: list[str]) -> torch.Tensor:
        return tokenizer(texts, padding="max_length", return_tensors="pt").input_ids.to(device)

    data = TrainingData(latents, tokens([scene.caption() for scene in scene_list]), tokens([""]))
    schedulers = models.scheduler(models.CLOUD_SNR_SHIFT), models.scheduler(models.EDGE_SNR_SHIFT)
    schedules = (
        NoiseSchedule.of(schedulers[0], cloud_scaling),
        NoiseSchedule.of(schedulers[1], edge_scaling),
    )
    common = {"folder": args.work, "batch": args.batch, "average_decay": args.average_decay}
    train_cloud(cloud, encoder, schedules[0], data, steps=args.cloud_steps, peak_lr=args.cloud_lr, **common)
    train_edge(edge, cloud, encoder, schedules, data, steps=args.edge_steps, peak_lr=args.edge_lr, **common)
    if args.out:
        from diffusers import CogVideoXPipeline  # the one part of diffusers that only an export needs

        from shapes_pair.export import export

        for name, scaling, scheduler, model in (
            ("cloud", cloud_scaling, schedulers[0], cloud),
            ("edge", edge_scaling, schedulers[1], edge),
        ):
            vae.register_to_config(scaling_factor=scaling)
            parts = (tokenizer, encoder.half(), vae.half(), model.half(), scheduler)
            export(CogVideoXPipeline(*parts), args.out / name)


if __name__ == "__main__":
    main()
