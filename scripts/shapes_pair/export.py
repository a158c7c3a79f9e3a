"""Writes a trained pipeline as a diffusers folder, in half precision."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from diffusers import DiffusionPipeline


def export(pipeline: DiffusionPipeline, folder: Path, tokenizers_from: Path | None = None) -> None:
    """Put a pipeline of half-precision parts in place of ``folder``.

    Args:
        tokenizers_from: an exported pipeline whose tokenizer this one has: one that was loaded would be saved
            with what it was loaded with.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    pipeline.save_pretrained(part)
    if tokenizers_from:
        for tokenizer in part.glob("tokenizer*"):
            shutil.copytree(tokenizers_from / "tokenizer", tokenizer, dirs_exist_ok=True)
    for config in part.glob("*/config.json"):  # where a part was loaded from is nothing to keep
        known = json.loads(config.read_text())
        known.pop("_name_or_path", None)
        config.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
    # transformers loads in the dtype that the config names, diffusers in float32: name float32 in both.
    for config in part.glob("text_encoder*/config.json"):
        config.write_text(config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    print(f"wrote {folder}", flush=True)
